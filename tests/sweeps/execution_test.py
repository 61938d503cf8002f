"""What a sweep makes of cells that end in one way or another.

The cells run in a place of the tests, or are programs of a line or two in the
pool's processes.
"""

import errno
import json
import os
import pathlib
import signal

import pytest

from sam_jax import configs, tasks
from sam_jax.runs import lock, workdir
from sam_jax.sweeps import (
  cells as cells_lib,
  check,
  child,
  execution,
  failures,
  pool,
  run_files,
)
from tests import tiny
from tests.sweeps import made_up

_CELL = {'config': 'c.py', 'seed': 0}


class _Place:
  """Runs cells in the order in which they are started, one after the other."""

  def __init__(self, directory, room=1, fails=(), on_end=lambda: None):
    self.directory, self.room = directory, room
    self.fails, self.on_end = fails, on_end
    self.started, self.running, self.stopped = [], [], False

  def has_room(self):
    return len(self.running) < self.room

  def start(self, cell):
    assert self.has_room()
    self.started.append(cells_lib.cell_name(cell))
    self.running.append(cell)

  def ended(self):
    if not self.running:
      return []
    cell = self.running.pop(0)
    name = cells_lib.cell_name(cell)
    if self.stopped:
      return [(cell, child.End(None, 'was stopped by a signal', False))]
    self.on_end()
    if name in self.fails:
      return [(cell, child.End(None, 'no luck'))]
    path = self.directory / name
    path.mkdir(exist_ok=True)
    (path / 'result.json').write_text(json.dumps(made_up.RESULT))
    return [(cell, child.End(made_up.RESULT))]

  def stop(self):
    self.stopped = True


def _execute(cells, directory, retry=False, **kwargs):
  """Runs cells in such a place; returns the status and the place."""
  place = _Place(directory, **kwargs)
  return execution.execute(cells, directory, place, retry=retry), place


def test_each_cell_is_run_once_and_its_score_is_shown(tmp_path, capsys):
  cells = [_CELL | {'seed': seed} for seed in range(3)]
  names = list(map(cells_lib.cell_name, cells))
  status, place = _execute(cells[:2], tmp_path)
  assert (status, place.started) == (0, names[:2])
  out = capsys.readouterr().out
  score = tasks.Score(**made_up.RESULT['score']).text(0.125)
  assert f'test loss {score} in 3 s: {names[1]}\n' in out
  assert '[1/2, 0:00:00 left] ' in out
  # What is finished is left alone.
  status, place = _execute(cells, tmp_path, room=2)
  assert (status, place.started) == (0, names[2:])


def test_a_failure_is_listed_and_run_again_if_that_is_asked_for(
  tmp_path, capsys
):
  cells = [_CELL | {'seed': seed} for seed in range(3)]
  names = list(map(cells_lib.cell_name, cells))
  status, place = _execute(cells, tmp_path, fails=names[1:2])
  assert (status, place.started) == (1, names)
  out = capsys.readouterr().out
  assert '2 of 3 cells are finished' in out
  assert out.splitlines()[-2] == f'failed: {names[1]}: no luck'
  assert '--retry' in out.splitlines()[-1]
  status, place = _execute(cells, tmp_path)
  assert (status, place.started) == (1, [])
  assert 'no luck' in capsys.readouterr().out
  status, place = _execute(cells, tmp_path, retry=True)
  assert (status, place.started) == (0, names[1:2])


def test_a_failed_cell_runs_again_once_its_settings_have_changed(
  tmp_path, capsys
):
  path = tiny.config_file(tmp_path)
  cell = {'config': str(path), 'seed': 0}
  name = cells_lib.cell_name(cell)
  assert _execute([cell], tmp_path, fails=[name])[1].started == [name]
  assert _execute([cell], tmp_path)[1].started == []
  # As --set does, which leaves the name as it is; and a config file's editor.
  moved = cell | {'data.directory': '/elsewhere'}
  assert cells_lib.cell_name(moved) == name
  assert _execute([moved], tmp_path, fails=[name])[1].started == [name]
  assert "data.directory is '/elsewhere', was None" in capsys.readouterr().out
  assert _execute([moved], tmp_path)[1].started == []
  tiny.config_file(tmp_path, learning_rate=0.5)
  assert _execute([moved], tmp_path)[1].started == [name]
  assert 'learning_rate is 0.5, was 0.1' in capsys.readouterr().out


