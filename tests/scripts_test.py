"""The scripts of the README, run as a user runs them."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from matplotlib import pyplot as plt

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def _run(script, *arguments):
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return subprocess.run(
    [sys.executable, f'scripts/{script}', *map(str, arguments)],
    cwd=_ROOT,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.slow
def test_the_demo_shows_sam_ahead_of_sgd_under_label_noise(tmp_path):
  done = _run('demo.py', '--seeds=2', f'--directory={tmp_path}')
  assert done.returncode == 0, done.stderr
  rows = dict(
    re.findall(r'^(S\S+(?:, 2x epochs)?) +([\d.]+) \+-', done.stdout, re.M)
  )
  accuracy = {name: float(value) for name, value in rows.items()}
  assert accuracy['SAM'] > accuracy['SGD'] + 20
  assert accuracy['SAM'] > accuracy['SGD, 2x epochs'] + 20
  picture = pathlib.Path(done.stdout.strip().splitlines()[-1])
  assert picture.read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_the_benchmark_compares_the_methods_in_its_table_and_file(tmp_path):
  path = tmp_path / 'out.json'
  done = _run(
    'benchmark_step.py',
    '--model=cnn',
    '--batch_size=16',
    '--image_size=8',
    '--rounds=2',
    '--steps=1',
    f'--json={path}',
  )
  assert done.returncode == 0, done.stderr
  rows = {row['method']: row for row in json.loads(path.read_text())['methods']}
  assert set(rows) == {'sgd', 'sam'}
  assert rows['sgd']['ratio']['median'] == 1
  # The compiler counts two gradients where SGD has one.
  assert 1.8 < rows['sam']['flops'] / rows['sgd']['flops'] < 2.2
  assert re.search(r'^sam +[\d.]+ +[\d.]+', done.stdout, re.M)


@pytest.mark.slow
def test_an_unknown_model_is_one_line():
  done = _run('benchmark_step.py', '--model=WideResnet28')
  assert done.returncode == 2
  assert re.fullmatch(r'benchmark_step: unknown model .*\n', done.stderr)


@pytest.mark.slow
def test_the_input_benchmark_measures_each_recipe(tmp_path):
  path = tmp_path / 'out.json'
  done = _run(
    'benchmark_input.py',
    '--config=configs/digits.py',
    '--config.augmentation.padding=1',
    '--recipes=none,autoaugment+cutout+mixup',
    '--rounds=1',
    '--steps=1',
    f'--json={path}',
  )
  assert done.returncode == 0, done.stderr
  rows = json.loads(path.read_text())['recipes']
  assert [r['recipe'] for r in rows] == ['none', 'autoaugment+cutout+mixup']
  for row in rows:
    assert row['host, images/s'] > row['step, images/s'] > 0
    assert row['device/step'] < 1


def test_an_unknown_recipe_is_one_line():
  done = _run('benchmark_input.py', '--recipes=basic+cutut')
  assert done.returncode == 2
  assert re.fullmatch(
    r"benchmark_input: recipe 'basic\+cutut' has 'cutut'; known: .*\n",
    done.stderr,
  )


def test_the_augmentations_are_drawn(tmp_path):
  picture = tmp_path / 'grid.png'
  done = _run(
    'show_augmentations.py',
    '--config=configs/digits.py',
    '--config.augmentation.name=aa-only',
    '--config.mixing.name=mixup',
    '--rows=2',
    '--columns=3',
    f'--out={picture}',
  )
  assert done.returncode == 0, done.stderr
  assert re.search(
    '2 examples of digits, stored and in steps 0 to 2', done.stdout
  )
  height, width, _ = plt.imread(picture).shape
  assert width > 1.4 * height  # two rows of four


def test_augmentations_of_an_unknown_recipe_are_not_drawn(tmp_path):
  picture = tmp_path / 'grid.png'
  done = _run(
    'show_augmentations.py',
    '--config=configs/digits.py',
    '--config.augmentation.name=autoagument',
    f'--out={picture}',
  )
  assert done.returncode == 2
  assert re.fullmatch(
    r"show_augmentations: unknown augmentation 'autoagument'.*\n", done.stderr
  )
  assert not picture.exists()
