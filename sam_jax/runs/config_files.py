"""Config files, and the fields that may be set in a config.

A field of a plug-in's method, model, data set or task is one that the config
knows nothing of: it is new, and may be set if the factory that its section
names takes it.
"""

import contextlib
import contextvars
import difflib
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from sam_jax import lookup
from sam_jax.runs import reserved

# What names a factory, which may take fields that the config does not have.
_SECTIONS = ('data', 'method', 'model', 'optimizer', 'schedule', 'task')
_REFUSED = contextvars.ContextVar('plugins_refused', default=False)


def call(path: str | pathlib.Path, function: str, *arguments: str) -> Any:
  """Returns what a function of a Python file returns.

  Raises:
    ValueError: the file does not exist, or has a fault.
  """
  path = pathlib.Path(path)
  spec = importlib.util.spec_from_file_location('loaded_file', path)
  if spec is None or spec.loader is None or not path.exists():
    raise ValueError(f'{path} is not a Python file')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    return getattr(module, function)(*arguments)
  except (Exception, SystemExit) as error:  # the file is a user's program
    kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
    given = ':'.join([str(path), *arguments])
    raise ValueError(f'{given}: {kind}{error}') from error


def read(path: str) -> ml_collections.ConfigDict:
  """Returns the config of a file, locked.

  Args:
    path: of the file, perhaps with :ARGUMENT for its `get_config`.

  Raises:
    ValueError: the file does not exist, or has a fault.
  """
  file, _, argument = path.partition(':')
  config = call(file, 'get_config', *([argument] if argument else []))
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(f'{path}: get_config did not return a ConfigDict')
  return config.lock()


@contextlib.contextmanager
def without_plugins(refused: bool = True) -> Iterator[None]:
  """Lets `load_plugins` refuse all plug-ins.

  Args:
    refused: whether it does; False changes nothing.
  """
  token = _REFUSED.set(refused or _REFUSED.get())
  try:
    yield
  finally:
    _REFUSED.reset(token)


def load_plugins(
  config: ml_collections.ConfigDict, source: str | pathlib.Path | None = None
) -> None:
  """Imports the modules that register a user's tasks, models, data sets, ...

  They are programs: whoever opens a run runs what its config names.

  Args:
    config: names them.
    source: run directory that the config was read from, perhaps a stranger's: a
      line says what is imported for it. None is a config of the user's own.

  Raises:
    ValueError: a module cannot be imported, or plug-ins are refused, see
      `without_plugins`.
  """
  names = config.get('plugins')
  if not lookup.fits(names, tuple[str, ...]):
    raise ValueError(lookup.mismatch('plugins', names, tuple[str, ...]))
  whose = 'the config' if source is None else f'{source}: config.json'
  if names and _REFUSED.get():
    raise ValueError(
      f'{whose} names the plug-ins {", ".join(names)}, Python modules that '
      'would be imported, and plug-ins are refused; look at them first'
    )
  for name in names:
    if source is not None and name not in sys.modules:
      print(f'{whose} names the plug-in {name}: importing it', file=sys.stderr)
    try:
      importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a program of the user's
      raise ValueError(
        f'config.plugins names {name!r}, which cannot be imported: '
        f'{type(error).__name__}: {error}'
      ) from error


def fill_method(config: ml_collections.ConfigDict) -> None:
  """Sets the fields of the method that are None to the method's own defaults.

  They become part of the run, whatever the defaults will be one day.

  Args:
    config: is changed; an unknown method is left to whoever makes it.
  """
  from sam_jax import methods

  section = config.get('method')
  if not isinstance(section, ml_collections.ConfigDict):
    return  # of another program
  if section.get('name') not in methods.names():
    return
  with section.unlocked():
    for field, value in methods.defaults(section.name).items():
      if section.get(field) is None:
        section[field] = value


def names(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the dotted names of all fields and sections of a config."""
  found = []
  for name, value in config.items():
    found.append(name)
    if isinstance(value, ml_collections.ConfigDict):
      found += [f'{name}.{inner}' for inner in names(value)]
  return found


def update(
  config: ml_collections.ConfigDict, values: Mapping[str, Any]
) -> None:
  """Sets fields of a config.

  Args:
    config: is changed.
    values: by dotted name.

  Raises:
    ValueError: there is no such field, and nothing takes it as a new one; or a
      value has another type.
  """
  known = names(config)
  new = {name: value for name, value in values.items() if name not in known}
  try:
    config.update_from_flattened_dict(
      {name: value for name, value in values.items() if name in known}
    )
    admit(config, list(new))
    with config.unlocked():
      config.update_from_flattened_dict(new)
  except (KeyError, TypeError) as error:
    message = ' '.join(str(error.args[0]).split())
    raise ValueError(message) from error


def admit(config: ml_collections.ConfigDict, new: Sequence[str]) -> None:
  """Refuses new fields that nothing takes; imports the plug-ins first.

  Args:
    config: names the plug-ins and the factories.
    new: dotted names that the config does not have.

  Raises:
    ValueError: a field is not taken; the message has one with a close name.
  """
  if not new:
    return
  load_plugins(config)
  for name in new:
    _check_new(config, name)


def _options(section: str, name: str) -> list[str] | None:
  """Returns what the factory of a section takes; None is anything.

  The options of schedules and optimizers are checked when they are made.
  """
  from sam_jax import datasets, methods, models, tasks

  options: dict[str, Callable[[str], list[str] | None]] = {
    'data': datasets.options,
    'method': methods.options,
    'model': models.options,
    'task': tasks.options,
  }
  taken = options[section](name) if section in options else None
  if taken is None:
    return None
  return [o for o in taken if f'{section}.{o}' not in reserved.FIELDS]


def _check_new(config: ml_collections.ConfigDict, name: str) -> None:
  """Refuses a new field that nothing takes."""
  reserved.check(name)
  section, _, field = name.rpartition('.')
  options: list[str] | None = []
  takes = ''
  if section in _SECTIONS and section in config:
    chosen = config[section].get('name')
    options = _options(section, chosen)
    if options is None or field in options:
      return
    takes = f'; {section} {chosen!r} takes {", ".join(options) or "no options"}'
  known = [*names(config), *(f'{section}.{o}' for o in options or ())]
  close = difflib.get_close_matches(name, known, n=1)
  hint = f' (did you mean {close[0]!r}?)' if close else ''
  raise ValueError(
    f'the config has no field {name!r}{hint}{takes}; configs/default.py lists '
    'the fields'
  )
