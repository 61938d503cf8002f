"""A run does not outlive its sweep, however that ends."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from sam_jax.sweeps import execution

pytestmark = pytest.mark.skipif(
  sys.platform != 'linux', reason='asks the kernel of Linux'
)

_CELL = {'config': 'c.py'}
# A sweep of one cell, which says who it is, and when it is asked to stop.
_SWEEP = f"""
import pathlib, sys
from sam_jax.sweeps import execution, pool
program = '''
import os, signal, time
signal.signal(signal.SIGTERM, lambda *args: print('asked', flush=True))
print(os.getpid(), flush=True)
deadline = time.monotonic() + 300
while time.monotonic() < deadline:
  time.sleep(1)
'''
directory = pathlib.Path(sys.argv[1])
place = pool.Pool(directory, command=lambda *args: ['-c', program])
execution.execute([{_CELL}], directory, place)
"""


def _start(directory):
  """Starts a sweep; returns its process and the number of its run's."""
  sweep = subprocess.Popen([sys.executable, '-c', _SWEEP, str(directory)])
  log = execution.log_path(_CELL, directory)
  _wait(lambda: log.exists() and log.read_text().endswith('\n'), sweep)
  return sweep, int(log.read_text())


def _wait(condition, sweep):
  """Waits for something that takes no time, while a sweep runs."""
  deadline = time.monotonic() + 240
  while not condition():
    assert sweep.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _is_gone(pid):
  """Returns whether a process ends, which it does at once."""
  deadline = time.monotonic() + 240
  while time.monotonic() < deadline:
    try:
      stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
      return True
    if stat.rpartition(')')[2].split()[0] == 'Z':
      return True
    time.sleep(0.01)
  return False


def test_a_run_dies_with_its_sweep(tmp_path):
  sweep, pid = _start(tmp_path)
  os.kill(pid, 0)
  sweep.kill()
  assert sweep.wait() == -signal.SIGKILL
  assert _is_gone(pid)


@pytest.mark.slow
def test_the_second_signal_waits_for_no_checkpoint(tmp_path):
  sweep, pid = _start(tmp_path)
  sweep.terminate()
  log = execution.log_path(_CELL, tmp_path)
  _wait(lambda: log.read_text().endswith('asked\n'), sweep)
  os.kill(pid, 0)  # it takes its time
  sweep.terminate()
  assert sweep.wait() == 128 + signal.SIGTERM
  assert _is_gone(pid)
