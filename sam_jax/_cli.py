"""What all command lines share: flags, errors in one line, configs by name.

A command has its flags in a table of its own, because several commands have
flags of the same name:

    flags = _cli.Flags()
    _WORKDIR = flags.DEFINE_string('workdir', None, 'Run directory.')

    def main(argv): ...

    def cli():
      _cli.run(main, 'train', flags)

Exit status: 0 done, 1 failed, 2 something is wrong with what the user gave,
128 + the number of a signal that ended the command. Whatever ends a command, it
says so in one line; a traceback is for who asks for it (--verbosity=0).
"""

import contextlib
import difflib
import functools
import inspect
import logging as python_logging
import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sam_jax import __version__, _causes, configs, extras, lookup, startup

try:
  with extras.required():
    from absl import flags as absl_flags, logging
except ModuleNotFoundError as _error:  # only a command line imports this module
  sys.exit(f'sam_jax: {_error}')

# What is raised beside the point: by TensorStore's threads once Orbax has
# failed, and by Python about a signal that came as its handler was put back.
_ECHOES = ('Event loop is closed', 'ignored due to race condition')

Main = Callable[[Sequence[str]], int | None]


class Flags:
  """The flags of one command, defined as with `absl.flags`."""

  def __init__(self) -> None:
    """Makes a table with the flags that every command has."""
    self.values = values = absl_flags.FlagValues()
    # Each takes arguments out of a command line before its flags are parsed.
    self.filters: list[Callable[[Sequence[str]], list[str]]] = []
    # The fields of the config that the command takes, to suggest them.
    self.fields: Callable[[], list[str]] = list

    def bound(define: Callable[..., Any]) -> Callable[..., Any]:
      return functools.partial(define, flag_values=values)

    self.DEFINE_bool = bound(absl_flags.DEFINE_bool)
    self.DEFINE_enum = bound(absl_flags.DEFINE_enum)
    self.DEFINE_float = bound(absl_flags.DEFINE_float)
    self.DEFINE_integer = bound(absl_flags.DEFINE_integer)
    self.DEFINE_list = bound(absl_flags.DEFINE_list)
    self.DEFINE_multi_string = bound(absl_flags.DEFINE_multi_string)
    self.DEFINE_string = bound(absl_flags.DEFINE_string)
    self.DEFINE_bool('help', False, 'Print this text.', short_name='h')
    self.DEFINE_bool('version', False, 'Print the version.')
    self.DEFINE_integer(
      'verbosity',
      logging.WARNING,
      'What the libraries log: -1 warnings, 0 also information, and the '
      'traceback of an error.',
    )

  @property
  def is_verbose(self) -> bool:
    """Whether tracebacks are asked for."""
    values = self.values
    return values.is_parsed() and values.verbosity > logging.WARNING


class Failed(Exception):  # noqa: N818  (named after what it says)
  """A command could not do its work, and nothing that was given is at fault."""


def define_no_plugins(flags: Flags) -> Any:
  """Adds the flag of the commands that open runs; returns it."""
  return flags.DEFINE_bool(
    'no_plugins',
    False,
    'Refuse configs of runs that name plug-ins: Python modules, which would be '
    'imported.',
  )


def run(main: Main, name: str, flags: Flags) -> NoReturn:
  """Runs a command with the arguments of this process, and ends the process.

  Args:
    main: gets the arguments that are not flags, the program's name first, and
      returns an exit status, None for 0.
    name: of the command, for messages.
    flags: of the command; they are parsed here.
  """
  startup.end_at_once()
  _find_modules_here()
  try:
    arguments = _parse(main, flags)
    status = _call(main, arguments)
    sys.stdout.flush()
  except BrokenPipeError:
    _leave_unread()
  except Exception as error:
    status = report(name, error, flags)
  sys.exit(status)


def _find_modules_here() -> None:
  """Lets plug-ins lie in the current directory, as with `python -m`.

  An installed command such as sam-train has its own directory in their place.
  Here it comes last, so that no file of the user's hides another module.
  """
  if sys.flags.safe_path:
    return
  with contextlib.suppress(OSError):  # the directory may be gone
    here = os.getcwd()
    if not {here, ''} & set(sys.path):
      sys.path.append(here)


def _call(main: Main, arguments: Sequence[str]) -> int | None:
  """Returns what a command returns; only this module may end the process."""
  try:
    return main(arguments)
  except (SystemExit, KeyboardInterrupt) as error:  # of a plug-in
    raise Failed(_causes.line(error)) from error


