"""Runs that get one signal or several, at random moments."""

import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import numpy as np

from tests.faults import attempts, kills, processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MOST = 3  # signals to a run
_PAUSES = (0.0, 0.01, 0.1, 0.5)  # seconds from one to the next
_MAX_LINES = 3  # that a program says when it is stopped


def run(
  directory: pathlib.Path, count: int, seed: int
) -> Iterator[attempts.Attempt]:
  """Stops runs by signals, at any moment from the first import to the end.

  Args:
    directory: empty.
    count: number of starts.
    seed: of the moments.

  Yields:
    What became of each start. It says so in a line or two, and its status is
    that of a signal, or 0 if it finished; in the end the run equals one that
    was left alone.
  """
  alone, seconds = kills.undisturbed(directory, **kills.FIELDS)
  rng = np.random.default_rng(seed)
  workdir, log = directory / 'run', directory / 'run.log'
  for i in range(count):
    began = time.monotonic()
    log.write_text('')
    process = processes.start(workdir, **kills.FIELDS)
    status = _interrupt(process, rng, float(rng.uniform(0, seconds)))
    fault = _fault(status, log.read_text())
    if i == count - 1 or (workdir / 'result.json').exists():
      fault = fault or kills.fault_after(workdir, alone, **kills.FIELDS)
      shutil.rmtree(workdir, ignore_errors=True)
    yield attempts.Attempt(f'status {status}', fault, time.monotonic() - began)


def _interrupt(
  process: subprocess.Popen, rng: np.random.Generator, seconds: float
) -> int:
  """Sends signals to a process unless it ends before; returns its status."""
  try:
    return process.wait(timeout=seconds)
  except subprocess.TimeoutExpired:
    pass
  for _ in range(rng.integers(1, _MOST, endpoint=True)):
    if process.poll() is None:
      os.kill(process.pid, int(rng.choice(_SIGNALS)))
    time.sleep(rng.choice(_PAUSES))
  return process.wait()


def _fault(status: int, text: str) -> str:
  """Returns what is wrong with the end of a program that got a signal."""
  allowed = {s for n in _SIGNALS for s in (-n, 128 + n)} | {0}
  if status not in allowed:
    return f'status {status}: {text[-500:]!r}'
  said = [
    line for line in text.splitlines() if 'train: ' in line or 'SIG' in line
  ]
  if len(said) > _MAX_LINES:
    return f'{len(said)} lines: {text[-500:]!r}'
  return kills.noise(text)
