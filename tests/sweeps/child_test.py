"""A run does not outlive its sweep."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

# Starts a child as a sweep does, which says that it runs and waits for ever.
_PARENT = """
import os, pathlib, time
from sam_jax.sweeps import child
here = pathlib.Path({directory!r})
program = 'import os, time; print(os.getpid(), flush=True); time.sleep(9999)'
child.Child(['-c', program], here, here / 'log', os.environ)
while True:
  time.sleep(1)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='asks the kernel of Linux')
def test_a_run_dies_with_its_sweep(tmp_path):
  log = tmp_path / 'log'
  parent = subprocess.Popen(
    [sys.executable, '-c', _PARENT.format(directory=str(tmp_path))]
  )
  while not (log.exists() and log.read_text().endswith('\n')):
    assert parent.poll() is None
    time.sleep(0.01)
  pid = int(log.read_text())
  os.kill(pid, 0)
  parent.send_signal(signal.SIGKILL)
  parent.wait()
  while _runs(pid):
    time.sleep(0.01)


def _runs(pid):
  """Whether there is a process of that number that is not a zombie."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'
