"""SIGTERM, SIGINT and SIGHUP: finish the step, save, stop.

Outside of the loop there is nothing to save. There a signal ends a command at
once, as the kernel does it, which is quiet at any moment; see
`sam_jax.startup`, by which this holds from the first import on.
"""

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STDERR = 2


class Interrupted(Exception):  # noqa: N818  (nothing went wrong)
  """A signal asked the run to stop; it can be resumed from its checkpoint.

  Attributes:
    signum: the signal's number.
  """

  def __init__(self, signum: int, step: int) -> None:
    """Says where the run stopped."""
    super().__init__(
      f'stopped at step {step} by {signal.Signals(signum).name}; the same '
      'command resumes it from there'
    )
    self.signum = signum


class Listener:
  """Within `with`: notes the first signal; a second one acts at once.

  Attributes:
    signum: the signal that came, or None.
  """

  def __init__(self) -> None:
    """Listens to nothing yet."""
    self.signum: int | None = None
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> 'Listener':
    """Starts to listen; in another thread than the main one it cannot."""
    if threading.current_thread() is threading.main_thread():
      signals = [s for s in _SIGNALS if not _is_under_nohup(s)]
      self._previous = {s: signal.signal(s, self._note) for s in signals}
    return self

  def __exit__(
    self,
    exc_type: type[BaseException] | None,
    exc: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    """Puts back what listened before."""
    for signum, handler in self._previous.items():
      signal.signal(signum, handler)

  def _note(self, signum: int, frame: FrameType | None) -> None:
    """Remembers the signal and leaves the next one to the default."""
    del frame
    self.signum = signum
    for s in self._previous:
      signal.signal(s, signal.SIG_DFL)
    text = (
      f'\n{signal.Signals(signum).name}: saving a checkpoint, then stopping; '
      'once more stops at once\n'
    )
    # Not print: the signal may have come in the middle of one, which raises.
    with contextlib.suppress(OSError):
      os.write(_STDERR, text.encode())


def _is_under_nohup(signum: int) -> bool:
  """Returns whether the user has asked to survive the end of the terminal."""
  is_ignored = signal.getsignal(signum) == signal.SIG_IGN
  return signum == signal.SIGHUP and is_ignored
