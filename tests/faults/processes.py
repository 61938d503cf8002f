"""Runs in processes of their own, for trials that end, starve or watch them."""

import json
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator

from tests import tiny
from tests.faults import attempts

# A run of seconds, with everything on that is written while it trains.
FIELDS = {
  'data.train_size': 100,
  'num_epochs': 3,
  'log.every_steps': 1,
  'checkpoint.every_steps': 3,
}


def start(
  workdir: pathlib.Path,
  *prefix: str,
  log: pathlib.Path | None = None,
  **fields: object,
) -> subprocess.Popen:
  """Starts a run with the digits.

  Args:
    workdir: run directory.
    *prefix: a program that starts the run, such as strace, and its arguments.
    log: to which the output is appended; None is a file beside the directory.
    **fields: of the config, in place of `FIELDS`.
  """
  overrides = [
    f'--config.{name}={value}' for name, value in (FIELDS | fields).items()
  ]
  command = tiny.command('--config=digits', f'--workdir={workdir}', *overrides)
  with (log or log_path(workdir)).open('a') as stream:
    return subprocess.Popen(
      [*prefix, *command],
      cwd=tiny.ROOT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      stdout=stream,
      stderr=subprocess.STDOUT,
    )


def log_path(workdir: pathlib.Path) -> pathlib.Path:
  """Returns where the output of a run goes."""
  return workdir.with_name(f'{workdir.name}.log')


def memory(
  process: subprocess.Popen, workdir: pathlib.Path, *, seconds: float
) -> Iterator[dict[str, float]]:
  """Yields the memory of a run now and then, until it ends.

  Args:
    process: of the run, on Linux.
    workdir: of the run.
    seconds: between two measurements.

  Yields:
    {'seconds', 'rows', 'bytes'}: since the start; of metrics.jsonl; resident.
  """
  page, began = os.sysconf('SC_PAGE_SIZE'), time.monotonic()
  metrics = workdir / 'metrics.jsonl'
  while process.poll() is None:
    time.sleep(seconds)
    try:
      pages = pathlib.Path(f'/proc/{process.pid}/statm').read_text().split()[1]
    except (OSError, IndexError):  # it has just ended
      return
    rows = metrics.read_bytes().count(b'\n') if metrics.exists() else 0
    yield {
      'seconds': time.monotonic() - began,
      'rows': rows,
      'bytes': int(pages) * page,
    }


def pair(
  workdir: pathlib.Path, delay: float, like: list[dict[str, object]]
) -> attempts.Attempt:
  """Starts two processes in one directory, of which one has to be refused.

  Args:
    workdir: empty run directory.
    delay: seconds from the first start to the second.
    like: rows of metrics.jsonl that a run has if it is left alone.
  """
  logs = [workdir.with_name(f'{workdir.name}_{i}.log') for i in range(2)]
  began = time.monotonic()
  both = [start(workdir, log=logs[0])]
  time.sleep(delay)
  both.append(start(workdir, log=logs[1]))
  statuses = [process.wait() for process in both]
  seconds = time.monotonic() - began
  texts = [log.read_text() for log in logs]
  fault = _pair_fault(statuses, texts)
  if not fault and rows(workdir) != like:
    fault = f'{workdir} has other rows than a run that is left alone'
  outcome = 'ended with ' + ' and '.join(map(str, sorted(statuses)))
  return attempts.Attempt(outcome, fault, seconds)


def _pair_fault(statuses: list[int], texts: list[str]) -> str:
  """Returns what is wrong with the ends of two processes."""
  if statuses == [0, 0]:  # the second came when the first had finished
    return '' if 'finished' in texts[1] else 'the second says nothing'
  if sorted(statuses) != [0, 2]:
    return f'statuses {statuses}: {texts}'
  refused = texts[statuses.index(2)].strip()
  if '\n' in refused or 'in use by process' not in refused:
    return f'no owner is named: {refused!r}'
  return ''


def rows(workdir: pathlib.Path) -> list[dict[str, object]]:
  """Returns the rows of metrics.jsonl, without what the clock says."""
  text = (workdir / 'metrics.jsonl').read_text('utf-8')
  found = [json.loads(line) for line in text.splitlines()]
  return [
    {k: v for k, v in row.items() if k != 'examples_per_second'}
    for row in found
  ]
