"""The process that runs a cell, and how it ended."""

import os
import pathlib
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sam_jax.sweeps import run_files, tether

_TRACEBACK = 'Traceback (most recent call last):'
# What a run says of its errors begins with this, and with that if another
# process works in its directory.
_SAYS = 'train: '
_IN_USE = ' in use by '
_REFUSED = 2  # exit status of a run that found something wrong before it began
_MAX_OUTPUT = 2**16  # bytes of the end of a log in which the reason is
_MAX_REASON = 500  # characters
# Exit statuses of a run that saved a checkpoint because it was asked to stop.
_STOPPED = (
  128 + signal.SIGTERM,
  128 + signal.SIGINT,
  -signal.SIGTERM,
  -signal.SIGINT,
)


class End(NamedTuple):
  """How the process of a cell ended.

  Attributes:
    result: content of result.json if the run is finished, else None.
    reason: why it is not finished, in one line.
    is_failure: whether it is no use to start the cell again as it is.
  """

  result: dict[str, Any] | None
  reason: str = ''
  is_failure: bool = True


class Child:
  """A process that runs a cell. It does not outlive the one that starts it."""

  def __init__(
    self,
    command: Sequence[str],
    workdir: pathlib.Path,
    log: pathlib.Path,
    environment: Mapping[str, str],
  ) -> None:
    """Starts the process.

    Args:
      command: arguments of the Python interpreter.
      workdir: run directory.
      log: file to which the output is appended.
      environment: variables of the process.
    """
    self._workdir, self._log = workdir, log
    log.parent.mkdir(parents=True, exist_ok=True)
    bound = [sys.executable, '-I', tether.__file__, str(os.getpid())]
    with log.open('ab') as stream:
      self._log_start = stream.tell()
      self._process = subprocess.Popen(
        [*bound, sys.executable, *command],
        env=with_package(environment),
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        # Ctrl-C is for the sweep, which then asks its runs to stop.
        start_new_session=True,
      )

  def poll(self) -> End | None:
    """Returns how the process ended, None as long as it runs."""
    status = self._process.poll()
    if status is None:
      return None
    try:
      return self._end(status)
    except OSError as error:  # a file that cannot be read now
      return End(None, str(error), is_failure=False)
    except ValueError as error:  # a result that says nothing
      return End(None, str(error), is_failure=True)

  def stop(self) -> None:
    """Asks the run to save a checkpoint and to end."""
    self._process.terminate()

  def _end(self, status: int) -> End:
    """Returns how the process ended, given its exit status."""
    result = None
    if status == 0:
      result = run_files.read_result(self._workdir, is_expected=True)
    if result is not None:
      return End(result)
    if status in _STOPPED:
      return End(None, 'was stopped by a signal', is_failure=False)
    why = reason(status, self._output())
    # Who works in the directory may end at any time, and may have ended since.
    is_elsewhere = status == _REFUSED and _IN_USE in why
    return End(None, why, is_failure=not is_elsewhere)

  def _output(self) -> list[str]:
    """Returns the last lines that the process has printed."""
    with self._log.open('rb') as stream:
      size = stream.seek(0, os.SEEK_END)
      stream.seek(max(self._log_start, size - _MAX_OUTPUT))
      text = stream.read().decode('utf-8', errors='replace')
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def reason(status: int, lines: Sequence[str]) -> str:
  """Returns why a process ended without a result, in one line.

  Args:
    status: exit status.
    lines: what it has printed, without empty ones.
  """
  last = f'; its last line is: {lines[-1].strip()}' if lines else ''
  if status < 0:
    memory = ' (out of memory?)' if status == -signal.SIGKILL else ''
    names = [s.name for s in signal.Signals if s == -status]
    name = names[0] if names else f'signal {-status}'
    why = f'killed by {name}{memory}{last}'
  elif status == 0:
    why = f'ended without a result.json{last}'
  else:
    why = _error(lines) or f'exit status {status}, no output'
  return why[:_MAX_REASON]


def _error(lines: Sequence[str]) -> str:
  """Returns the line with the error of a program that has printed some lines.

  That is what it says of its error itself, or the error of its last traceback,
  whichever comes later; or else its last line.
  """
  said = [i for i, line in enumerate(lines) if line.startswith(_SAYS)]
  traced = [i for i, line in enumerate(lines) if line == _TRACEBACK]
  if traced[-1:] > said[-1:]:
    # The error is where the indented frames end; JAX prints a note below it.
    below = (line for line in lines[traced[-1] + 1 :] if line[0] != ' ')
    return next(below, lines[-1]).strip()
  if said:
    return lines[said[-1]].removeprefix(_SAYS)
  return lines[-1].strip() if lines else ''


def with_package(environment: Mapping[str, str]) -> dict[str, str]:
  """Returns variables with which a process finds the package that runs here.

  A checkout may be on the path of this process alone.
  """
  root = str(pathlib.Path(__file__).parents[2])
  paths = sysconfig.get_paths()
  if root in (paths['purelib'], paths['platlib']):
    return dict(environment)
  path = filter(None, [root, environment.get('PYTHONPATH')])
  return {**environment, 'PYTHONPATH': os.pathsep.join(path)}
