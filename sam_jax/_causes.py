"""Why a program cannot work, in one line, whoever raised the error."""

import errno
import itertools
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
_TENSORSTORE = re.compile(
  r"""local file "([^"]*)".*os_error_code='(\d+)'""", re.DOTALL
)
_MAX_LENGTH = 400
# Code of others; what a user wrote lies elsewhere.
_LIBRARIES = tuple(
  {sysconfig.get_path(name) for name in ('stdlib', 'purelib', 'platlib')}
)


def machine(error: BaseException) -> str | None:
  """Returns what is wrong with the machine, None if an error is another one."""
  for cause in _chain(error):
    if isinstance(cause, OSError) and cause.errno in _MACHINE:
      return _of_system(cause)
    if found := _TENSORSTORE.search(str(cause)):
      return f'{os.strerror(int(found[2]))}: {found[1]}'
  return None


def line(error: BaseException) -> str:
  """Returns one line that says what was raised, and where if it is a fault."""
  if text := machine(error):
    return text
  if isinstance(error, OSError):
    return _of_system(error)
  text = _description(error)
  if len(text) > _MAX_LENGTH:
    text = f'{text[:_MAX_LENGTH]}...'
  return f'{text} ({_place(error)}; --verbosity=0 shows the traceback)'


def _of_system(error: OSError) -> str:
  """Returns the text of an error of the operating system."""
  text = error.strerror or str(error) or type(error).__name__
  return f'{text}: {error.filename}' if error.filename else text


def _description(error: BaseException) -> str:
  """Returns the type of an error and the first line of its text."""
  if isinstance(error, SystemExit):
    return f'sys.exit({error.code!r}) was called'
  if isinstance(error, MemoryError) and not str(error):
    return 'out of memory'
  lines = filter(None, map(str.strip, str(error).splitlines()))
  return ': '.join([type(error).__name__, *itertools.islice(lines, 1)])


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
