"""The demo and the example of the README, as a user runs them."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from matplotlib import pyplot as plt

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
