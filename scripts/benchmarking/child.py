"""A process that prints lines, and ends with the one that has started it.

It has a group of its own, with all that it starts, so that all of it can be
ended at once. A signal that ends this process would not reach that group, hence
it ends the group first.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence


def lines(
  command: Sequence[str], *, environment: Mapping[str, str], seconds: float
) -> Iterator[str]:
  """Yields the whole lines that a process prints to standard output.

  Args:
    command: that starts it.
    environment: variables that it has besides those of this process.
    seconds: after which it is ended.

  Raises:
    ChildProcessError: it did not end well; the message says why.
  """
  process = subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    encoding='utf-8',
    errors='replace',
    env=os.environ | environment,
    process_group=0,
  )
  timer = threading.Timer(seconds, _end, [process])
  timer.start()
  try:
    with _ended_by_signals(process):
      for line in process.stdout:
        if line.endswith('\n'):  # else it was ended within the line
          yield line
      status = process.wait()
  finally:
    timer.cancel()
    _end(process)
    process.stdout.close()
    process.wait()
  if status == -signal.SIGKILL:
    raise ChildProcessError(
      f'it was ended: it took more than {seconds:.0f} s, or all of the memory'
    )
  if status:
    raise ChildProcessError(f'its process ended with status {status}')


@contextlib.contextmanager
def _ended_by_signals(process: subprocess.Popen) -> Iterator[None]:
  """Ends a process when a signal ends this one."""

  def end(number: int, frame: object) -> None:
    del frame
    _end(process)
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)

  before = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _end(process: subprocess.Popen) -> None:
  """Ends a process, and those that it has started."""
  with contextlib.suppress(ProcessLookupError):  # they have ended
    os.killpg(process.pid, signal.SIGKILL)