def report(name: str, error: BaseException, flags: Flags) -> int:
  """Says in one line why a command ends, and returns its exit status.

  Args:
    name: of the command.
    error: what ended it.
    flags: of the command.
  """
  if flags.is_verbose:
    traceback.print_exception(error)
  is_input = isinstance(error, ValueError | OSError | absl_flags.Error)
  if isinstance(error, ModuleNotFoundError) and extras.advice(error.name):
    say(name, extras.advice(error.name) or '')
    return 2
  if isinstance(error, Failed) or (is_input and not _causes.machine(error)):
    say(name, error)
  else:
    say(name, _causes.line(error))
  return 2 if is_input and not _causes.machine(error) else 1


def _leave_unread() -> NoReturn:
  """Ends the process quietly: whoever read its output, as `head`, is gone."""
  # What is still in the buffer would be written at the end, and fail again.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  sys.exit(128 + signal.SIGPIPE)


def say(name: str, what: BaseException | str) -> None:
  """Prints one line on standard error, if anybody can still read it."""
  with contextlib.suppress(OSError):
    print(f'{name}: {" ".join(str(what).split())}', file=sys.stderr, flush=True)


def refuse_arguments(arguments: Sequence[str]) -> None:
  """Refuses arguments that are not flags.

  Args:
    arguments: what is left, without the program's name.
  """
  if arguments:
    raise ValueError(f'unknown arguments: {" ".join(arguments)}')


def config_path(name: str) -> str:
  """Returns the path of a config, perhaps with :ARGUMENT, from path or name."""
  return configs.find(name)


def sweep_path(name: str) -> str:
  """Returns the path of a sweep file from path or name."""
  return configs.find_sweep(name)


def checkpoint(text: str) -> int | str:
  """Returns which checkpoint a flag names: 'last', 'best', or a step."""
  return int(text) if text.isdecimal() else text


def cache_compilations() -> None:
  """Keeps compiled programs, in the user's cache unless JAX is told where."""
  import jax  # not every command computes

  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    try:
      cache = pathlib.Path.home() / '.cache' / 'sam_jax'
    except RuntimeError:  # a user without a home has no cache
      return
    jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.05)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)


def _parse(main: Main, flags: Flags) -> list[str]:
  """Parses the flags of this process; answers --help and --version."""
  asked = {argument.lstrip('-') for argument in sys.argv if argument[:1] == '-'}
  if asked & {'help', 'h'}:  # before a flag that is required is missed
    print(_help(main, flags), flush=True)
    sys.exit(0)
  if 'version' in asked:
    print(f'sam_jax {__version__}', flush=True)
    sys.exit(0)
  argv = list(sys.argv)
  for take in flags.filters:
    argv = take(argv)
  try:
    arguments = flags.values(argv)
  except absl_flags.UnrecognizedFlagError as error:
    raise ValueError(_unknown(error.flagname, flags)) from error
  absl_flags.FLAGS.mark_as_parsed()  # else absl complains when it logs
  logging.use_absl_handler()
  logging.set_verbosity(flags.values.verbosity)
  if not flags.is_verbose:
    _shorten(pathlib.Path(sys.argv[0]).stem)
  return arguments


def _unknown(name: str, flags: Flags) -> str:
  """Returns what to say of a flag that a command does not have."""
  known = [flag for flag in flags.values if len(flag) > 1]
  head, _, field = name.partition('.')
  close = []
  if not field:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
  if not close:
    is_config = field and difflib.get_close_matches(head, ['config'])
    meant = lookup.closest(field if is_config else name, flags.fields())
    close = [f'config.{each}' for each in meant]
  listed = ' or '.join(f'--{flag}' for flag in close)
  hint = f'did you mean {listed}?' if listed else '--help lists the flags'
  return f'unknown flag --{name}; {hint}'


def _shorten(name: str) -> None:
  """Has what is raised where nobody catches it take one line, too.

  Args:
    name: of the command.
  """

  def hook(*args: Any) -> None:
    # The hook of sys gets three arguments, the other ones an object.
    error = args[1] if len(args) == 3 else args[0].exc_value
    if error is None or isinstance(error, SystemExit):  # nobody's fault
      return
    if not any(echo in str(error) for echo in _ECHOES):
      say(name, _causes.line(error))

  sys.excepthook = sys.unraisablehook = threading.excepthook = hook
  logging.get_absl_handler().addFilter(_is_news)


def _is_news(record: python_logging.LogRecord) -> bool:
  """Returns whether a record says what no exception will say.

  Orbax logs what its threads raise, each of those that fail with the first. The
  command gets the same exception where it waits for them.
  """
  return not record.exc_info


def _help(main: Main, flags: Flags) -> str:
  """Returns the docstring of a command's module and what its flags mean."""
  by_module = flags.values.flags_by_module_dict()
  lines = [
    line
    for module in by_module
    if module != 'absl.flags'
    for line in flags.values.module_help(module).splitlines()
    if line.startswith(' ')  # not the name of the module
  ]
  description = inspect.cleandoc(sys.modules[main.__module__].__doc__ or '')
  return '\n'.join([description, '', 'Flags:', *lines])
