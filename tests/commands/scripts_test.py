"""The scripts of the README, run as a user runs them."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from matplotlib import pyplot as plt

from sam_jax import datasets
from sam_jax.runs import experiment as experiment_lib
from sam_jax.training import train_step
from tests import pictures, tiny

_ROOT = pathlib.Path(__file__).resolve().parents[2]


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
def test_the_example_finds_sam_s_minimum_flatter(tmp_path):
  done = _run('examples/flat_minima.py', f'--directory={tmp_path}')
  assert done.returncode == 0, done.stderr
  header, _, *rows = (
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in done.stdout.splitlines()
    if line.startswith('|')
  )
  table = {
    row[0]: dict(zip(header[1:], map(float, row[1:]), strict=True))
    for row in rows
  }
  assert set(table) == {'SGD', 'SAM'}
  # By the README's table a sixth and less; of the last, .73.
  for name in ('lambda_max', 'trace', 'test error, %'):
    assert 0 < 3 * table['SAM'][name] < table['SGD'][name]
  assert 0 < table['SAM']['25-sharpness'] < table['SGD']['25-sharpness']
  pictures_made = sorted(path.name for path in tmp_path.rglob('*.png'))
  assert pictures_made == ['hessian.png', 'landscape.png', 'sharpness.png']
  for path in tmp_path.rglob('*.png'):
    assert plt.imread(path).std() > 0.01


@pytest.mark.slow
def test_the_analysis_benchmark_compares_a_product_with_a_gradient(tmp_path):
  path = tmp_path / 'out.json'
  done = _run(
    'benchmark_analysis.py',
    '--model=cnn',
    '--image_size=8',
    '--microbatch_size=8',
    '--rounds=2',
    f'--json={path}',
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(path.read_text())
  assert found['ratio_min'] <= found['ratio'] <= found['ratio_max']
  assert 0 < found['gradient_ms'] and 0 < found['product_ms']
  assert found['examples'] == 16
  assert f'{found["ratio"]:.2f} gradients' in done.stdout


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
  rows = {
    row['method.name']: row for row in json.loads(path.read_text())['methods']
  }
  assert set(rows) == {'sgd', 'sam'}
  assert rows['sgd']['ratio']['median'] == 1
  # The compiler counts two gradients where SGD has one.
  assert 1.8 < rows['sam']['flops'] / rows['sgd']['flops'] < 2.2
  assert re.search(r'^sam +[\d.]+ +[\d.]+', done.stdout, re.M)


def test_the_compilation_benchmark_measures_each_model(tmp_path):
  path = tmp_path / 'out.json'
  done = _run(
    'benchmark_compile.py',
    '--models=cnn,CifarResnet8',
    '--image_size=8',
    f'--json={path}',
  )
  assert done.returncode == 0, done.stderr
  rows = json.loads(path.read_text())['models']
  assert [row['model'] for row in rows] == ['cnn', 'CifarResnet8']
  for row in rows:
    parts = [row[f'{name}, s'] for name in ('trace', 'lower', 'compile')]
    assert min(parts) > 0
    assert row['total, s'] == pytest.approx(sum(parts))
    assert row['program, lines'] > 100
    assert re.search(
      f'^{row["model"]} +{row["parameters"]:,} ', done.stdout, re.M
    )
  # 6n + 2 layers with n = 1: 3x3 kernels, scales and shifts of BatchNorm, the
  # classifier.
  channels = [(3, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 64)]
  channels += [(64, 64)]
  kernels = sum(9 * a * b + 2 * b for a, b in channels)
  assert rows[1]['parameters'] == kernels + 64 * 10 + 10


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
    assert 0 < row['waiting'] < 1


# Runs a script with a decoder that takes 20 ms of an image.
_SLOW = """
import sys
import time
from absl import app
sys.path.insert(0, 'scripts')
import benchmark_input as script
crop = script.decoding.random_crop
def slow(*args):
  time.sleep(0.02)
  return crop(*args)