@pytest.mark.parametrize('content', ['', '{"reason": "no', '[]', '{"a": 1}'])
def test_what_cannot_be_read_of_a_failure_counts_for_nothing(tmp_path, content):
  path = failures.path(_CELL, tmp_path)
  path.parent.mkdir()
  path.write_text(content)
  assert _execute([_CELL], tmp_path)[0] == 0
  assert not path.exists()


def test_nothing_starts_if_a_cell_cannot_be_run(tmp_path):
  cells = [_CELL | {'seed': seed} for seed in range(3)]
  _execute(cells[:1], tmp_path)
  before = tiny.tree(tmp_path)
  place, asked = _Place(tmp_path), []

  def check_cells(left):
    asked.extend(left)
    return ['first', 'second']

  place.check = check_cells
  with pytest.raises(check.Refused) as refusal:
    execution.execute(cells, tmp_path, place, check=True)
  assert refusal.value.problems == ['first', 'second']
  assert asked == cells[1:]  # what is finished is left alone
  assert (place.started, tiny.tree(tmp_path)) == ([], before)
  asked.clear()
  assert execution.execute(cells[:1], tmp_path, place, check=True) == 0
  assert asked == []


def test_a_disk_that_does_not_answer_leaves_a_cell_alone(
  tmp_path, capsys, monkeypatch
):
  """Whether it is finished is not known; the others run."""
  cells = [_CELL | {'seed': seed} for seed in (0, 1)]
  _execute(cells[:1], tmp_path)
  original, bad = run_files.read_result, cells_lib.workdir(cells[0], tmp_path)

  def read_result(workdir, **options):
    if workdir == bad:
      raise OSError(errno.ESTALE, 'Stale file handle', str(workdir))
    return original(workdir, **options)

  with monkeypatch.context() as patch:
    patch.setattr(run_files, 'read_result', read_result)
    status, place = _execute(cells, tmp_path)
  name = cells_lib.cell_name(cells[0])
  assert (status, place.started) == (1, [cells_lib.cell_name(cells[1])])
  out = capsys.readouterr().out
  assert f'not finished: {name}: [Errno' in out and 'Stale file' in out
  assert _execute(cells, tmp_path)[0] == 0


@pytest.mark.parametrize('content', ['', '{}', '[]', '{"steps": 5'])
def test_a_damaged_result_has_the_cell_started(tmp_path, content):
  """The run repairs it, or says what is wrong."""
  _execute([_CELL], tmp_path)
  path = cells_lib.workdir(_CELL, tmp_path) / 'result.json'
  path.write_text(content)
  assert _execute([_CELL], tmp_path)[1].started == [path.parent.name]


def test_a_run_that_is_to_be_longer_is_not_finished(tmp_path):
  cell = {'config': str(tiny.config_file(tmp_path, num_steps=5)), 'seed': 0}
  cell['schedule.name'] = 'constant'
  _finished(tmp_path, cell)
  assert _execute([cell], tmp_path)[1].started == []
  tiny.config_file(tmp_path, num_steps=10)
  assert len(_execute([cell], tmp_path)[1].started) == 1


def test_a_cell_waits_for_those_that_it_needs(tmp_path, capsys):
  first = [_CELL | {'seed': seed} for seed in (0, 1)]
  second = [cell | {'labels_from': cells_lib.Like({})} for cell in first]
  names = [*map(cells_lib.cell_name, first), *map(cells_lib.cell_name, second)]
  status, place = _execute(
    [*second, *first], tmp_path, room=4, fails=[names[1]]
  )
  assert (status, place.started) == (1, names[:3])
  reason = f'needs {names[1]}, which is not finished'
  assert f'failed: {names[3]}: {reason}\n' in capsys.readouterr().out


def test_a_second_sweep_in_the_directory_is_refused(tmp_path):
  with lock.hold(tmp_path, 'sweep'):
    with pytest.raises(ValueError, match=rf'sweep .*\b{os.getpid()}\b'):
      _execute([_CELL], tmp_path)
  assert _execute([_CELL], tmp_path)[0] == 0


