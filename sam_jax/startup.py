"""What comes before the imports of a command, which take seconds."""

import pathlib
import signal
import sys

_PACKAGE = pathlib.Path(__file__).resolve().parent
_SCRIPTS = _PACKAGE.parent / 'scripts'
_PREFIX = 'sam-'  # of the console commands: sam-train is sam_jax.train


def end_at_once() -> None:
  """Has Ctrl-C end this process at once and quietly, as SIGTERM does.

  Python would raise KeyboardInterrupt wherever the program is: in the middle of
  an import, of a library's thread, of its own end. That prints the traceback of
  something that is not at fault.
  """
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_command() -> bool:
  """Returns whether this process was started as a command of this package.

  A program that imports the package decides itself what Ctrl-C does.
  """
  if sys.argv[0] == '-m':  # python -m, which is looking for the module
    arguments = sys.orig_argv[1:]
    return any(a.removeprefix('-m').startswith('sam_jax.') for a in arguments)
  program = pathlib.Path(sys.argv[0])
  if program.name.startswith(_PREFIX):
    name = program.stem.removeprefix(_PREFIX).replace('-', '_')
    return (_PACKAGE / f'{name}.py').exists()
  return program.resolve().parent == _SCRIPTS
