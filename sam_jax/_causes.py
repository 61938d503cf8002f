"""Why a program cannot work, in one line, whoever raised the error."""

import errno
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator

# What is wrong with the machine and not with what the user gave.
_MACHINE = frozenset(
  getattr(errno, name)
  for name in (
    *('ENOSPC', 'EDQUOT', 'EIO', 'EMFILE', 'ENFILE', 'ENOMEM', 'ESTALE'),
    *('ENODEV', 'ENXIO', 'EREMOTEIO', 'ETIMEDOUT'),
  )
  if hasattr(errno, name)
)
# How TensorStore tells the errors of the system.
_TENSORSTORE = re.compile(r'local file "([^"]*)".*os_error_code=\'(\d+)\'', re.DOTALL)
_MAX_LENGTH = 400
# Code of others; what a user wrote lies elsewhere.
_LIBRARIES = tuple(
  {sysconfig.get_path(name) for name in ('stdlib', 'purelib', 'platlib')}
)


def machine(error: BaseException) -> str | None:
  """Returns what is wrong with the machine, None if an error is another one."""
  for cause in _chain(error):
    if isinstance(cause, OSError) and cause.errno in _MACHINE:
      return _of_system(cause.errno, cause.filename)
    found = _TENSORSTORE.search(str(cause))
    if found:
      return _of_system(int(found[2]), found[1])
  return None


def line(error: BaseException) -> str:
  """Returns one line that says what was raised, and where if it is a fault."""
  if text := machine(error):
    return text
  if isinstance(error, OSError) and error.strerror:
    return _of_system(error.errno or 0, error.filename, error.strerror)
  if isinstance(error, SystemExit):
    text = f'sys.exit({error.code!r}) was called'
  elif isinstance(error, MemoryError) and not str(error):
    text = 'out of memory'
  else:
    first = next(iter(filter(None, map(str.strip, str(error).splitlines()))), '')
    text = ': '.join(filter(None, [type(error).__name__, first]))
  if len(text) > _MAX_LENGTH:
    text = f'{text[:_MAX_LENGTH]}...'
  return f'{text} ({_place(error)}; --verbosity=0 shows the traceback)'


def _of_system(number: int, path: str | None, text: str = '') -> str:
  """Returns the line for an error of the operating system."""
  text = text or os.strerror(number)
  return f'{text}: {path}' if path else text


def _chain(error: BaseException) -> Iterator[BaseException]:
  """Yields an error and what it came from."""
  waiting, seen = [error], set()
  while waiting:
    current = waiting.pop(0)
    if id(current) in seen:
      continue
    seen.add(id(current))
    yield current
    if isinstance(current, BaseExceptionGroup):
      waiting += current.exceptions
    waiting += filter(None, [current.__cause__, current.__context__])


def _place(error: BaseException) -> str:
  """Returns the file and the line that an error comes from.

  Of the user's own code if there is any on the way, else of ours.
  """
  frames = traceback.extract_tb(error.__traceback__)
  package = os.path.dirname(__file__)
  others = (package, sys.prefix, '<', *_LIBRARIES)
  users = [f for f in frames if not f.filename.startswith(others)]
  ours = [f for f in frames if f.filename.startswith(package)]
  found = (users or ours or frames)[-1:]
  return ''.join(f'{f.filename}, line {f.lineno}' for f in found)
