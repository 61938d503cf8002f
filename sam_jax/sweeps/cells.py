"""Sweeps: many runs of one question, as plain data.

A sweep is a list of cells. A cell is a config file and some fields of the
config. It is run in a directory of its own, which is named after its fields.
"""

import dataclasses
import hashlib
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from sam_jax.runs import config_files, workdir as workdir_lib
from sam_jax.sweeps import paper as paper_lib

Fields = dict[str, Any]  # of a config, by dotted name

CONFIG = 'config'  # the key of a cell that is not a field but the config file

# Of the name of a cell. Paths with it can still be read, and printed in a line.
_MAX_NAME = 80
_MAX_CONFIG = 30  # of them for the config file and its argument
# What a name of a file may have on any system.
_UNSAFE = re.compile(r'[^\w.,:=+-]+', re.ASCII)


class Like(NamedTuple):
  """The value of a field that is the run directory of another cell.

  The other cell has the same fields, but for the one that has this value and
  for the changes. It is run first.

  Attributes:
    changes: fields in which the other cell differs.
    without: names of further fields that the other cell does not set.
  """

  changes: Fields
  without: tuple[str, ...] = ()

  def __str__(self) -> str:
    """Returns what the name of the cell says of the other one."""
    parts = [f'{name}={value}' for name, value in self.changes.items()]
    parts += [f'without {name}' for name in self.without]
    return ','.join(parts) or 'same'


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Many runs.

  Attributes:
    cells: one dict each. The key 'config' has the config file, by its path or
      by the name of a shipped one; the other keys are fields of the config, by
      dotted name.
    replicas: names of the fields that tell replicas of a cell apart.
    paper: numbers of the paper to compare with.
    smoke: fields of all cells at smoke scale, beside those of `smoke.cells`.
  """

  cells: Sequence[Fields]
  replicas: tuple[str, ...] = ('seed',)
  paper: Sequence[paper_lib.Paper] = ()
  smoke: Fields = dataclasses.field(default_factory=dict)


def product(*axes: Iterable[Fields] | Mapping[str, Iterable]) -> list[Fields]:
  """Returns every combination of one element of each axis.

  Args:
    *axes: a list of dicts; or a dict of names with the values of each, which
      stands for all of their combinations. Of equal names the last axis counts.

  Example:
    >>> product({'config': ['a.py']}, [{'x': 1}, {'x': 2, 'y': 0}])
    [{'config': 'a.py', 'x': 1}, {'config': 'a.py', 'x': 2, 'y': 0}]
  """
  lists = [
    _grid(axis) if isinstance(axis, Mapping) else list(axis) for axis in axes
  ]
  return [
    {name: value for part in parts for name, value in part.items()}
    for parts in itertools.product(*lists)
  ]


def _grid(axis: Mapping[str, Iterable]) -> list[Fields]:
  """Returns the combinations of the values of several names."""
  return [
    dict(zip(axis, values, strict=True))
    for values in itertools.product(*axis.values())
  ]


def needs(cell: Fields) -> list[Fields]:
  """Returns the cells that have to be finished before a cell can start.

  Example:
    >>> needs({'config': 'a.py', 'x': 1, 'labels_from': Like({'x': 2})})
    [{'config': 'a.py', 'x': 2}]
  """
  return [
    _other(cell, name)
    for name, value in cell.items()
    if isinstance(value, Like)
  ]


def _other(cell: Fields, name: str) -> Fields:
  """Returns the cell whose run directory is the value of a field."""
  like = cell[name]
  kept = {k: v for k, v in cell.items() if k not in (name, *like.without)}
  return kept | like.changes


def chains(cells: Iterable[Fields]) -> list[list[Fields]]:
  """Returns lists of cells that can be run side by side.

  Each cell is in one list, behind the cells that it needs.
  """
  lists: list[list[Fields]] = []
  waiting = list(cells)
  while waiting:
    # A cell has to wait for those that it needs and that wait themselves.
    ready = [c for c in waiting if not any(n in waiting for n in needs(c))]
    for cell in ready:
      needed = needs(cell)
      mine = [chain for chain in lists if any(n in chain for n in needed)]
      lists = [chain for chain in lists if chain not in mine]
      lists.append([*itertools.chain.from_iterable(mine), cell])
    waiting = [c for c in waiting if c not in ready]
  return lists


def only(cells: Sequence[Fields], pattern: str) -> list[Fields]:
  """Returns the cells that match a pattern, and the cells they need.

  Args:
    cells: to choose from.
    pattern: regular expression, searched for in the descriptions.

  Raises:
    ValueError: the pattern is no regular expression, or no cell matches.
  """
  try:
    names = [cell_name(c) for c in cells if re.search(pattern, description(c))]
  except re.error as error:
    raise ValueError(
      f'{pattern!r} is not a regular expression: {error}'
    ) from error
  if not names:
    raise ValueError(
      f'{pattern!r} matches none of {len(cells)} cells, the first of which is '
      f'{description(cells[0])}'
    )
  by_name = {cell_name(cell): cell for cell in cells}
  for name in names:  # grows
    names += [n for n in map(cell_name, needs(by_name[name])) if n not in names]
  chosen = set(names)
  return [cell for name, cell in by_name.items() if name in chosen]


def check(sweep: Sweep) -> None:
  """Refuses a sweep whose cells cannot all be run in directories of their own.

  Raises:
    ValueError: there are no cells; or a cell has no config file, the name of
      another cell, or needs a cell that is not in the sweep.
  """
  names: dict[str, Fields] = {}
  for cell in sweep.cells:
    if CONFIG not in cell:
      raise ValueError(f'cell {cell} has no {CONFIG!r}, the file to start from')
    other = names.setdefault(cell_name(cell), cell)
    if other is not cell:
      raise ValueError(f'two cells have the name {cell_name(cell)}')
  if not names:
    raise ValueError('the sweep has no cells')
  for name, cell in names.items():
    for needed in needs(cell):
      if cell_name(needed) not in names:
        raise ValueError(
          f'cell {name} needs {description(needed)}, which is not in the sweep'
        )


def description(cell: Fields) -> str:
  """Returns what a cell is, in one line.

  Fields that leave the result as it is, such as where the data are, do not
  belong to it.

  Example:
    >>> description({'config': 'configs/digits.py:noisy', 'method.rho': 0.1})
    'digits.py:noisy,method.rho=0.1'
  """
  return ','.join(map(_safe, _parts(cell)))


def cell_name(cell: Fields) -> str:
  """Returns the name of a cell's run directory, of at most 80 characters.

  It is the description. Of a longer one the first fields are left out, because
  a sweep has its constants there; a digest of what the cell is takes their
  place, and that of characters which a file name cannot have.

  Example:
    >>> cell_name({'config': 'configs/digits.py:noisy', 'method.rho': 0.1})
    'digits.py:noisy,method.rho=0.1'
    >>> cell_name({'config': 'digits.py', 'model.features': (8, 16)})
    'digits.py,model.features=_8,_16_,~d233058872'
  """
  exact = ','.join(_parts(cell))
  if len(exact) <= _MAX_NAME and exact == description(cell):
    return exact
  digest = hashlib.sha256(exact.encode('utf-8', 'backslashreplace')).hexdigest()
  config, *fields = map(_safe, _parts(cell))
  config, mark = config[:_MAX_CONFIG], f'~{digest[:10]}'
  name = ','.join([config, *fields, mark])
  while len(name) > _MAX_NAME:
    fields = fields[1:]
    name = ','.join([config, '...', *fields, mark])
  return name


def _parts(cell: Fields) -> list[str]:
  """Returns what tells a cell from others: its config file, and its fields."""
  path, colon, argument = cell[CONFIG].partition(':')
  return [
    f'{pathlib.PurePath(path).name}{colon}{argument}',
    *(
      f'{name}={value}'
      for name, value in cell.items()
      if name != CONFIG and not workdir_lib.is_operational(name)
    ),
  ]


def _safe(text: str) -> str:
  """Returns a text with an underscore for what a file name cannot have."""
  return _UNSAFE.sub('_', text)


def workdir(cell: Fields, directory: pathlib.Path) -> pathlib.Path:
  """Returns the run directory of a cell, given the directory of the sweep."""
  return directory / cell_name(cell)


def fields(cell: Fields, directory: pathlib.Path) -> Fields:
  """Returns the fields of a cell's config, by dotted name.

  Args:
    cell: of a sweep.
    directory: of the sweep.
  """
  return {
    name: str(workdir(_other(cell, name), directory))
    if isinstance(value, Like)
    else value
    for name, value in cell.items()
    if name != CONFIG
  }


def arguments(cell: Fields, directory: pathlib.Path) -> list[str]:
  """Returns the command-line arguments of `sam_jax.train` for a cell."""
  return [
    f'--config={cell[CONFIG]}',
    *(f'--config.{k}={v}' for k, v in fields(cell, directory).items()),
    f'--workdir={workdir(cell, directory)}',
  ]


def command(cell: Fields, directory: pathlib.Path) -> list[str]:
  """Returns the command line of a cell, without the interpreter."""
  return ['-m', 'sam_jax.train', *arguments(cell, directory)]


def config(cell: Fields, directory: pathlib.Path) -> ml_collections.ConfigDict:
  """Returns the config of a cell as its command line would make it.

  Args:
    cell: of a sweep; names its config file by the path.
    directory: of the sweep.

  Raises:
    ValueError: the config does not have such a field, or the field has another
      type; or the config file does not exist, or has a fault.
  """
  made = config_files.read(cell[CONFIG])
  config_files.update(made, fields(cell, directory))
  return made
