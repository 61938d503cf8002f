"""One directory, one process: who works in a directory holds its lock.

The kernel releases the lock when its owner dies, however that happens. What is
left in the directory then, `.lock` and `.lock.owner`, locks nothing.
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


class InUse(ValueError):  # noqa: N818  (named after what it says)
  """Another process holds the lock of a directory."""


def is_held(directory: pathlib.Path) -> bool:
  """Returns whether another process holds the lock of a directory."""
  if not (directory / FILE).exists():  # it is there while the lock is held
    return False
  try:
    with hold(directory):
      return False
  except InUse:
    return True
  except ValueError:  # the directory cannot be written to, by no process
    return False


@contextlib.contextmanager
def hold(directory: pathlib.Path, what: str = 'run') -> Iterator[None]:
  """Holds the lock of a directory, and leaves no trace of it afterwards.

  Args:
    directory: is made if it does not exist, and removed again if nothing has
      been written to it.
    what: is kept in the directory, for the message: 'run' or 'sweep'.

  Raises:
    InUse: another process holds the lock. Nothing was touched.
    ValueError: the directory cannot be written to. Nothing was touched.
  """
  made = _make(directory, what)
  lock = filelock.FileLock(directory / FILE, timeout=0)
  try:
    lock.acquire()
  except filelock.Timeout:
    raise _in_use(directory, what) from None
  except OSError as error:
    raise files.not_writable(directory, error, what) from error
  try:
    owner = f'{socket.gethostname()} {os.getpid()}\n'
    files.write_text(directory / _OWNER, owner)
    yield
  finally:
    # The lock is held until the end: who opened its file before it is removed
    # finds that it has no name any more, and does not get the lock.
    for name in (_OWNER, FILE):
      (directory / name).unlink(missing_ok=True)
    lock.release()
    with contextlib.suppress(OSError):  # there is something in it
      for empty in made:
        empty.rmdir()


def _make(directory: pathlib.Path, what: str) -> list[pathlib.Path]:
  """Makes a directory; returns which ones are new, the innermost first."""
  try:
    new = [
      path for path in (directory, *directory.parents) if not path.exists()
    ]
    directory.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise files.not_writable(directory, error, what) from error
  return new


def _in_use(directory: pathlib.Path, what: str) -> InUse:
  """Returns the error that names the owner of the lock."""
  try:
    host, pid = (directory / _OWNER).read_text('utf-8').split()
    owner = f'process {pid} on {host}'
  except (OSError, ValueError):  # it has the lock, and has not said so yet
    owner = 'another process'
  return InUse(
    f'the {what} directory {directory} is in use by {owner}; wait for it to '
    'end, stop it, or choose another directory'
  )
