"""What a sweep makes of runs that end in one way or another."""

import errno
import json
import os
import pathlib
import re
import signal

import pytest
import tiny

from sam_jax.runs import workdir
from sam_jax.sweeps import cells as cells_lib, pool as pool_lib

_CELL = {'config': 'c.py', 'seed': 0}


@pytest.fixture
def runner(monkeypatch, tmp_path):
  """Makes a runner of cells that are a program, given the run directory."""
  # Signals are pytest's.
  monkeypatch.setattr(pool_lib.signal, 'signal', lambda *args: None)
  monkeypatch.setattr(pool_lib, '_POLL_SECONDS', 0.01)
  # A process in which JAX runs must not fork, as Python does for this.
  monkeypatch.setattr(pool_lib, '_die_with_parent', None)

  def make(program, cells=(_CELL,), workers=1):
    made = pool_lib.Runner(cells, tmp_path, workers=workers, root=tmp_path)
    monkeypatch.setattr(
      cells_lib,
      'command',
      lambda cell, directory: [
        '-c',
        program,
        str(directory / cells_lib.cell_name(cell)),
      ],
    )
    return made

  return make


@pytest.fixture
def fast(monkeypatch):
  """Has a sweep wait a second for others in place of two minutes."""
  monkeypatch.setattr(pool_lib, '_LOOK_SECONDS', 0.01)
  monkeypatch.setattr(cells_lib, 'RENEW_SECONDS', 0.1)
  monkeypatch.setattr(cells_lib, 'STALE_SECONDS', 1)


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('saves', [True, False])
def test_a_run_that_a_signal_stopped_has_not_failed(
  runner, capsys, signum, saves
):
  program = f"""
import os, signal, sys
if {saves}:
  sys.exit({128 + signum})
signal.signal({signum}, signal.SIG_DFL)
os.kill(os.getpid(), {signum})
"""
  assert runner(program).run() == 1
  assert 'was stopped by a signal' in capsys.readouterr().out
  # It goes on without being asked for.
  assert runner('print("no time"); raise SystemExit(1)').run() == 1
  assert 'no time' in capsys.readouterr().out


def test_a_run_that_failed_is_left_until_it_is_asked_for(runner, capsys):
  assert runner('print("no luck"); raise SystemExit(1)').run() == 1
  assert 'no luck' in capsys.readouterr().out
  assert runner('print("no time"); raise SystemExit(1)').run() == 1
  assert 'no luck' in capsys.readouterr().out


_FINISHES = """
import os, sys
os.mkdir(sys.argv[1])
with open(sys.argv[1] + '/result.json', 'w') as stream:
  stream.write('{"split": "test", "final_error_rate": 0, "wall_seconds": 1}')
"""


@pytest.mark.parametrize('what', ['claims/{}.0', 'failed/{}', 'logs/{}.log'])
def test_a_file_that_cannot_be_read_is_a_failure_of_its_cell(
  runner, fast, capsys, tmp_path, what
):
  """Of three cells two are finished; the same command tries it again."""
  cells = [_CELL | {'seed': seed} for seed in range(3)]
  path = tmp_path / what.format(cells_lib.cell_name(cells[1]))
  path.mkdir(parents=True)  # which opens as no file
  assert runner(_FINISHES, cells).run() == 1
  printed = capsys.readouterr().out
  assert '2 of 3 cells are finished' in printed
  assert str(path) in printed.splitlines()[-1]
  assert 'by another sweep' not in printed.splitlines()[-2]
  path.rmdir()
  assert runner(_FINISHES, cells).run() == 0


def test_files_that_can_be_read_again_soon_are_no_failure(
  runner, fast, monkeypatch, tmp_path
):
  cells = [_CELL | {'seed': seed} for seed in range(3)]
  path = tmp_path / 'logs' / f'{cells_lib.cell_name(cells[1])}.log'
  path.mkdir(parents=True)
  made = runner(_FINISHES, cells)
  waits = made._waits

  def mend():
    if path.is_dir():
      path.rmdir()
    return waits()

  monkeypatch.setattr(made, '_waits', mend)
  assert made.run() == 0


