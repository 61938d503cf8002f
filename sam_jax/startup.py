"""What comes before the imports of a command, which take seconds.

Imports little itself: until it has run, Ctrl-C prints a traceback.
"""

import ctypes
import os
import signal
import sys

_PACKAGE = os.path.dirname(os.path.realpath(__file__))
_SCRIPTS = os.path.join(os.path.dirname(_PACKAGE), 'scripts')
_PREFIX = 'sam-'  # of the console commands: sam-train is sam_jax.train
_ARENA_MAX = -8  # of glibc's mallopt


def end_at_once() -> None:
  """Has Ctrl-C end this process at once and quietly, as SIGTERM does.

  Python would raise KeyboardInterrupt wherever the program is: in the middle of
  an import, of a library's thread, of its own end. That prints the traceback of
  something that is not at fault.
  """
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def share_memory() -> None:
  """Has all threads take memory from one place, where the C library is glibc.

  It would give each thread its own, up to eight per core. Orbax starts threads
  for each checkpoint, and what is free in the place of one is of no use to
  another: a run that saved 800 checkpoints an hour grew for 50 minutes. Whoever
  sets MALLOC_ARENA_MAX, or arena_max in GLIBC_TUNABLES, decides it.
  """
  tunables = os.environ.get('GLIBC_TUNABLES', '')
  if 'MALLOC_ARENA_MAX' in os.environ or 'arena_max' in tunables:
    return
  try:
    ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
  except (AttributeError, OSError, TypeError):
    pass  # another C library


def is_command() -> bool:
  """Returns whether this process was started as a command of this package.

  A program that imports the package decides itself what Ctrl-C does.
  """
  if sys.argv[0] == '-m':  # python -m, which is looking for the module
    arguments = sys.orig_argv[1:]
    return any(a.removeprefix('-m').startswith('sam_jax.') for a in arguments)
  if sys.argv[0] in ('', '-c'):
    return False
  directory, program = os.path.split(os.path.realpath(sys.argv[0]))
  if program.startswith(_PREFIX):
    name = os.path.splitext(program)[0].removeprefix(_PREFIX).replace('-', '_')
    return os.path.exists(os.path.join(_PACKAGE, f'{name}.py'))
  return directory == _SCRIPTS
