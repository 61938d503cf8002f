"""The flag --config, and --config.FIELD=VALUE for the fields of the config.

ml_collections parses the values. Two things that it cannot do are done here: a
field can be set to None, and a field of a plug-in, of which the config knows
nothing until the plug-in is imported, can be set.
"""

import functools
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags as absl_flags
from ml_collections import config_flags

from sam_jax import _cli
from sam_jax.configs import default
from sam_jax.runs import config_files, fields

_OVERRIDE = re.compile(
  r'--?(?:no)?config\.(?P<field>[^=]+)(?:=(?P<value>.*))?', re.DOTALL
)

_MESSAGE = 400  # characters


class Override(NamedTuple):
  """What the command line gives for a field.

  Attributes:
    arguments: as they were typed; a tuple may be given by several.
    is_none: whether the field is set to None.
  """

  arguments: tuple[str, ...] = ()
  is_none: bool = False


Overrides = dict[str, Override]  # by the field's dotted name


class ConfigFlag:
  """The flag --config of a command, with the overrides of its fields."""

  def __init__(self, flags: _cli.Flags, required: bool = True) -> None:
    """Adds the flag to those of a command.

    Args:
      flags: of the command.
      required: whether the command needs a config.
    """
    self._overrides: Overrides = {}
    self._of_file: dict[str, Any] = {}  # the section `method`
    # What the config file says of a model, ... that is not taken, and its name.
    self._chosen: dict[str, str] = {}
    self._left_out: dict[str, Any] = {}
    self._flag = flags.DEFINE_string(
      'config',
      None,
      'Path of a config file or name of a shipped config, perhaps with '
      ':ARGUMENT; or RUN/config.json, the config of a run that has been made. '
      '--config.FIELD=VALUE sets a field, also to None where None is allowed.',
      required=required,
    )
    flags.filters.append(self._take)
    flags.fields = lambda: config_files.names(default.get_config())

  def _take(self, argv: Sequence[str]) -> list[str]:
    """Takes the overrides out of the arguments; returns the other ones."""
    self._overrides, rest = split(argv)
    return rest

  @property
  def is_given(self) -> bool:
    """Whether the command line names a config."""
    return self._flag.value is not None

  @property
  def name(self) -> str:
    """What the command line calls the config."""
    name: str = self._flag.value
    return name

  @property
  def overrides(self) -> list[str]:
    """The dotted names of the fields that the command line sets."""
    return list(self._overrides)

  def load(
    self, more: Mapping[str, str] | None = None
  ) -> ml_collections.ConfigDict:
    """Returns the config with the fields that the command line sets, locked.

    Args:
      more: values of further fields, as they would be typed.

    Raises:
      ValueError: there is no such config or field, or a value does not fit.
    """
    config = config_files.read(self.path)
    self._of_file = config.method.to_dict()
    self._chosen = config_files.chosen(config)
    if config_files.is_saved(self.path):
      config_files.load_plugins(config, self.path)
      config = _with_types(config)
    self._left_out = override(config, self._overrides | _typed(more or {}))
    fields.check(config)
    return config.lock()

  def remarks(self, chosen: ml_collections.ConfigDict) -> list[str]:
    """Returns what the config file sets for another model, ... than is chosen.

    What belongs to another model or optimizer is left out, see
    `config_files.leave_out`. The radius of another method is not.

    A radius has another size in each metric: SAM's is rarely meant for a method
    that the command line puts in its place. Nothing is said of a plug-in's
    method, whose defaults are not known yet.

    Args:
      chosen: what `load` returned.

    Returns:
      A line for each section of which fields are left out, and for each field
      of the method whose default is another one.
    """
    return [*self._about_left_out(chosen), *self._about_method(chosen)]

  def _about_left_out(self, chosen: ml_collections.ConfigDict) -> Iterator[str]:
    """Yields what is left out of the config file, and why."""
    for section, name in self._chosen.items():
      fields_of = {
        field: value
        for field, value in self._left_out.items()
        if field.startswith(f'{section}.')
      }
      if fields_of:
        shown = ', '.join(f'{k}={v!r}' for k, v in fields_of.items())
        yield (
          f'left out of the config file, because it is for the {section} '
          f'{name!r} and not for {chosen[section].name!r}: {shown}'
        )

  def _about_method(self, chosen: ml_collections.ConfigDict) -> list[str]:
    """Returns which fields the config file sets for another method."""
    from sam_jax import methods  # --help does without it

    name, own = chosen.method.name, self._of_file
    if name == own['name'] or name not in methods.names():
      return []
    return [
      f'{field}={own[short]} of the config file is meant for {own["name"]}; '
      f'{name} has {value} by default, which --config.{field}=None takes'
      for short, value in methods.defaults(name).items()
      for field in [f'method.{short}']
      if own.get(short) not in (None, value)
      and field not in (*self._overrides, *self._left_out)
    ]

  @property
  def path(self) -> str:
    """The path of the config file, with its argument if any."""
    return _cli.config_path(self._flag.value)

  def fields(self, more: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns the values that the command line sets, by dotted name.

    Args:
      more: see `load`.

    Raises:
      ValueError: see `load`.
    """
    return values(self.load(more), [*self._overrides, *(more or ())])


def _with_types(
  saved: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns the config of a run whose fields that are None have types again.

  ml_collections parses no value for a field that is None without a type.
  """
  config = default.get_config()
  with config.unlocked():
    config.update(saved)
  return config.lock()


def values(
  config: ml_collections.ConfigDict, names: Iterable[str]
) -> dict[str, Any]:
  """Returns the values of fields of a config, by dotted name."""
  return {
    name: functools.reduce(operator.getitem, name.split('.'), config)
    for name in names
  }


def _typed(given: Mapping[str, str]) -> Overrides:
  """Returns the overrides that values of fields are when they are typed."""
  return split([f'--config.{name}={text}' for name, text in given.items()])[0]


def split(argv: Sequence[str]) -> tuple[Overrides, list[str]]:
  """Splits arguments into the overrides of the config and the other ones.

  What is given last for a field counts.

  Example:
    >>> from sam_jax import _config_flag
    >>> overrides, rest = _config_flag.split(['--config.m=None', '--help'])
    >>> overrides, rest
    ({'m': Override(arguments=(), is_none=True)}, ['--help'])
  """
  overrides: Overrides = {}
  rest = []
  waiting = list(argv)
  while waiting:
    argument = waiting.pop(0)
    if not (match := _OVERRIDE.fullmatch(argument)):
      rest.append(argument)
      continue
    typed, (field, value) = [argument], match.group('field', 'value')
    if value is None and waiting and not waiting[0].startswith('--'):
      value = waiting.pop(0)
      typed.append(value)
    before = overrides.get(field, Override()).arguments
    overrides[field] = (
      Override(is_none=True) if value == 'None' else Override((*before, *typed))
    )
  return overrides, rest


def override(
  config: ml_collections.ConfigDict, overrides: Overrides
) -> dict[str, Any]:
  """Sets fields of a config; returns what it left out for that.

  Args:
    config: is changed.
    overrides: see `split`. A field may be new if the method, model, data set,
      ... that its section names takes it; plug-ins are imported first.

  Returns:
    See `config_files.leave_out`.

  Raises:
    ValueError: there is no such field, it may not be None, or its value has
      another type.
  """
  known = config_files.names(config)
  old = {name: given for name, given in overrides.items() if name in known}
  new = {name: given for name, given in overrides.items() if name not in known}
  config_files.check_no_section(config, old)
  before = config_files.chosen(config)
  _set(config, old)
  left_out = config_files.leave_out(config, before, overrides)
  config_files.admit(config, list(new))
  if new:
    with config.unlocked():
      _set(config, new)
  return left_out


def _set(config: ml_collections.ConfigDict, overrides: Overrides) -> None:
  """Sets fields that exist or may be new."""
  arguments = [a for given in overrides.values() for a in given.arguments]
  values = absl_flags.FlagValues()
  try:
    config_flags.DEFINE_config_dict(
      'config',
      config,
      flag_values=values,
      sys_argv=arguments,
      lock_config=False,
      accept_new_attributes=True,
    )
    _, *rest = values(['', *arguments])
  except (absl_flags.Error, TypeError) as error:
    raise ValueError(_shortened(str(error))) from error
  _cli.refuse_arguments(rest)
  names = [name for name, given in overrides.items() if given.is_none]
  for name in names:
    _check_none(name)
  with config.unlocked():
    config.update_from_flattened_dict(dict.fromkeys(names))


def _shortened(message: str) -> str:
  """Returns a message that may have all that was typed, which may be long."""
  half = _MESSAGE // 2
  if len(message) <= _MESSAGE:
    return message
  return f'{message[:half]} ... {message[-half:]}'


def _check_none(name: str) -> None:
  """Refuses None for a field that needs a value: its default is no None."""
  value: Any = default.get_config()
  for part in name.split('.'):
    value = value.get(part) if hasattr(value, 'get') else None
  if isinstance(value, ml_collections.ConfigDict):
    raise ValueError(f'{name} may not be None; it has fields, set these')
  if value is not None:
    raise ValueError(f'{name} may not be None; its default is {value!r}')
