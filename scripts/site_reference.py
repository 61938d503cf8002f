"""Parts of the site's reference that are made of the code, not typed twice.

`TABLES` has a function for each; scripts/site_hooks.py puts them into the
pages in docs/reference.
"""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import NamedTuple

from absl import flags

_PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'sam_jax'
_SECTION = re.compile(r'# --- (.*?) -*$')
# Every command has them; the page says what they do, once.
_COMMON = ('help', 'h', 'version', 'verbosity')
# What absl adds; that a flag may be repeated stands beside its name.
_REPEATED = ';\n    repeat this option to specify a list of values'
_PLACEHOLDER = re.compile(r'placeholder\((\w+)\)')


class Field(NamedTuple):
  """A field of the config, or several that one comment explains.

  Attributes:
    section: of the file.
    names: dotted.
    defaults: in Python, or None and the type.
    comment: what it means.
  """

  section: str
  names: list[str]
  defaults: list[str]
  comment: str


def config_fields() -> str:
  """Returns the fields of configs/default.py, a list for each section."""
  lines: list[str] = []
  section = None
  for field in fields():
    if field.section != section:
      section = field.section
      lines += [f'## {section.partition(" [")[0]}', '']
    for name, default in zip(field.names, field.defaults, strict=True):
      lines.append(f'`{name}` = `{default}`')
    lines += [*_definition(field.comment), '']
  return '\n'.join(lines)


def fields() -> list[Field]:
  """Returns the fields of configs/default.py, in its order."""
  source = (_PACKAGE / 'configs' / 'default.py').read_text(encoding='utf-8')
  section, comment, result = '', [], []
  assignments = _assignments(source)
  is_open = False  # whether the comment may have another field
  for number, line in enumerate(source.splitlines(), 1):
    text = line.strip()
    if match := _SECTION.match(text):
      section, comment = match.group(1), []
    elif text.startswith('#'):
      comment = [] if is_open else comment
      comment.append(text.removeprefix('#').strip())
      is_open = False
    elif number in assignments:
      name, default = assignments[number]
      if is_open:
        result[-1].names.append(name)
        result[-1].defaults.append(default)
      else:
        result.append(Field(section, [name], [default], ' '.join(comment)))
      is_open = True
    elif not text:
      comment, is_open = [], False
  return result


def _assignments(source: str) -> dict[int, tuple[str, str]]:
  """Returns name and default of each field, by the line that it begins at."""
  found = {}
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Assign):
      name = ast.unparse(node.targets[0]).partition('.')[2]
      value = ast.unparse(node.value)
      if name and 'ConfigDict' not in value:
        value = _PLACEHOLDER.sub(r'None, or \1', value)
        found[node.lineno] = (name, value)
  return found


def commands() -> str:
  """Returns what each command does, and its flags."""
  lines = []
  for name in command_names():
    module = importlib.import_module(f'sam_jax.{name}')
    lines += [f'## {name}', '', inspect.cleandoc(module.__doc__ or ''), '']
    for flag in _flags(module.flags.values):
      text = (flag.help or '').replace(_REPEATED, '')
      lines += [_term(flag), *_definition(text), '']
  return '\n'.join(lines)


def command_names() -> list[str]:
  """Returns the modules of sam_jax that are commands."""
  return [
    module.name
    for module in pkgutil.iter_modules([str(_PACKAGE)])
    if not module.name.startswith('_')
    and re.search(r'^def cli\(', _source(module.name), re.MULTILINE)
  ]


def _source(name: str) -> str:
  """Returns the source of a module at the top; that of a package is empty."""
  path = _PACKAGE / f'{name}.py'
  return path.read_text(encoding='utf-8') if path.exists() else ''


def _flags(values: flags.FlagValues) -> Iterator[flags.Flag]:
  """Yields the flags of a command but those that all commands have."""
  for name in values:
    if name == values[name].name and name not in _COMMON:
      yield values[name]


def _term(flag: flags.Flag) -> str:
  """Returns how a flag is given, and its default."""
  if flag.boolean:
    return f'`--{flag.name}`'
  name = {
    'multi string': 'string, may be repeated',
    'comma separated list of strings': 'list',
  }
  kind = name.get(flag.flag_type(), flag.flag_type())
  default = '' if flag.default in (None, []) else f', default `{flag.default}`'
  return f'`--{flag.name}` {kind}{default}'


def _definition(text: str) -> list[str]:
  """Returns the lines of a definition."""
  return textwrap.wrap(
    text,
    76,
    initial_indent=':   ',
    subsequent_indent='    ',
    break_long_words=False,
    break_on_hyphens=False,
  )


TABLES: dict[str, Callable[[], str]] = {
  'config_fields': config_fields,
  'commands': commands,
}
