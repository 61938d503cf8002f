"""A kill, or an error of the system, at each file operation of a run.

Two forms. `run` has strace do it to a program of its own, whoever makes the
call: Python, TensorStore, the lock. `Saboteur` does it in this process to what
Python calls, for the tests.
"""

import builtins
import collections
import contextlib
import errno
import io
import os
import pathlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tests.faults import attempts, kills, processes

_FIELDS = {'num_epochs': 2}
# What changes files. Each thread counts its own calls.
_CALLS = ('mkdir', 'rename', 'unlink', 'unlinkat', 'rmdir', 'link', 'fsync')
# Calls that also go elsewhere than to files: a kill may come at each of them.
_OTHER_CALLS = ('write', 'writev', 'flock')
_ERRORS = ('ENOSPC', 'EIO', 'EACCES')
_CALL = re.compile(r'(\d+) +(\w+)\(')


class Point(NamedTuple):
  """One point of a run, and what happens there.

  Attributes:
    call: name of the system call.
    number: which one of a thread, from 1.
    event: 'signal=KILL', or 'error=ENOSPC' and the like.
  """

  call: str
  number: int
  event: str


def run(
  directory: pathlib.Path, count: int, seed: int
) -> Iterator[attempts.Attempt]:
  """Kills and starves runs at their file operations. Needs Linux and strace.

  Args:
    directory: empty.
    count: number of points; all of them if there are not so many.
    seed: of their choice, if there are more.

  Yields:
    What became of each run. It ends in one line unless it is killed, and when
    it is started again it equals one that was left alone.
  """
  alone, _ = kills.undisturbed(directory, **_FIELDS)
  found = points(directory)
  order = np.random.default_rng(seed).permutation(len(found))[:count]
  for i in sorted(order):
    began = time.monotonic()
    outcome, fault = _disturb(directory / f'{i:04}', found[i], alone)
    yield attempts.Attempt(outcome, fault, time.monotonic() - began)


def points(directory: pathlib.Path) -> list[Point]:
  """Returns all points at which a run can be disturbed."""
  trace, calls = directory / 'trace', (*_CALLS, *_OTHER_CALLS)
  processes.start(
    directory / 'traced', *_strace(trace, f'trace={",".join(calls)}'), **_FIELDS
  ).wait()
  by_thread = collections.Counter(
    _CALL.match(line).groups()
    for line in trace.read_text().splitlines()
    if _CALL.match(line)
  )
  most: dict[str, int] = {}
  for (_, call), number in by_thread.items():
    most[call] = max(number, most.get(call, 0))
  return [
    Point(call, number, event)
    for call in calls
    for number in range(1, most.get(call, 0) + 1)
    for event in (
      'signal=KILL',
      *(f'error={e}' for e in _ERRORS if call in _CALLS),
    )
  ]


def _strace(trace: pathlib.Path, expression: str) -> list[str]:
  """Returns the start of a command line that runs a program under strace."""
  return [
    *('strace', '-f', '--seccomp-bpf', '-qq', '-o', str(trace)),
    *('-e', expression),
  ]


def _disturb(
  workdir: pathlib.Path, point: Point, alone: pathlib.Path
) -> tuple[str, str]:
  """Disturbs a run, then leaves it to finish; returns outcome and fault."""
  call, number, event = point
  inject = f'inject={call}:{event}:when={number}'
  log = processes.log_path(workdir)
  status = processes.start(
    workdir, *_strace(workdir.with_name('trace'), inject), **_FIELDS
  ).wait()
  text = log.read_text()
  if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
    outcome, fault = 'killed', kills.noise(text)
  else:
    outcome, fault = f'status {status}', kills.fault_of_end(status, text)
  fault = fault or kills.fault_after(workdir, alone, **_FIELDS)
  return outcome, fault and f'{inject}: {fault}'


class Killed(BaseException):
  """Stands in for a kill: nothing catches it."""


class Saboteur:
  """Within `with`: counts what Python does to the files of a directory.

  Attributes:
    made: the operations, in order.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    strike: int | None = None,
    error: int | None = None,
  ) -> None:
    """Strikes once, or never.

    Args:
      directory: whose files count.
      strike: number of the operation that does not happen, from 0.
      error: of the system that is raised there; None is a kill, after which
        nothing can be changed any more.
    """
    self.made: list[str] = []
    self._directory, self._strike, self._error = str(directory), strike, error
    self._is_dead = False
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> 'Saboteur':
    """Takes the place of the operations."""
    for module, name in (
      *((os, name) for name in ('mkdir', 'rename', 'replace', 'rmdir')),
      *((os, name) for name in ('unlink', 'remove')),
      *((builtins, 'open'), (io, 'open'), (os, 'open')),
    ):
      original = getattr(module, name)
      self._stack.callback(setattr, module, name, original)
      setattr(module, name, self._watched(name, original))
    original = os.fsync
    self._stack.callback(setattr, os, 'fsync', original)
    os.fsync = self._watched_fsync(original)
    return self

  def __exit__(self, *error: object) -> None:
    """Puts the operations back."""
    self._stack.close()

  def _watched(
    self, name: str, original: Callable[..., Any]
  ) -> Callable[..., Any]:
    """Returns an operation on a path that may be struck."""

    def operation(path: Any, *args: Any, **options: Any) -> Any:
      if self._changes(name, path, args, options):
        self._step(name, os.fspath(path))
      return original(path, *args, **options)

    return operation

  def _watched_fsync(
    self, original: Callable[[int], None]
  ) -> Callable[[int], None]:
    """Returns an fsync that may be struck."""

    def fsync(descriptor: int) -> None:
      path = os.readlink(f'/proc/self/fd/{descriptor}')
      if path.startswith(self._directory):
        self._step('fsync', path)
      original(descriptor)

    return fsync

  def _changes(
    self, name: str, path: Any, args: tuple[Any, ...], options: dict[str, Any]
  ) -> bool:
    """Returns whether an operation changes a file of the directory."""
    if not isinstance(path, str | os.PathLike):
      return False
    if not os.fspath(path).startswith(self._directory):
      return False
    if name != 'open':
      return True
    mode = args[0] if args else options.get('mode', options.get('flags', 'r'))
    if isinstance(mode, int):
      return bool(mode & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return mode[:1] in 'wax' or '+' in mode

  def _step(self, name: str, path: str) -> None:
    """Takes note of an operation, and strikes if it is its turn."""
    if self._is_dead:
      raise OSError(errno.EIO, 'is dead', path)
    self.made.append(f'{name} {os.path.relpath(path, self._directory)}')
    if len(self.made) - 1 != self._strike:
      return
    if self._error is not None:
      raise OSError(self._error, os.strerror(self._error), path)
    self._is_dead = True
    raise Killed(self.made[-1])