@pytest.mark.parametrize(
  ('program', 'reason'),
  [
    (
      'print("before"); import os, signal; os.kill(os.getpid(), 9)',
      'killed by SIGKILL (out of memory?)',
    ),
    ('print("step 3"); raise SystemExit(3)', 'step 3'),
    ('raise SystemExit(3)', 'exit status 3, no output'),
    ('print("finished")', 'finished'),
    # As JAX does.
    (
      'e = ValueError("shape"); e.add_note("-----\\nSet X."); raise e',
      'ValueError: shape',
    ),
    ('import warnings; warnings.warn("x"); 1 / 0', 'ZeroDivisionError'),
  ],
)
def test_the_reason_of_a_failure_is_that_of_this_start(
  runner, capsys, tmp_path, program, reason
):
  name = cells_lib.cell_name(_CELL)
  log = tmp_path / 'logs' / f'{name}.log'
  log.parent.mkdir()
  log.write_text('earlier\n')
  assert runner(program).run() == 1
  assert f'failed: {name}: {reason}' in capsys.readouterr().out
  assert log.read_text().startswith('earlier\n')
  assert (tmp_path / 'failed' / name).read_text().startswith(reason)


def _finished(directory, cell, **changes):
  """A finished run of a cell, or nearly so."""
  config = cells_lib.config(cell, directory, directory)
  config.update_from_flattened_dict(changes)
  path = directory / cells_lib.cell_name(cell)
  workdir.write_config(path, config)
  workdir.write_json(path / 'result.json', {})


def test_a_finished_run_with_another_config_is_not_the_cell(
  runner, capsys, tmp_path
):
  """As after the config file was edited. Nor does a cell start from it."""
  first = {'config': str(tiny.config_file(tmp_path)), 'seed': 0}
  second = first | {'labels_from': cells_lib.Like({})}
  _finished(tmp_path, first)
  assert runner(_FINISHES, [first]).run() == 0
  _finished(tmp_path, first, learning_rate=9.0)
  assert runner(_FINISHES, [first, second]).run() == 1
  out = capsys.readouterr().out
  assert '0 of 2 cells are finished' in out
  assert re.search(r'failed: .*: .*learning_rate is 0\..*, was 9.0', out)
  assert f'needs {cells_lib.cell_name(first)}, which is not finished' in out


@pytest.mark.parametrize(
  'name', ['config.py', 'cell/config.json', 'raises.py', 'empty.py']
)
def test_a_finished_run_of_an_unreadable_config_is_its_cells_failure(
  runner, capsys, tmp_path, name
):
  good = {'config': str(tiny.config_file(tmp_path)), 'seed': 0}
  path = tmp_path / 'other.py'
  path.write_text(pathlib.Path(good['config']).read_text())
  bad = {'config': str(path), 'seed': 0}
  for cell in (good, bad):
    _finished(tmp_path, cell)
  if name == 'config.py':
    path.unlink()
  elif name == 'raises.py':
    path.write_text('def get_config():\n  raise RuntimeError("no luck")\n')
  elif name == 'empty.py':
    path.write_text('')
  else:
    (tmp_path / cells_lib.cell_name(bad) / 'config.json').write_text('{')
  assert runner(_FINISHES, [good, bad]).run() == 1
  out = capsys.readouterr().out
  assert '1 of 2 cells are finished' in out
  assert f'failed: {cells_lib.cell_name(bad)}: ' in out


@pytest.fixture
def elsewhere(fast, tmp_path):
  """The claim of a cell that another sweep runs."""
  claim = cells_lib.Claim(tmp_path / 'claims', cells_lib.cell_name(_CELL))
  assert claim.take()
  return claim


def test_the_cells_of_a_sweep_that_lives_are_left_to_it(
  runner, elsewhere, capsys
):
  assert runner(_FINISHES).run() == 1
  out = capsys.readouterr().out
  assert 'waiting two minutes for 1 cells of another sweep' in out
  assert '1 were being run by another sweep' in out
  assert elsewhere.renew()


