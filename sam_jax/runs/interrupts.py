"""SIGTERM, SIGINT and SIGHUP: finish the step, save, stop.

Outside of the loop there is nothing to save. There a signal ends a command at
once, as the kernel does it, which is quiet at any moment; see
`sam_jax.startup`, by which this holds from the first import on.
"""

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STDERR = 2
_MOMENT = 0.001  # seconds
_CLOSED = 0  # in the place of a signal's number: nobody listens any more


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

  A thread listens, because Python calls the handlers of signals in the main
  thread only, and only between two of its own instructions: not while XLA
  compiles, which may take minutes.

  Attributes:
    signum: the signal that came, or None.
  """

  def __init__(self) -> None:
    """Listens to nothing yet."""
    self.signum: int | None = None
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> 'Listener':
    """Starts to listen; in another thread than the main one it cannot."""
    if threading.current_thread() is threading.main_thread():
      reader, writer = os.pipe()
      os.set_blocking(writer, False)
      thread = threading.Thread(
        target=self._listen, args=(reader,), name='signals', daemon=True
      )
      thread.start()
      # In reverse order: the thread ends last, when no signal can come in.
      self._stack.callback(_end, thread, reader, writer)
      before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
      self._stack.callback(signal.set_wakeup_fd, before)
      for signum in _SIGNALS:
        if not _is_under_nohup(signum):
          handler = signal.signal(signum, self._leave_to_the_thread)
          self._stack.callback(signal.signal, signum, handler)
    return self

  def __exit__(
    self,
    exc_type: type[BaseException] | None,
    exc: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    """Puts back what listened before."""
    self._stack.close()

  def _leave_to_the_thread(self, signum: int, frame: FrameType | None) -> None:
    """Waits for the thread; with a handler, Python tells it of the signal."""
    del signum, frame
    while self.signum is None:
      time.sleep(_MOMENT)

  def _listen(self, reader: int) -> None:
    """Takes note of the signals, whose numbers come through a pipe."""
    while (signum := os.read(reader, 1)[0]) != _CLOSED:
      if signum not in _SIGNALS:  # somebody else's, who has a handler for it
        continue
      if self.signum is None:
        self._note(signum)
      else:
        os._exit(128 + signum)

  def _note(self, signum: int) -> None:
    """Remembers the first signal, and says what comes of it."""
    self.signum = signum
    text = (
      f'\n{signal.Signals(signum).name}: saving a checkpoint, then stopping; '
      'once more stops at once\n'
    )
    with contextlib.suppress(OSError):  # the terminal may be gone
      os.write(_STDERR, text.encode())


def _end(thread: threading.Thread, reader: int, writer: int) -> None:
  """Ends the thread that listens when it has read all that came in."""
  os.set_blocking(writer, True)
  os.write(writer, bytes([_CLOSED]))
  thread.join()
  os.close(reader)
  os.close(writer)


def _is_under_nohup(signum: int) -> bool:
  """Returns whether the user has asked to survive the end of the terminal."""
  is_ignored = signal.getsignal(signum) == signal.SIG_IGN
  return signum == signal.SIGHUP and is_ignored
