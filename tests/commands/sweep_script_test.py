"""scripts/sweep.py: every cell once, whatever happens."""

import os
import pathlib
import random
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import tiny

from sam_jax.sweeps import cells as cells_lib

# Needs no files; for the others see paper_sweeps_test.py.
_DIGITS = tiny.ROOT / 'configs' / 'sweeps' / 'digits_noise.py'


def _sweep_file(directory, *axes, **fields):
  """Writes a sweep over a tiny config; returns its path and its cells."""
  config = tiny.config_file(directory, **fields)
  axes = [{'config': [str(config)]}, *axes]
  path = directory / 'sweep_file.py'
  path.write_text(
    'from sam_jax import sweeps\n'
    'from sam_jax.sweeps import Like\n'
    f'def get_sweep():\n  return sweeps.Sweep(sweeps.product(*{axes!r}))\n'
  )
  return path, cells_lib.product(*axes)


def _arguments(path, workdir, *rest):
  return [
    sys.executable,
    'scripts/sweep.py',
    f'--sweep={path}',
    f'--workdir={workdir}',
    *rest,
  ]


def _claims(runs):
  """What is in the files of claims: null of those that are given back."""
  return {path.read_text() for path in (runs / 'claims').iterdir()}


def _environment():
  return {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}


def _run(path, workdir, *rest):
  return subprocess.run(
    _arguments(path, workdir, *rest),
    cwd=tiny.ROOT,
    env=_environment(),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


def _starts(workdir, cell):
  """How often a cell was started."""
  log = workdir / 'logs' / f'{cells_lib.cell_name(cell)}.log'
  return log.read_text().count('steps of which')


def test_a_failing_cell_does_not_stop_the_rest(tmp_path):
  path, cells = _sweep_file(
    tmp_path, {'method.rho': [0.1, -1.0], 'seed': [0, 1]}, num_steps=2
  )
  runs = tmp_path / 'runs'
  done = _run(path, runs, '--workers=2')
  assert done.returncode == 1, done.stderr
  assert '2 of 4 cells are finished' in done.stdout
  for cell in cells:
    is_good = cell['method.rho'] > 0
    assert (
      cells_lib.result(runs / cells_lib.cell_name(cell)) is not None
    ) == is_good
  failures = re.findall(r'^failed: (.*?): .*rho is -1', done.stdout, re.M)
  assert sorted(failures) == [cells_lib.cell_name(c) for c in cells[2:]]
  # Progress: which of how many, and the time that is left.
  assert re.search(
    r'^\[2/4, \d+:\d\d:\d\d left\] test error', done.stdout, re.M
  )
  # Nothing is run twice, but what failed if that is asked for.
  again = _run(path, runs)
  assert again.returncode == 1
  assert '2 of 4 cells are finished' in again.stdout
  assert [_starts(runs, cell) for cell in cells[:2]] == [1, 1]
  log = runs / 'logs' / f'{cells_lib.cell_name(cells[2])}.log'
  assert log.read_text().count('rho is -1') == 1
  assert _run(path, runs, '--retry').returncode == 1
  assert log.read_text().count('rho is -1') == 2
  assert _claims(runs) == {'null'}


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_loses_nothing(tmp_path):
  fields = {
    'num_steps': 60,
    'data.train_size': 480,
    'checkpoint.every_steps': 5,
  }
  path, cells = _sweep_file(tmp_path, {'seed': [0, 1, 2]}, **fields)
  runs, rng = tmp_path / 'runs', random.Random(0)
  for _ in range(3):
    sweep = subprocess.Popen(
      _arguments(path, runs, '--workers=2'),
      cwd=tiny.ROOT,
      env=_environment(),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    time.sleep(rng.uniform(2, 8))
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
  done = _run(path, runs, '--workers=2')
  assert done.returncode == 0, done.stdout + done.stderr
  assert '3 of 3 cells are finished' in done.stdout
  whole = tmp_path / 'whole'
  assert _run(path, whole).returncode == 0
  for cell in cells:
    name = cells_lib.cell_name(cell)
    tiny.assert_same_run(runs / name, whole / name)


@pytest.mark.slow
def test_a_signal_lets_cells_save_and_go_on(tmp_path):
  fields = {
    'num_steps': 3000,
    'data.train_size': 480,
    'checkpoint.every_steps': 2999,
    'schedule.name': 'constant',
  }
  path, [cell] = _sweep_file(tmp_path, {'seed': [0]}, **fields)
  runs = tmp_path / 'runs'
  sweep = subprocess.Popen(
    _arguments(path, runs), cwd=tiny.ROOT, env=_environment()
  )
  metrics = runs / cells_lib.cell_name(cell) / 'metrics.jsonl'
  deadline = time.monotonic() + 240
  while not (metrics.exists() and metrics.stat().st_size):
    assert time.monotonic() < deadline
    time.sleep(0.1)
  sweep.send_signal(signal.SIGTERM)
  assert sweep.wait(240) == 128 + signal.SIGTERM
  assert tiny.steps(metrics.parent)
  assert _claims(runs) == {'null'}


@pytest.mark.slow
def test_two_sweeps_share_a_directory(tmp_path):
  path, cells = _sweep_file(
    tmp_path, {'seed': list(range(6))}, num_steps=20, **{'data.train_size': 320}
  )
  runs = tmp_path / 'runs'
  both = [
    subprocess.Popen(
      _arguments(path, runs),
      cwd=tiny.ROOT,
      env=_environment(),
      stdout=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  outputs = [sweep.communicate(timeout=300)[0] for sweep in both]
  # Each did some; together all, and none twice.
  counts = [output.count('] test error') for output in outputs]
  assert min(counts) >= 1
  assert sum(counts) == 6
  assert [_starts(runs, cell) for cell in cells] == [1] * 6


def _execute(script, directory, task):
  """What a task of a Slurm script runs: the arguments of each `python`."""
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


def test_commands_are_those_of_the_cells(tmp_path):
  path, cells = _sweep_file(tmp_path, {'seed': [0, 1]}, num_steps=1)
  runs = tmp_path / 'runs'
  expected = [cells_lib.arguments(cell, runs) for cell in cells]
  shell = _run(path, runs, '--emit=shell').stdout.splitlines()
  assert [shlex.split(line)[3:] for line in shell[1:]] == expected
  pod = _run(path, runs, '--emit=tpu').stdout.splitlines()
  assert [shlex.split(line)[3:-1] for line in pod[1:]] == expected
  assert all(line.endswith(' --coordinator=auto') for line in pod[1:])
  script = _run(path, runs, '--emit=slurm').stdout
  assert '--array=0-1' in script
  [command] = _execute(script, tmp_path, 1)
  assert command.split() == ['-m', 'sam_jax.train', *expected[1]]
  assert not runs.exists()


# Of each seed, a run and one that takes its labels, the latter listed first.
_CHAINED = [
  {'seed': [0, 1]},
  [{'labels_from': cells_lib.Like({})}, {}],
]


def test_commands_come_behind_those_that_they_need(tmp_path):
  path, _ = _sweep_file(tmp_path, *_CHAINED, num_steps=1)
  runs = tmp_path / 'runs'
  plain = 'tiny_config.py,seed={}'
  names = [plain.format(0), plain.format(1)]
  names += [f'{name},labels_from=same' for name in names]
  shell = _run(path, runs, '--emit=shell').stdout.splitlines()[1:]
  order = [re.search(r'--workdir=\S*/(\S+)', line)[1] for line in shell]
  assert sorted(order) == sorted(names)
  for seed in (0, 1):
    assert order.index(names[seed]) < order.index(names[seed + 2])
  script = _run(path, runs, '--emit=slurm').stdout
  assert '--array=0-1' in script
  first, second = _execute(script, tmp_path, 1)
  assert first.endswith(f'--workdir={runs}/{names[1]}')
  assert f'--config.labels_from={runs}/{names[1]} ' in second


def test_a_cell_waits_for_the_one_that_it_needs(tmp_path):
  fields = {'num_epochs': 1, 'data.label_noise': 0.5}
  path, _ = _sweep_file(
    tmp_path,
    [{}, {'learning_rate': -1.0}],
    [{'labels_from': cells_lib.Like({})}, {}],
    **fields,
  )
  runs = tmp_path / 'runs'
  done = _run(path, runs, '--workers=2')
  assert done.returncode == 1, done.stderr
  assert '2 of 4 cells are finished' in done.stdout
  log = (runs / 'logs' / 'tiny_config.py,labels_from=same.log').read_text()
  assert f'labels from {runs}/tiny_config.py, step 5: ' in log
  name = 'tiny_config.py,learning_rate=-1.0'
  assert re.search(
    f'^failed: {name},labels_from=same: needs {name}, which is not finished$',
    done.stdout,
    re.M,
  )


def test_a_field_is_set_for_all_cells(tmp_path):
  path, _ = _sweep_file(tmp_path, {'seed': [0, 1]}, num_steps=1)
  runs = tmp_path / 'runs'
  options = ('--set=data.directory=/data', '--set=learning_rate=0.5')
  shell = _run(path, runs, '--emit=shell', *options).stdout.splitlines()[1:]
  assert len(shell) == 2
  for line in shell:
    assert '--config.data.directory=/data --config.learning_rate=0.5' in line
    # Where the data are makes no other run.
    assert re.search(r'/tiny_config.py,seed=[01],learning_rate=0.5$', line)
  relative = _run(path, runs, '--emit=shell', '--set=data.directory=some/data')
  assert f'--config.data.directory={tiny.ROOT}/some/data ' in relative.stdout
  done = _run(path, runs, '--set=learning_rate')
  assert done.returncode == 2
  assert done.stderr == 'sweep: --set=learning_rate is no FIELD=VALUE\n'


def test_a_dry_run_tells_the_cost_and_writes_nothing(tmp_path):
  path, _ = _sweep_file(
    tmp_path,
    [{'method.name': 'sgd'}, {'method.name': 'sam'}, {'data.name': 'nowhere'}],
    num_steps=7,
    **{'m': 16, 'microbatch_size': 16},
  )
  runs = tmp_path / 'runs'
  done = _run(path, runs, '--dry_run')
  assert done.returncode == 0, done.stderr
  rows = [line.split() for line in done.stdout.splitlines()[1:]]
  assert [row[0] for row in rows[:2]] == ['7', '14']
  assert "unknown data set 'nowhere'" in done.stdout
  assert 'left to do: 21 gradient evaluations' in done.stdout
  assert not runs.exists()


def test_a_dry_run_counts_what_the_cost_depends_on(tmp_path):
  """A rho of 0 is one pass; the validation split is not trained on."""
  path, cells = _sweep_file(
    tmp_path,
    {'method.rho': [0.0, 0.1], 'data.split': ['test', 'validation']},
    {'seed': [0, 1]},
    num_epochs=1,
    num_steps=None,
    **{'m': 16, 'microbatch_size': 16},
  )
  done = _run(path, tmp_path / 'runs', '--dry_run', '--time_steps=0')
  assert done.returncode == 0, done.stderr
  rows = [line.split()[0] for line in done.stdout.splitlines()[1:-1]]
  # 80 examples, of which 8 are for validation; batches of 16.
  expected = {(0.0, 'test'): '5', (0.0, 'validation'): '4'}
  expected |= {(0.1, 'test'): '10', (0.1, 'validation'): '8'}
  assert rows == [
    expected[cell['method.rho'], cell['data.split']] for cell in cells
  ]
  assert 'left to do: 54 gradient evaluations' in done.stdout


def test_a_field_that_makes_two_cells_one_is_refused(tmp_path):
  path, _ = _sweep_file(tmp_path, {'seed': [0, 1]})
  done = _run(path, tmp_path / 'runs', '--emit=shell', '--set=seed=3')
  assert done.returncode == 2
  assert 'seed=3 is there twice' in done.stderr


def test_a_smoke_run_takes_one_replica_of_each_cell(tmp_path):
  path, _ = _sweep_file(tmp_path, {'method.rho': [0.1, 0.2], 'seed': [4, 5]})
  done = _run(path, tmp_path / 'runs', '--emit=shell', '--scale=smoke')
  lines = done.stdout.splitlines()[1:]
  assert len(lines) == 2
  assert all('seed=4' in line and 'num_steps=3' in line for line in lines)
  # Of 16/4/2, four groups of two microbatches, two are left.
  assert all('batch_size=8' in line and 'm=4' in line for line in lines)


def test_only_the_cells_that_a_pattern_finds_are_taken(tmp_path):
  path, cells = _sweep_file(
    tmp_path, {'method.rho': [0.1, 0.2], 'seed': [4, 5]}
  )
  runs = tmp_path / 'runs'
  done = _run(path, runs, '--emit=shell', r'--only=rho=0\.2.*seed=[5-9]')
  [line] = done.stdout.splitlines()[1:]
  assert shlex.split(line)[3:] == cells_lib.arguments(cells[3], runs)
  none = _run(path, runs, '--dry_run', '--only=rho=0.3')
  assert none.returncode == 2
  assert 'is found in none of 4 cells' in none.stderr


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, 'is no Python file'),
    ('x = ', 'SyntaxError'),
    ('def get_sweep():\n  return 1 / 0', 'ZeroDivisionError'),
    (
      'from sam_jax import sweeps\n'
      'def get_sweep():\n  return sweeps.Sweep([])\n',
      'no cells',
    ),
  ],
)
def test_a_bad_sweep_file_is_one_line(tmp_path, content, message):
  path = tmp_path / 'bad.py'
  if content is not None:
    path.write_text(content)
  done = _run(path, tmp_path / 'runs')
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.count('\n') == 1
  assert not (tmp_path / 'runs').exists()


def test_every_cell_of_a_shipped_sweep_is_dry_run(tmp_path):
  done = _run(_DIGITS, tmp_path / 'runs', '--dry_run', '--time_steps=0')
  assert done.returncode == 0, done.stderr
  assert '?' not in done.stdout
  assert re.search(r'^[1-9]\d* cells; left to do: [1-9]', done.stdout, re.M)


@pytest.mark.slow
def test_a_cell_of_a_shipped_sweep_takes_a_few_steps(tmp_path):
  shell = _run(_DIGITS, tmp_path, '--emit=shell', '--scale=smoke').stdout
  command = shlex.split(shell.splitlines()[1])
  done = subprocess.run(
    [sys.executable, *command[1:]],
    cwd=tiny.ROOT,
    env=_environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  [workdir] = [p for p in pathlib.Path(tmp_path).iterdir() if p.is_dir()]
  assert cells_lib.result(workdir)['steps'] == 3
