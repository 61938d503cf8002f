"""Files that matter are written whole or not at all, and paths are absolute."""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

_URL = re.compile('[A-Za-z][A-Za-z0-9+.-]+:/')


def write_atomically(
  path: pathlib.Path, write: Callable[[BinaryIO], object]
) -> None:
  """Writes a file so that a crash or a power cut leaves the old or the new one.

  Args:
    path: of the file; its directory exists.
    write: writes the content to a binary stream.
  """
  partial = path.with_name(f'{path.name}.partial')
  try:
    with partial.open('wb') as stream:
      write(stream)
      stream.flush()
      os.fsync(stream.fileno())
    partial.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
    raise
  sync_directory(path.parent)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes text in UTF-8, see `write_atomically`."""
  write_atomically(path, lambda stream: stream.write(text.encode('utf-8')))


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON object for people to read too, see `write_atomically`."""
  write_text(path, json.dumps(content, indent=2) + '\n')


def not_writable(
  directory: pathlib.Path, error: OSError, what: str = 'run'
) -> ValueError:
  """Returns the error for a directory that cannot be written to.

  Args:
    directory: that a user has chosen.
    error: of the attempt.
    what: is kept in the directory: 'run' or 'sweep'.
  """
  return ValueError(
    f'cannot write to the {what} directory {str(directory)!r}: '
    f'{error.strerror}; choose another directory'
  )


def user_path(text: str | pathlib.Path) -> pathlib.Path:
  """Returns the absolute path that a user means.

  Args:
    text: of a flag or a config; ~ is the home directory.

  Raises:
    ValueError: it is empty, the address of a remote place, or names a user
      who does not exist.
  """
  if _URL.match(str(text)) or not str(text):
    raise ValueError(
      f'{str(text)!r} is not a path on this machine; give a path, and mount '
      'or copy remote files first'
    )
  try:
    return pathlib.Path(text).expanduser().absolute()
  except RuntimeError as error:
    raise ValueError(f'{str(text)!r} cannot be used: {error}') from error


def sync_directory(directory: pathlib.Path) -> None:
  """Makes the names of a directory's files outlive a power cut."""
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