def test_the_cells_of_a_sweep_that_dies_are_run(runner, elsewhere, tmp_path):
  """That of a machine without power; with what needs them."""
  needed = cells_lib.cell_name(_CELL)
  [path] = (tmp_path / 'claims').iterdir()
  owner = json.loads(path.read_text())
  path.write_text(json.dumps(owner | {'machine': 'another'}))
  second = _CELL | {'labels_from': cells_lib.Like({})}
  assert runner(_FINISHES, [_CELL, second]).run() == 0
  assert cells_lib.is_finished(tmp_path / needed)


def test_a_free_worker_takes_the_cells_of_a_sweep_that_dies(
  runner, elsewhere, tmp_path
):
  """While the other one has a long run, which waits for it here."""
  [path] = (tmp_path / 'claims').iterdir()
  owner = json.loads(path.read_text())
  path.write_text(json.dumps(owner | {'machine': 'another'}))
  program = """
import time, pathlib
other = pathlib.Path(sys.argv[1].replace('seed=1', 'seed=0') + '/result.json')
deadline = time.monotonic() + 60
while 'seed=1' in sys.argv[1] and not other.exists():
  assert time.monotonic() < deadline
  time.sleep(0.01)
"""
  cells = [_CELL, _CELL | {'seed': 1}]
  made = runner('import sys' + program + _FINISHES, cells, workers=2)
  assert made.run() == 0


@pytest.mark.usefixtures('elsewhere')
def test_the_cells_that_another_sweep_finishes_are_finished(
  runner, tmp_path, monkeypatch
):
  made = runner('raise SystemExit(1)')
  waits = made._waits

  def finish():
    path = tmp_path / cells_lib.cell_name(_CELL)
    path.mkdir(exist_ok=True)
    (path / 'result.json').write_text('{}')
    return waits()

  monkeypatch.setattr(made, '_waits', finish)
  assert made.run() == 0


def test_a_claim_that_cannot_be_given_back_ends_nothing(
  runner, monkeypatch, tmp_path
):
  def replace(path, target):
    raise OSError(errno.EIO, 'Input/output error', str(path))

  made = runner(_FINISHES)
  monkeypatch.setattr(pathlib.Path, 'replace', replace)
  assert made.run() == 0


def test_ctrl_c_is_not_for_the_runs(runner, tmp_path):
  """They are told by the sweep, which knows that they have not failed."""
  path = tmp_path / 'group'
  program = f'import os; open({str(path)!r}, "w").write(str(os.getpgrp()))'
  runner(program + '; os._exit(1)').run()
  assert int(path.read_text()) != os.getpgrp()


def test_claims_are_renewed_while_a_run_saves(runner, monkeypatch, tmp_path):
  made = runner('import time; time.sleep(600)')
  made._fill()
  [run] = made._running
  # It takes its time to end.
  monkeypatch.setattr(run.process, 'terminate', lambda: None)
  monkeypatch.setattr(cells_lib, 'RENEW_SECONDS', 0)
  renewals = []

  def renew():
    renewals.append(1)
    if len(renewals) == 5:
      run.process.send_signal(signal.SIGKILL)
    return True

  monkeypatch.setattr(run.claim, 'renew', renew)
  made._stop()
  assert len(renewals) >= 5
  assert run.process.returncode == -signal.SIGKILL
  assert cells_lib.Claim(tmp_path / 'claims', cells_lib.cell_name(_CELL)).take()


def test_a_second_signal_waits_for_no_checkpoint(runner, monkeypatch):
  made = runner('import time; time.sleep(600)')
  made._fill()
  [run] = made._running
  monkeypatch.setattr(run.process, 'terminate', lambda: None)
  for _ in range(2):
    made._note(signal.SIGINT, None)
  made._stop()
  assert run.process.returncode == -signal.SIGKILL


def test_a_run_of_which_another_machine_took_the_cell_is_killed(
  runner, monkeypatch
):
  made = runner('import time; time.sleep(600)')
  made._fill()
  [run] = made._running
  monkeypatch.setattr(cells_lib, 'RENEW_SECONDS', 0)
  monkeypatch.setattr(run.process, 'terminate', lambda: None)
  monkeypatch.setattr(run.claim, 'renew', lambda: False)
  made._stop()
  assert run.process.returncode == -signal.SIGKILL
