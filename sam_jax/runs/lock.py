"""One directory, one process: who works in a directory holds its lock.

The kernel holds the lock, and releases it when its owner dies, however that
happens. What is left in the directory then, `.lock` and `.lock.owner`, locks
nothing: it is the same after a power cut, and it is of no consequence whether a
process of that number lives, here or in another container.
"""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

import filelock

from sam_jax.runs import files

FILE = '.lock'
_OWNER = '.lock.owner'
# What the lock itself leaves in a directory.
NAMES = (FILE, _OWNER)
# An owner of a moment ago may be about to say who it is, or just look whether
# somebody else holds the lock.
_PATIENCE_SECONDS = 1.0
_POLL_SECONDS = 0.05


class InUse(ValueError):  # noqa: N818  (named after what it says)
  """Another process holds the lock of a directory."""


def is_held(directory: pathlib.Path) -> bool:
  """Returns whether another process holds the lock of a directory."""
  if not (directory / FILE).exists():  # it is there while the lock is held
    return False
  lock = filelock.FileLock(directory / FILE)
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    return True
  except PermissionError:  # somebody else's, who alone may look
    return True
  except OSError:  # the directory cannot be written to, by no process
    return False
  _release(lock, directory)
  return False


@contextlib.contextmanager
def hold(directory: pathlib.Path, what: str = 'run') -> Iterator[None]:
  """Holds the lock of a directory, and leaves no trace of it afterwards.

  Args:
    directory: is made if it does not exist, and removed again if nothing has
      been written to it.
    what: is kept in the directory, for the message, such as 'run' or 'sweep'.

  Raises:
    InUse: another process holds the lock. Nothing was touched.
    ValueError: the directory cannot be written to. Nothing was touched.
  """
  with contextlib.ExitStack() as stack:
    try:
      stack.callback(_remove_empty, _missing(directory))
      directory.mkdir(parents=True, exist_ok=True)
      lock = filelock.FileLock(directory / FILE)
      lock.acquire(timeout=_PATIENCE_SECONDS, poll_interval=_POLL_SECONDS)
      stack.callback(_release, lock, directory)
      # Not for a moment the name of an owner that has died.
      (directory / _OWNER).unlink(missing_ok=True)
      owner = f'{socket.gethostname()} {os.getpid()}\n'
      files.write_text(directory / _OWNER, owner)
    except filelock.Timeout:
      raise _in_use(directory, what) from None
    except OSError as error:
      raise files.not_writable(directory, error, what) from error
    yield


def _missing(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns the directories that are still to be made, the innermost first."""
  return [path for path in (directory, *directory.parents) if not path.exists()]


def _release(lock: filelock.BaseFileLock, directory: pathlib.Path) -> None:
  """Gives a lock back, whatever has become of the directory."""
  # The lock is held until the end: who opened its file before it is removed
  # finds that it has no name any more, and does not get the lock.
  for name in reversed(NAMES):
    with contextlib.suppress(OSError):
      (directory / name).unlink()
  with contextlib.suppress(OSError):
    lock.release()


def _remove_empty(directories: list[pathlib.Path]) -> None:
  """Removes directories as long as there is nothing in them."""
  with contextlib.suppress(OSError):
    for directory in directories:
      directory.rmdir()


def _in_use(directory: pathlib.Path, what: str) -> InUse:
  """Returns the error that names the owner of the lock."""
  try:
    host, pid = (directory / _OWNER).read_text('utf-8').split()
    owner = f'process {pid} on {host}'
  except (OSError, ValueError):  # it has the lock, and has not said so
    owner = 'another process'
  return InUse(
    f'the {what} directory {directory} is in use by {owner}; wait for it to '
    'end, stop it, or choose another directory'
  )
