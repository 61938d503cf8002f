"""Runs that are killed at random moments, and resumed until they finish."""

import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import numpy as np

from tests import tiny
from tests.faults import attempts, processes

# About as long as the start of the program, so that kills come to both.
FIELDS = {'num_epochs': 60}
# Every so many kills a run is left to finish, and is compared.
_KILLS_PER_RUN = 4
_KILLED = 'killed'
# What an interpreter, or a library of C++, prints that gives up.
_NOISE = re.compile(r'Traceback|Exception ignored|Fatal Python|core dumped')


def run(
  directory: pathlib.Path, count: int, seed: int
) -> Iterator[attempts.Attempt]:
  """Kills runs at random moments.

  Args:
    directory: empty.
    count: number of starts.
    seed: of the moments.

  Yields:
    What became of each start. A run that was killed is resumed, killed again,
    and in the end left to finish: it has to equal one that was left alone.
  """
  alone, seconds = undisturbed(directory, **FIELDS)
  rng = np.random.default_rng(seed)
  runs, kills_of_run = 0, 0
  for i in range(count):
    workdir, began = directory / f'{runs:03}', time.monotonic()
    # Half of a run is its start; of the other half, a resumed run has the rest.
    longest = seconds * (1 - _made(workdir) / 2)
    process = processes.start(workdir, **FIELDS)
    outcome = _kill_after(process, float(rng.uniform(0, longest)))
    kills_of_run += 1
    fault = noise(processes.log_path(workdir).read_text())
    if outcome != _KILLED or _KILLS_PER_RUN == kills_of_run or i == count - 1:
      fault = fault or fault_after(workdir, alone, **FIELDS)
      runs, kills_of_run = runs + 1, 0
    yield attempts.Attempt(outcome, fault, time.monotonic() - began)


def _made(workdir: pathlib.Path) -> float:
  """Returns which share of a run is made, by its rows."""
  path = workdir / 'metrics.jsonl'
  rows = path.read_bytes().count(b'\n') if path.exists() else 0
  return min(rows / FIELDS['num_epochs'], 1)


def undisturbed(
  directory: pathlib.Path, **fields: object
) -> tuple[pathlib.Path, float]:
  """Makes a run that is left alone; returns it, and the seconds it took.

  The second of two starts counts: the first one compiles.
  """
  for name in ('compiled', 'alone'):
    began, workdir = time.monotonic(), directory / name
    if processes.start(workdir, **fields).wait():
      text = processes.log_path(workdir).read_text()
      raise ValueError(f'a run fails: {text}')
  return workdir, time.monotonic() - began


def fault_after(
  workdir: pathlib.Path, alone: pathlib.Path, **fields: object
) -> str:
  """Resumes a run until it finishes; returns what is wrong with it, or ''."""
  log = processes.log_path(workdir)
  log.write_text('')
  status = processes.start(workdir, **fields).wait()
  if status:
    return f'{workdir} does not resume: status {status}: {log.read_text()!r}'
  try:
    tiny.assert_same_run(workdir, alone)
  except AssertionError as error:
    first = str(error).strip().splitlines()[0]
    return f'{workdir} is another run than {alone}: {first}'
  return ''


def noise(text: str) -> str:
  """Returns what is wrong with the output of a program that failed, or ''."""
  if found := _NOISE.search(text):
    return f'prints {found[0]!r}: {text[-500:]!r}'
  return ''


def fault_of_end(status: int, text: str) -> str:
  """Returns what is wrong with the end of a run that could not go on, or ''.

  Args:
    status: exit status.
    text: its output.
  """
  if status not in (0, 1, 2):
    return f'ended with status {status}: {text[-500:]!r}'
  said = [line for line in text.splitlines() if line.startswith('train: ')]
  if status and len(said) != 1:
    return f'{len(said)} lines say why it failed: {text[-500:]!r}'
  return noise(text)


def _kill_after(process: subprocess.Popen, seconds: float) -> str:
  """Kills a process unless it ends before; returns which."""
  try:
    status = process.wait(timeout=seconds)
  except subprocess.TimeoutExpired:
    process.kill()
    status = process.wait()
  return _KILLED if status == -signal.SIGKILL else f'status {status}'
