"""Config files, and the fields that may be set in a config.

A field of a plug-in's method, model, data set or task is one that the config
knows nothing of: it is new, and may be set if the factory that its section
names takes it.
"""

import contextlib
import contextvars
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from sam_jax import lookup
from sam_jax.runs import fields, reserved, workdir as workdir_lib

# What names a factory, which may take fields that the config does not have.
_SECTIONS = ('data', 'method', 'model', 'optimizer', 'schedule', 'task')
# Of those, the ones all of whose fields belong to what the name picks.
_OWNERS = ('model', 'optimizer')
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
    path: of a Python file, perhaps with :ARGUMENT for its `get_config`, or of
      the config.json that a run has left in its directory.

  Raises:
    ValueError: the file does not exist, or has a fault.
  """
  file, _, argument = path.partition(':')
  if is_saved(path):
    return _read_saved(pathlib.Path(file), argument)
  config = call(file, 'get_config', *([argument] if argument else []))
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(f'{path}: get_config did not return a ConfigDict')
  return config.lock()


def is_saved(path: str) -> bool:
  """Returns whether a config file is one that a run has written."""
  return path.partition(':')[0].endswith('.json')


def _read_saved(path: pathlib.Path, argument: str) -> ml_collections.ConfigDict:
  """Returns the config of a run that has been made before."""
  if argument:
    raise ValueError(f'{path} takes no argument, and {argument!r} is given')
  config = None
  if path.name == 'config.json':
    config = workdir_lib.read_config(path.parent)
  if config is None:
    raise ValueError(
      f'{path} is not the config of a run; give RUN/config.json, where RUN is '
      'a run directory'
    )
  fields.unset_defaults(config)
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


def names(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the dotted names of all fields and sections of a config."""
  found = []
  for name, value in config.items():
    found.append(name)
    if isinstance(value, ml_collections.ConfigDict):
      found += [f'{name}.{inner}' for inner in names(value)]
  return found


def chosen(config: ml_collections.ConfigDict) -> dict[str, str]:
  """Returns the names that the sections of a config have, by section."""
  sections = {name: config.get(name) for name in _SECTIONS}
  return {
    name: section['name']
    for name, section in sections.items()
    if isinstance(section, ml_collections.ConfigDict) and 'name' in section
  }


def leave_out(
  config: ml_collections.ConfigDict,
  before: Mapping[str, str],
  given: Collection[str],
) -> dict[str, Any]:
  """Unsets what a config file says of a model when another one is chosen.

  The fields of a model, or of an optimizer, mean nothing to another one, and
  would be refused. What the user gives stays, and is refused if it does not
  fit.

  Args:
    config: is changed.
    before: what `chosen` returned for the config file.
    given: dotted names of the fields that the user sets.

  Returns:
    The values that were unset, by dotted name.
  """
  now = chosen(config)
  dropped = {
    f'{section}.{field}': value
    for section in _OWNERS
    if section in before and now.get(section) != before[section]
    for field, value in config[section].items()
    if field != 'name' and value is not None
    if f'{section}.{field}' not in given
  }
  with config.unlocked():
    config.update_from_flattened_dict(dict.fromkeys(dropped))
  return dropped


def check_no_section(
  config: ml_collections.ConfigDict, given: Collection[str]
) -> None:
  """Refuses to set a section as if it were a field.

  Raises:
    ValueError: the message names fields of the section.
  """
  for name in given:
    section = config.get(name)
    if isinstance(section, ml_collections.ConfigDict):
      field = 'name' if 'name' in section else next(iter(section), '...')
      raise ValueError(
        f'{name!r} is a section of the config; set a field of it, such as '
        f'{name}.{field}'
      )


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
  before = chosen(config)
  check_no_section(config, values)
  try:
    config.update_from_flattened_dict(
      {name: value for name, value in values.items() if name in known}
    )
    leave_out(config, before, values)
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
  hint = lookup.did_you_mean(name, known)
  raise ValueError(
    f'the config has no field {name!r}{hint}{takes}; configs/default.py lists '
    'the fields'
  )
