"""One run, one process: a directory is used by one process at a time."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

import filelock


@contextlib.contextmanager
def hold(directory: pathlib.Path, what: str = 'run') -> Iterator[None]:
  """Holds a directory; the kernel releases it if this process dies.

  Raises:
    ValueError: another process holds it; the message names host and process.
  """
  directory.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(directory / '.lock')
  owner = directory / '.lock.owner'
  try:
    lock.acquire(blocking=False)
  except filelock.Timeout as error:
    host, pid = (owner.read_text('utf-8').split() + ['?', '?'])[:2]
    raise ValueError(
      f'the {what} in {directory} is in use by process {pid} on {host}; wait '
      'for it, or use another workdir'
    ) from error
  with lock:
    owner.write_text(f'{socket.gethostname()} {os.getpid()}\n', 'utf-8')
    try:
      yield
    finally:
      lock.release()
