"""The process that runs a cell, and how it ended."""

import os
import pathlib
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sam_jax.runs import lock
from sam_jax.sweeps import results, tether

_TRACEBACK = 'Traceback (most recent call last):'
_REFUSED = 2  # exit status of a run that found something wrong before it began
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
        env=_with_package(environment),
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
    except (OSError, ValueError) as error:  # files that cannot be read now
      return End(None, str(error), is_failure=False)

  def stop(self) -> None:
    """Asks the run to save a checkpoint and to end."""
    self._process.terminate()

  def _end(self, status: int) -> End:
    """Returns how the process ended, given its exit status."""
    result = results.read(self._workdir) if status == 0 else None
    if result is not None:
      return End(result)
    if status in _STOPPED:
      return End(None, 'was stopped by a signal', is_failure=False)
    # Who works in the directory may end at any time.
    is_elsewhere = status == _REFUSED and lock.is_held(self._workdir)
    return End(None, self._reason(status), is_failure=not is_elsewhere)

  def _reason(self, status: int) -> str:
    """Returns why the run failed, in one line."""
    if status < 0:
      memory = ' (out of memory?)' if status == -signal.SIGKILL else ''
      return f'killed by {signal.Signals(-status).name}{memory}'
    with self._log.open('rb') as stream:
      stream.seek(self._log_start)
      text = stream.read().decode('utf-8', errors='replace')
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    if not lines:
      return f'exit status {status}, no output'
    if _TRACEBACK in lines:
      # The error is where the indented frames end; JAX prints a note below it.
      last = len(lines) - lines[::-1].index(_TRACEBACK)
      lines = [line for line in lines[last:] if line[0] != ' '][:1] or lines
    return lines[-1].strip()


def _with_package(environment: Mapping[str, str]) -> dict[str, str]:
  """Returns variables with which a process finds the package that runs here.

  A checkout may be on the path of this process alone.
  """
  root = str(pathlib.Path(__file__).parents[2])
  paths = sysconfig.get_paths()
  if root in (paths['purelib'], paths['platlib']):
    return dict(environment)
  path = filter(None, [root, environment.get('PYTHONPATH')])
  return {**environment, 'PYTHONPATH': os.pathsep.join(path)}
