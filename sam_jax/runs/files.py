"""Files that matter are written whole or not at all, and paths are absolute."""

import contextlib
import json
import os
import pathlib
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

PARTIAL = '.partial'  # the end of the name of a file that is being written
_URL = re.compile('[A-Za-z][A-Za-z0-9+.-]+:/')
# Orbax looks for what it has written by a pattern, in which the first three
# match other names, and TensorStore takes the last one for a slash.
_UNSUITED = '*?[\\'


def write_atomically(
  path: pathlib.Path, write: Callable[[BinaryIO], object]
) -> None:
  """Writes a file so that a crash or a power cut leaves the old or the new one.

  Args:
    path: of the file; its directory exists.
    write: writes the content to a binary stream.
  """
  # Two processes may write the same file, and each has a partial one.
  partial = path.with_name(f'{path.name}.{secrets.token_hex(4)}{PARTIAL}')
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
  sync(path.parent)


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
    what: is kept in the directory, such as 'run' or 'sweep'.
  """
  return ValueError(
    f'cannot write to the {what} directory {str(directory)!r}: '
    f'{error.strerror or error}; choose another directory'
  )


def user_path(text: str | pathlib.Path) -> pathlib.Path:
  """Returns the absolute path that a user means.

  Args:
    text: of a flag or a config; ~ is the home directory.

  Raises:
    ValueError: it is empty, the address of a remote place, names a user who
      does not exist, or is relative to a directory that has been removed.
  """
  if _URL.match(str(text)) or not str(text):
    raise ValueError(
      f'{str(text)!r} is not a path on this machine; give a path, and mount '
      'or copy remote files first'
    )
  expanded = os.path.expanduser(text)  # not of a pathlib.Path: ./~ is a name
  if str(expanded).startswith('~'):
    raise ValueError(
      f'{str(text)!r} cannot be used: that home directory is not known; give '
      'an absolute path'
    )
  try:
    path = pathlib.Path(expanded).absolute()
  except FileNotFoundError as error:
    raise ValueError(
      f'{str(text)!r} cannot be used: the current directory has been removed; '
      'give an absolute path'
    ) from error
  if '\0' in str(path):
    raise ValueError(
      f'{str(text)!r} is not a path: it contains a NUL character'
    )
  return path


def run_directory(text: str | pathlib.Path) -> pathlib.Path:
  """Returns the absolute path of a directory that checkpoints are written to.

  Args:
    text: see `user_path`.

  Raises:
    ValueError: see `user_path`, it is the root of the file system, or what is
      written there could not be read again.
  """
  path = user_path(text)
  found = [c for c in _UNSUITED if c in str(path)]
  if found:
    raise ValueError(
      f'checkpoints cannot be kept in {str(path)!r}: {" ".join(found)} has '
      'another meaning in the names of their files; choose another directory, '
      'or a symbolic link to this one'
    )
  if not _is_unicode(str(path)):
    raise ValueError(
      f'checkpoints cannot be kept in {str(path)!r}: the name is not UTF-8; '
      'choose another directory, or a symbolic link to this one'
    )
  if _resolved(path).parent == _resolved(path):
    raise ValueError(
      f'{str(path)!r} is the root of the file system; name a directory in it'
    )
  return path


def _resolved(path: pathlib.Path) -> pathlib.Path:
  """Returns a path without symbolic links.

  Raises:
    ValueError: there are links that lead to each other.
  """
  try:
    return path.resolve()
  except (OSError, RuntimeError) as error:
    raise ValueError(f'{str(path)!r} cannot be used: {error}') from error


def _is_unicode(text: str) -> bool:
  """Returns whether a path is UTF-8 on the disk."""
  try:
    text.encode('utf-8')
  except UnicodeEncodeError:
    return False
  return True


def sync(path: pathlib.Path) -> None:
  """Makes a file, or the names in a directory, outlive a power cut."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
