"""Runs in processes of their own, for trials that end, starve or watch them."""

import json
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator

from tests import tiny

# A run of seconds, with everything on that is written while it trains.
FIELDS = {
  'data.train_size': 100,
  'num_epochs': 3,
  'log.every_steps': 1,
  'checkpoint.every_steps': 3,
}


def start(
  workdir: pathlib.Path, *prefix: str, **fields: object
) -> subprocess.Popen:
  """Starts a run with the digits; its output goes to a file beside it.

  Args:
    workdir: run directory.
    *prefix: a program that starts the run, such as strace, and its arguments.
    **fields: of the config, in place of `FIELDS`.
  """
  overrides = [
    f'--config.{name}={value}' for name, value in (FIELDS | fields).items()
  ]
  command = tiny.command('--config=digits', f'--workdir={workdir}', *overrides)
  with log_path(workdir).open('a') as log:
    return subprocess.Popen(
      [*prefix, *command],
      cwd=tiny.ROOT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      stdout=log,
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


def rows(workdir: pathlib.Path) -> list[dict[str, object]]:
  """Returns the rows of metrics.jsonl as they stand there."""
  text = (workdir / 'metrics.jsonl').read_text('utf-8')
  return [json.loads(line) for line in text.splitlines()]
