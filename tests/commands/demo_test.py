"""The demo of the README, as a user runs it."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from sam_jax.sweeps import cells as cells_lib, execution
from scripts import demo
from tests.sweeps import made_up

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _run(script, *arguments):
  # One device, and programs as fast as a user's.
  without = ('XLA_FLAGS', 'JAX_DISABLE_MOST_OPTIMIZATIONS')
  environment = {k: v for k, v in os.environ.items() if k not in without}
  return subprocess.run(
    [sys.executable, f'scripts/{script}', *map(str, arguments)],
    cwd=_ROOT,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )


def test_runs_and_picture_go_where_the_user_says(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')

  def execute(cells, directory, place, retry):
    del place, retry
    for cell in cells:
      made_up.write_run(directory, cells_lib.cell_name(cell), [0.5, 0.25])
    return 0

  monkeypatch.setattr(execution, 'execute', execute)
  demo.flags.values(['demo', '--directory=~/here', '--seeds=2'])
  assert demo.main(['demo']) == 0
  assert (tmp_path / 'here' / 'test_error.png').exists()


@pytest.mark.slow
def test_the_demo_prints_and_draws_its_comparison(tmp_path):
  done = _run('demo.py', '--seeds=2', '--epochs=2', f'--directory={tmp_path}')
  assert done.returncode == 0, done.stderr
  rows = dict(
    re.findall(r'^(S\S+(?:, 2x epochs)?) +([\d.]+) \+-', done.stdout, re.M)
  )
  accuracy = {name: float(value) for name, value in rows.items()}
  assert list(accuracy) == ['SGD', 'SGD, 2x epochs', 'SAM']
  assert accuracy['SGD, 2x epochs'] > accuracy['SGD'] > 10  # chance is 10 %
  picture = pathlib.Path(done.stdout.strip().splitlines()[-1])
  assert picture.read_bytes().startswith(b'\x89PNG')