@pytest.mark.parametrize(
  'signum', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_a_signal_stops_what_runs_and_starts_nothing_more(
  tmp_path, capsys, signum
):
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  cells = [_CELL | {'seed': seed} for seed in range(4)]
  status, place = _execute(
    cells, tmp_path, room=2, on_end=lambda: signal.raise_signal(signum)
  )
  signal.signal(signal.SIGHUP, before)
  assert status == 128 + signum
  # Of the two that ran, one ended by itself.
  assert len(place.started) == 2
  assert place.stopped
  assert 'was stopped by a signal' in capsys.readouterr().out
  # It resumes without being asked to retry.
  assert _execute(cells, tmp_path)[0] == 0


def _finished(directory, cell, **changes):
  """Makes a finished run of a cell, or nearly so."""
  config = cells_lib.config(cell, directory)
  config.update_from_flattened_dict(changes)
  path = cells_lib.workdir(cell, directory)
  workdir.write_config(path, config)
  (path / 'result.json').write_text(json.dumps(made_up.RESULT))


def test_a_finished_run_with_another_config_is_not_the_cell(tmp_path, capsys):
  """As after the config file was edited. Nor does a cell start from it."""
  first = {'config': str(tiny.config_file(tmp_path)), 'seed': 0}
  second = first | {'labels_from': cells_lib.Like({})}
  _finished(tmp_path, first)
  assert _execute([first], tmp_path)[0] == 0
  _finished(tmp_path, first, learning_rate=9.0)
  status, place = _execute([first, second], tmp_path)
  assert (status, place.started) == (1, [])
  out = capsys.readouterr().out
  assert '0 of 2 cells are finished' in out
  assert 'learning_rate is 0.1, was 9.0' in out
  assert f'needs {cells_lib.cell_name(first)}, which is not finished' in out


@pytest.mark.parametrize(
  'spoil',
  [
    lambda config, run: config.unlink(),
    lambda config, run: config.write_text('def get_config():\n  1 / 0'),
    lambda config, run: (run / 'config.json').write_text('{'),
    lambda config, run: (run / 'config.json').write_text('{"num_epochs": "a"}'),
    lambda config, run: (run / 'config.json').write_text('{"init_from": 5}'),
  ],
  ids=[
    'no config file',
    'config file raises',
    'config.json is torn',
    'length',
    'source',
  ],
)
def test_a_config_that_cannot_be_read_is_a_failure_of_its_cell(
  tmp_path, capsys, spoil
):
  good = {'config': configs.find('digits'), 'seed': 0}
  path = tmp_path / 'other.py'
  path.write_text(pathlib.Path(good['config']).read_text())
  bad = {'config': str(path), 'seed': 0}
  for cell in (good, bad):
    _finished(tmp_path, cell)
  spoil(path, cells_lib.workdir(bad, tmp_path))
  assert _execute([good, bad], tmp_path)[0] == 1
  out = capsys.readouterr().out
  assert '1 of 2 cells are finished' in out
  assert f'failed: {cells_lib.cell_name(bad)}: ' in out


# --- Processes ---------------------------------------------------------------


def _pool(directory, program, **kwargs):
  """A pool whose cells are a program that is given the run directory."""
  return pool.Pool(
    directory,
    command=lambda cell, directory: [
      '-c',
      f'import os, signal, sys, time\n{program}',
      str(cells_lib.workdir(cell, directory)),
    ],
    **kwargs,
  )


_FINISH = f"""
os.mkdir(sys.argv[1])
open(sys.argv[1] + '/result.json', 'w').write({json.dumps(made_up.RESULT)!r})
"""


@pytest.mark.parametrize(
  ('program', 'reason'),
  [
    ('os.kill(os.getpid(), 9)', 'killed by SIGKILL (out of memory?)'),
    (
      'print("step 3", flush=True); os.kill(os.getpid(), 9)',
      'killed by SIGKILL (out of memory?); its last line is: step 3',
    ),
    (
      'print("train: no space left"); print("leaked"); sys.exit(1)',
      'no space left',
    ),
    ('print("train: resumed"); 1 / 0', 'ZeroDivisionError: division by zero'),
    ('print("step 3"); raise SystemExit(3)', 'step 3'),
    ('raise SystemExit(3)', 'exit status 3, no output'),
    (
      'print("finished")',
      'ended without a result.json; its last line is: finished',
    ),
    # A note below the error, as JAX prints it.
    (
      'e = ValueError("shape"); e.add_note("-----\\nSet X."); raise e',
      'ValueError: shape',
    ),
    ('print("Traceback"); 1 / 0', 'ZeroDivisionError: division by zero'),
  ],
)
def test_the_reason_of_a_failure_is_that_of_this_start(
  tmp_path, capsys, program, reason
):
  name = cells_lib.cell_name(_CELL)
  log = execution.log_path(_CELL, tmp_path)
  log.parent.mkdir()
  log.write_text('Traceback (most recent call last):\nearlier\n')
  place = _pool(tmp_path, program)
  assert execution.execute([_CELL], tmp_path, place) == 1
  assert f'failed: {name}: {reason} ({log})\n' in capsys.readouterr().out
  assert log.read_text().splitlines()[1] == 'earlier'
  assert failures.read(_CELL, tmp_path).reason == reason


@pytest.mark.parametrize(
  'program',
  [
    f'sys.exit({128 + signal.SIGTERM})',
    'signal.signal(15, signal.SIG_DFL); os.kill(os.getpid(), 15)',
  ],
)
def test_a_run_that_a_signal_stopped_has_not_failed(tmp_path, capsys, program):
  place = _pool(tmp_path, program)
  assert execution.execute([_CELL], tmp_path, place) == 1
  assert 'was stopped by a signal' in capsys.readouterr().out
  # The same command resumes it.
  assert execution.execute([_CELL], tmp_path, _pool(tmp_path, _FINISH)) == 0


def test_a_run_that_another_process_makes_has_not_failed(tmp_path, capsys):
  """Even if that one has ended when the sweep hears of it."""
  with lock.hold(cells_lib.workdir(_CELL, tmp_path)):
    with pytest.raises(lock.InUse) as refusal:
      with lock.hold(cells_lib.workdir(_CELL, tmp_path)):
        pass
  program = f'print({f"train: {refusal.value}"!r}); sys.exit(2)'
  assert execution.execute([_CELL], tmp_path, _pool(tmp_path, program)) == 1
  name = cells_lib.cell_name(_CELL)
  last = capsys.readouterr().out.splitlines()[-1]
  assert last.startswith(f'not finished: {name}: the run directory ')
  assert not (tmp_path / 'failed').exists()
  # The same command resumes it.
  assert execution.execute([_CELL], tmp_path, _pool(tmp_path, _FINISH)) == 0


@pytest.mark.parametrize('what', ['failed/{}.json', 'logs/{}.log'])
def test_a_file_that_cannot_be_opened_is_a_failure_of_its_cell(
  tmp_path, capsys, what
):
  """Of three cells two are finished; the same command tries it again."""
  cells = [_CELL | {'seed': seed} for seed in range(3)]
  path = tmp_path / what.format(cells_lib.cell_name(cells[1]))
  path.mkdir(parents=True)  # which opens as no file
  assert execution.execute(cells, tmp_path, _pool(tmp_path, _FINISH)) == 1
  printed = capsys.readouterr().out
  assert '2 of 3 cells are finished' in printed
  assert str(path) in printed.splitlines()[-1]
  path.rmdir()
  assert execution.execute(cells, tmp_path, _pool(tmp_path, _FINISH)) == 0


def test_workers_take_turns_with_gpus(tmp_path):
  cells = [_CELL | {'seed': seed} for seed in range(4)]
  program = f'print(os.environ["CUDA_VISIBLE_DEVICES"]){_FINISH}'
  place = _pool(tmp_path, program, workers=2, gpus=('2', '5'))
  # Two fill the pool, and have each a GPU of its own.
  place.start(cells[0])
  place.start(cells[1])
  assert not place.has_room()
  ended = []
  while len(ended) < 2:
    ended += place.ended()
  assert place.has_room()
  logs = [execution.log_path(c, tmp_path).read_text() for c in cells[:2]]
  assert logs == ['2\n', '5\n']


def test_ctrl_c_is_not_for_the_runs(tmp_path):
  """They are told by the sweep, which knows that they have not failed."""
  place = _pool(tmp_path, 'print(os.getpgrp())')
  assert execution.execute([_CELL], tmp_path, place) == 1
  group = int(execution.log_path(_CELL, tmp_path).read_text())
  assert group != os.getpgrp()