script.decoding.random_crop = slow
app.run(script.main)
"""


@pytest.mark.slow
def test_the_input_benchmark_sees_that_decoding_is_slow(tmp_path):
  pictures.folder(tmp_path / 'data', {'train': 8, 'test': 1})
  fields = {
    'data.name': 'image_folder',
    'data.directory': str(tmp_path / 'data'),
    'data.train_size': None,
    'data.image_size': 8,
    'augmentation.padding': 0,
  }
  config, path = tiny.config_file(tmp_path, **fields), tmp_path / 'out.json'
  done = subprocess.run(
    [
      *(sys.executable, '-c', _SLOW, f'--config={config}', '--recipes=none'),
      *('--rounds=1', '--steps=2', f'--json={path}'),
    ],
    cwd=_ROOT,
    env=tiny.environment(1),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  content = json.loads(path.read_text())
  [row] = content['recipes']
  # Each thread makes 50 a second, and what was made before does not count.
  possible = 50 * min(os.cpu_count(), 16)
  assert row['host, images/s'] < 1.1 * possible
  # A step takes a few milliseconds, a batch of 16 at least 20.
  assert 0.2 < row['waiting'] < 1
  decoded = content['decoding']
  assert decoded['training crop, ms on one core'] > 20
  assert decoded['training crop / decoding alone'] > 2
  assert decoded['evaluation crop, ms on one core'] < 20
  assert decoded['by threads, images/s'] < 1.1 * possible
  for count in {1, os.cpu_count()}:
    # A process imports the decoder anew, and is not slow.
    assert decoded[f'by {count} processes, images/s'] > 0


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


# Runs a script and keeps what it would draw, and what rows it asked for.
_SEEN = """
import sys
import numpy as np
from absl import app
sys.path.insert(0, 'scripts')
import show_augmentations as script
ask, out = script.datasets.train_batches, sys.argv.pop()
shards = []
def note(*args, **kwargs):
  shards.append(kwargs['shard'])
  return ask(*args, **kwargs)
def keep(columns):
  images, labels = (list(x) for x in zip(*columns[1:], strict=True))
  np.savez(out, image=images, label=labels, shard=shards)
script.datasets.train_batches, script._draw = note, keep
app.run(script.main)
"""


# What is drawn is what a group of the run sees, though less is augmented.
@pytest.mark.slow
def test_the_augmentations_are_those_of_the_run(tmp_path, monkeypatch):
  tiny.use_devices(monkeypatch, 1)
  fields = {
    'augmentation.name': 'autoaugment',
    'augmentation.padding': 1,
    'augmentation.cutout_length': 2,
    'mixing.name': 'mixup',
    'batch_size': 24,
    'm': 12,
    'microbatch_size': 4,
    'num_steps': 9,
  }
  out = tmp_path / 'seen.npz'
  done = subprocess.run(
    [
      *(sys.executable, '-c', _SEEN),
      f'--config={tiny.config_file(tmp_path, **fields)}',
      *('--rows=6', '--columns=2', '--step=3', '--out=none', str(out)),
    ],
    cwd=_ROOT,
    env=tiny.environment(1),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  config = tiny.config(**fields)
  experiment = experiment_lib.build(config)
  batch = next(
    datasets.train_batches(
      experiment.dataset.train, 24, seed=config.seed, start_step=3
    )
  )
  group = {name: array[:12] for name, array in batch.items()}
  see = jax.jit(functools.partial(train_step.inputs, fns=experiment.fns))
  dataset, seen = experiment.dataset, np.load(out)
  for i, step in enumerate((3, 4)):
    inputs = jax.device_get(see(group, step))
    images = inputs['image'].reshape(12, *batch['image'].shape[1:])[:6]
    pixels = np.clip(images * dataset.std + dataset.mean, 0, 1)
    np.testing.assert_allclose(seen['image'][i], pixels, atol=1e-6)
    labels = inputs['label'].reshape(12, -1)[:6]
    np.testing.assert_allclose(seen['label'][i], labels, atol=1e-6)
  assert (seen['image'][0] != seen['image'][1]).any()
  assert seen['shard'].tolist() == [[0, 8]]


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
