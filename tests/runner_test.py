"""What a sweep makes of runs that end in one way or another."""

import errno
import os
import pathlib
import signal

import pytest

from sam_jax import runner as runner_lib, sweeps

_CELL = {'config': 'c.py', 'seed': 0}


@pytest.fixture
def runner(monkeypatch, tmp_path):
  """Makes a runner of cells that are a program, given the run directory."""
  # Signals are pytest's.
  monkeypatch.setattr(runner_lib.signal, 'signal', lambda *args: None)
  monkeypatch.setattr(runner_lib, '_POLL_SECONDS', 0.01)
  # A process in which JAX runs must not fork, as Python does for this.
  monkeypatch.setattr(runner_lib, '_die_with_parent', None)

  def make(program, cells=(_CELL,)):
    made = runner_lib.Runner(cells, tmp_path, root=tmp_path)
    monkeypatch.setattr(
      sweeps,
      'command',
      lambda cell, directory: [
        '-c',
        program,
        str(directory / sweeps.cell_name(cell)),
      ],
    )
    return made

  return make


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
  runner, capsys, tmp_path, what
):
  """Of three cells two are finished; the same command tries it again."""
  cells = [_CELL | {'seed': seed} for seed in range(3)]
  path = tmp_path / what.format(sweeps.cell_name(cells[1]))
  path.mkdir(parents=True)  # which opens as no file
  assert runner(_FINISHES, cells).run() == 1
  printed = capsys.readouterr().out
  assert '2 of 3 cells are finished' in printed
  assert str(path) in printed.splitlines()[-1]
  path.rmdir()
  assert runner(_FINISHES, cells).run() == 0


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
  monkeypatch.setattr(sweeps, 'RENEW_SECONDS', 0)
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
  assert sweeps.Claim(tmp_path / 'claims', sweeps.cell_name(_CELL)).take()


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
  monkeypatch.setattr(sweeps, 'RENEW_SECONDS', 0)
  monkeypatch.setattr(run.process, 'terminate', lambda: None)
  monkeypatch.setattr(run.claim, 'renew', lambda: False)
  made._stop()
  assert run.process.returncode == -signal.SIGKILL
