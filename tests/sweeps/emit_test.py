"""The commands of a sweep: those of its cells, in an order that works."""

import json
import os
import shlex
import subprocess

import pytest

from sam_jax.sweeps import cells as cells_lib, emit
from tests.sweeps import made_up

_PLAIN = [{'config': '/some where/c.py:x', 'seed': seed} for seed in (0, 1)]
# For each seed, a run and one that takes its labels, the latter listed first.
_CHAINED = cells_lib.product(
  {'config': ['c.py'], 'seed': [0, 1]},
  [{'labels_from': cells_lib.Like({})}, {}],
)


def _execute(script, directory, task):
  """Returns the arguments of each `python` that a Slurm job runs."""
  stub = directory / 'python'
  stub.write_text('#!/bin/sh\nprintf "%s\\n" "$*"\n')
  stub.chmod(0o755)
  return subprocess.run(
    ['bash', '-c', script],
    env={
      'PATH': f'{directory}:{os.environ["PATH"]}',
      'SLURM_ARRAY_TASK_ID': str(task),
    },
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()


@pytest.mark.parametrize('style', emit.FORMATS)
def test_commands_are_those_of_the_cells(tmp_path, style):
  expected = [cells_lib.command(cell, tmp_path) for cell in _PLAIN]
  text = emit.emit(_PLAIN, tmp_path, style, 'noise')
  if style == 'slurm':
    assert '--array=0-1' in text and '--job-name=noise' in text
    [command] = _execute(text, tmp_path, 1)
    assert command == ' '.join(expected[1])
    return
  here, *lines = text.splitlines()
  assert shlex.split(here) == ['cd', os.getcwd()]
  extra = ['--coordinator=auto'] if style == 'tpu' else []
  for line, arguments in zip(lines, expected, strict=True):
    assert shlex.split(line) == ['python', *arguments, *extra]


def test_commands_come_behind_those_that_they_need(tmp_path):
  names = [cells_lib.cell_name(cell) for cell in _CHAINED]
  lines = emit.emit(_CHAINED, tmp_path, 'shell', '').splitlines()[1:]
  order = [shlex.split(line)[-1].rpartition('/')[2] for line in lines]
  assert sorted(order) == sorted(names)
  assert order.index(names[1]) < order.index(names[0])
  assert order.index(names[3]) < order.index(names[2])
  script = emit.emit(_CHAINED, tmp_path, 'slurm', '')
  assert '--array=0-1' in script
  first, second = _execute(script, tmp_path, 1)
  assert first.endswith(f'--workdir={tmp_path}/{names[3]}')
  assert f'--config.labels_from={tmp_path}/{names[3]} ' in second


def test_finished_cells_are_left_out(tmp_path):
  for cell in _PLAIN:
    path = cells_lib.workdir(cell, tmp_path)
    path.mkdir()
    (path / 'result.json').write_text(json.dumps(made_up.RESULT))
    lines = emit.emit(_PLAIN, tmp_path, 'shell', '').splitlines()
    assert str(path) not in ''.join(lines)
  assert lines == ['# all cells are finished']
