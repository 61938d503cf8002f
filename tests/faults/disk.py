"""Runs whose disk becomes full. Needs Linux and root, to mount a small disk."""

import contextlib
import pathlib
import subprocess
import time
from collections.abc import Iterator

import numpy as np

from tests.faults import attempts, kills, processes

_FIELDS = {'num_epochs': 15}
_ROOM = 16_000_000  # bytes, enough for the whole run
_SMALLEST, _LARGEST = 8_192, 600_000


def run(
  directory: pathlib.Path, count: int, seed: int
) -> Iterator[attempts.Attempt]:
  """Trains on disks that become full, then gives them room.

  Args:
    directory: empty.
    count: number of disks.
    seed: of their sizes.

  Yields:
    What became of each run: it has to end in one line, and to finish as one
    that was left alone once there is room.
  """
  alone, _ = kills.undisturbed(directory, **_FIELDS)
  rng = np.random.default_rng(seed)
  for i in range(count):
    size = int(np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST))))
    began = time.monotonic()
    outcome, fault = _fill(directory / f'disk{i:03}', size, alone)
    yield attempts.Attempt(outcome, fault, time.monotonic() - began)


def _fill(
  disk: pathlib.Path, size: int, alone: pathlib.Path
) -> tuple[str, str]:
  """Trains on a disk that becomes full; returns the outcome and the fault."""
  log = disk.with_name(f'{disk.name}.log')
  with _mounted(disk, size):
    workdir = disk / 'run'
    status = processes.start(workdir, log=log, **_FIELDS).wait()
    text = log.read_text()
    fault = kills.fault_of_end(status, text)
    if status == 1 and 'No space left on device' not in text:
      fault = fault or f'does not say that the disk is full: {text!r}'
    _mount(disk, f'remount,size={_ROOM}')
    fault = fault or kills.fault_after(workdir, alone, **_FIELDS)
  return f'status {status}', fault


@contextlib.contextmanager
def _mounted(disk: pathlib.Path, size: int) -> Iterator[None]:
  """Has a disk of that many bytes."""
  disk.mkdir()
  _mount(disk, f'size={size}')
  try:
    yield
  finally:
    subprocess.run(['umount', disk], check=True)


def _mount(disk: pathlib.Path, options: str) -> None:
  """Mounts a disk in memory."""
  command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', disk]
  subprocess.run(command, check=True)
