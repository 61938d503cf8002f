"""Sweeps: many runs of one question, as plain data, and where they stand.

A sweep is a list of cells; a cell is a config file and some fields of it. Each
cell has a run directory of its own, named after its fields, under one directory
that several machines may share.
"""

import ast
import contextlib
import dataclasses
import errno
import importlib.util
import itertools
import json
import os
import pathlib
import re
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from sam_jax.runs import metrics_log, workdir as workdir_lib

Fields = dict[str, Any]

CONFIG = 'config'  # the key of a cell that is not a field but the config file

_MAX_NAME = 240  # of the 255 of most file systems, a suffix left out

# Seconds after which a claim that nobody renews is free, and between renewals.
STALE_SECONDS = 120
RENEW_SECONDS = 20


class Like(NamedTuple):
  """As the value of a field of a cell: the run directory of another cell.

  That cell is this one without the field, and is run before.

  Attributes:
    changes: in what it differs besides; None leaves a field out.
  """

  changes: Fields

  def __str__(self) -> str:
    """Returns what the cell's name has of it."""
    return ','.join(f'{k}={v}' for k, v in self.changes.items()) or 'same'


class Paper(NamedTuple):
  """What the paper has for some cells.

  Attributes:
    fields: of the config, by dotted name, of all cells that are meant; a
      function in place of a value says whether a value is.
    error: test error in percent.
    half_width: of its 95 % confidence interval, None if there is none.
    metric: what of an evaluation it is, error_rate or top5_error_rate.

  `numbers` reads error and half width as the paper prints them. A cell is
  compared with the first entry of each metric that means it.
  """

  fields: Fields
  error: float
  half_width: float | None = None
  metric: str = 'error_rate'

  def means(self, fields: Fields) -> bool:
    """Whether a run with these fields is meant."""
    return all(
      is_meant(fields.get(name))
      if callable(is_meant)
      else fields.get(name) == is_meant
      for name, is_meant in self.fields.items()
    )


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Many runs.

  Attributes:
    cells: a dict each, of fields by dotted name, and 'config', the config file,
      whose path starts from the checkout.
    replicas: fields that tell replicas of a cell apart.
    paper: numbers of the paper to compare with.
    smoke: fields of all cells at smoke scale, beside those of `smoke.cells`.
  """

  cells: Sequence[Fields]
  replicas: tuple[str, ...] = ('seed',)
  paper: Sequence[Paper] = ()
  smoke: Fields = dataclasses.field(default_factory=dict)


def load(path: pathlib.Path) -> Sweep:
  """Returns what `get_sweep()` of a sweep file returns, checked.

  Raises:
    ValueError: the file is not there, or has a fault.
  """
  sweep = _call(path, 'get_sweep')
  check(sweep)
  return sweep


def _call(path: pathlib.Path, function: str, *arguments: str) -> Any:
  """Returns what a function of a Python file does.

  Raises:
    ValueError: the file is not there, or has a fault.
  """
  spec = importlib.util.spec_from_file_location('loaded_file', path)
  if spec is None or not path.exists():
    raise ValueError(f'{path} is no Python file')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    return getattr(module, function)(*arguments)
  except Exception as error:  # the file is a program of the user's
    raise ValueError(f'{path}: {type(error).__name__}: {error}') from error


def product(*axes: Iterable[Fields] | Mapping[str, Iterable]) -> list[Fields]:
  """Returns every combination of an element of each axis.

  Args:
    *axes: a list of dicts, or a dict of one or several names with their values,
      which stands for all of their combinations. What comes later wins.

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
    _like(cell, name) for name, value in cell.items() if isinstance(value, Like)
  ]


def _like(cell: Fields, name: str) -> Fields:
  """Returns the cell whose run directory a field is."""
  changed = {k: v for k, v in cell.items() if k != name} | cell[name].changes
  return {k: v for k, v in changed.items() if v is not None}


def chains(cells: Iterable[Fields]) -> list[list[Fields]]:
  """Returns cells in lists that can be run side by side.

  Each cell is in one list, behind those of the cells that it needs.
  """
  lists: list[list[Fields]] = []
  waiting = list(cells)
  while waiting:
    # What needs one that is still waiting has to wait as well.
    ready = [c for c in waiting if not any(n in waiting for n in needs(c))]
    for cell in ready:
      needed = needs(cell)
      mine = [chain for chain in lists if any(n in chain for n in needed)]
      lists = [chain for chain in lists if chain not in mine]
      lists.append([*itertools.chain.from_iterable(mine), cell])
    waiting = [c for c in waiting if c not in ready]
  return lists


def only(cells: Sequence[Fields], pattern: str) -> list[Fields]:
  """Returns the cells in whose name a pattern is found, and what they need.

  Raises:
    ValueError: it is no regular expression, or is found in none.
  """
  try:
    names = [n for n in map(cell_name, cells) if re.search(pattern, n)]
  except re.error as error:
    raise ValueError(f'{pattern!r} is no pattern: {error}') from error
  if not names:
    raise ValueError(
      f'{pattern!r} is found in none of {len(cells)} cells, the first of which '
      f'is {cell_name(cells[0])}'
    )
  by_name = {cell_name(cell): cell for cell in cells}
  for name in names:  # grows
    names += [n for n in map(cell_name, needs(by_name[name])) if n not in names]
  chosen = set(names)
  return [cell for name, cell in by_name.items() if name in chosen]


def numbers(text: str) -> list[tuple[float, float | None]]:
  """Reads errors and half widths of a row of the paper.

  Args:
    text: such as '2.7±0.1 2.1±<0.1 15.3'; '<0.1' counts as 0.1.

  Example:
    >>> numbers('2.7±0.1 2.1±<0.1 15.3')
    [(2.7, 0.1), (2.1, 0.1), (15.3, None)]
  """
  parts = (number.partition('±') for number in text.split())
  return [
    (float(error), float(half.lstrip('<')) if half else None)
    for error, _, half in parts
  ]


def check(sweep: Sweep) -> None:
  """Raises ValueError unless every cell can be run, under a name of its own."""
  names: dict[str, Fields] = {}
  for cell in sweep.cells:
    if CONFIG not in cell:
      raise ValueError(f'cell {cell} has no {CONFIG!r}, the file to start from')
    other = names.setdefault(cell_name(cell), cell)
    if other is not cell:
      raise ValueError(f'cell {cell_name(cell)} is there twice')
  for name in names:
    if len(name) > _MAX_NAME:
      raise ValueError(
        f'cell {name} has {len(name)} characters; a file name of it may have '
        f'at most {_MAX_NAME}: shorten paths, or put fields into a config file'
      )
  if not names:
    raise ValueError('the sweep has no cells')
  for name, cell in names.items():
    missing = [n for n in map(cell_name, needs(cell)) if n not in names]
    if missing:
      raise ValueError(f'cell {name} needs {missing[0]}, which is not there')


def cell_name(cell: Fields) -> str:
  """Returns the name of a cell's run directory.

  Fields that do not change what comes out, such as where the data are, are not
  in it.

  Example:
    >>> cell_name({'config': 'configs/digits.py:noisy', 'method.rho': 0.1})
    'digits.py:noisy,method.rho=0.1'
  """
  config = pathlib.PurePath(cell[CONFIG]).name
  parts = [
    f'{name}={value}'
    for name, value in cell.items()
    if name != CONFIG and not workdir_lib.is_operational(name)
  ]
  return re.sub(r'[^\w.,:=+-]+', '_', ','.join([config, *parts]))


def parse_field(text: str) -> tuple[str, Any]:
  """Returns name and value of a field that a command line sets for all cells.

  data.directory is one from here; other paths start from the checkout, where
  cells run.

  Raises:
    ValueError: it is not of the form FIELD=VALUE.

  Example:
    >>> parse_field('method.rho=0.1')
    ('method.rho', 0.1)
  """
  name, separator, value = text.partition('=')
  if not separator:
    raise ValueError(f'--set={text} is no FIELD=VALUE')
  with contextlib.suppress(ValueError, SyntaxError):
    value = ast.literal_eval(value)
  is_path = name == 'data.directory' and isinstance(value, str)
  if is_path and '://' not in value:
    value = os.path.abspath(os.path.expanduser(value))
  return name, value


def fields(cell: Fields, directory: pathlib.Path) -> Fields:
  """Returns the fields of a cell's config, by dotted name.

  Args:
    cell: of a sweep.
    directory: of all runs.
  """
  return {
    name: str(directory / cell_name(_like(cell, name)))
    if isinstance(value, Like)
    else value
    for name, value in cell.items()
    if name != CONFIG
  }


def arguments(cell: Fields, directory: pathlib.Path) -> list[str]:
  """Returns what the command line of `sam_jax.train` gets for a cell."""
  return [
    f'--config={cell[CONFIG]}',
    *(f'--config.{k}={v}' for k, v in fields(cell, directory).items()),
    f'--workdir={directory / cell_name(cell)}',
  ]


def command(cell: Fields, directory: pathlib.Path) -> list[str]:
  """Returns the command line of a cell, after the interpreter."""
  return ['-m', 'sam_jax.train', *arguments(cell, directory)]


def config(
  cell: Fields, directory: pathlib.Path, root: pathlib.Path
) -> ml_collections.ConfigDict:
  """Returns the config of a cell as the command line would make it.

  Args:
    cell: of a sweep.
    directory: of all runs.
    root: what the path of the cell's config file starts from.

  Raises:
    ValueError: the config has no such field, or of another type; or the file is
      not there, or has a fault.
  """
  path, _, argument = cell[CONFIG].partition(':')
  arguments = [argument] if argument else []
  made = _call(root / path, 'get_config', *arguments)
  made.lock()
  try:
    made.update_from_flattened_dict(fields(cell, directory))
  except (KeyError, TypeError) as error:
    raise ValueError(f'cell {cell_name(cell)}: {error.args[0]}') from error
  return made


def result(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns what a finished run found, None if it is not finished."""
  try:
    return json.loads((workdir / 'result.json').read_text('utf-8'))
  except FileNotFoundError:
    return None


def is_finished(workdir: pathlib.Path) -> bool:
  """Whether a run has its result; no if the file system does not answer."""
  return os.path.exists(workdir / 'result.json')


def fraction(workdir: pathlib.Path) -> float:
  """Returns the share of a run that is made, by its log; in [0, 1].

  0 if its files cannot be read: the run itself will say what is wrong.
  """
  if is_finished(workdir):
    return 1.0
  try:
    config = workdir_lib.read_config(workdir)
    lines = metrics_log.read(workdir) if config is not None else []
  except (OSError, ValueError):
    return 0.0
  if not lines:
    return 0.0
  if config.num_steps is None:
    return min(lines[-1]['epoch'] / config.num_epochs, 1.0)
  return min(lines[-1]['step'] / config.num_steps, 1.0)


class Claim:
  """The right to run a cell: a file that one machine makes and renews.

  Whoever dies leaves a claim that is not renewed: free at once for who sees
  that the process is gone, and for other machines after two minutes. One that
  is given back is free, too. To take it is to make the file of the next number,
  which only one can.
  """

  def __init__(self, directory: pathlib.Path, name: str) -> None:
    """Prepares to claim; `take` does it.

    Args:
      directory: of all claims.
      name: of the cell.
    """
    self._directory, self._name = directory, name
    self._number = -1
    self._owner = {
      'machine': _machine(),
      'pid': os.getpid(),
      'began': _began(os.getpid()),
      'id': uuid.uuid4().hex,
    }

  def take(self) -> bool:
    """Returns whether the cell is ours now."""
    self._directory.mkdir(parents=True, exist_ok=True)
    last = self._last_number()
    if last >= 0 and not self._is_free(self._path(last)):
      return False
    if not self._create(self._path(last + 1)):
      return False
    if self._last_number() != last + 1:
      # While we looked, another one took it and removed what we saw.
      self._path(last + 1).unlink(missing_ok=True)
      return False
    self._number = last + 1
    for number in range(self._number):
      self._path(number).unlink(missing_ok=True)
    return True

  def renew(self) -> bool:
    """Says that we are alive; returns whether the cell is still ours."""
    try:
      if not self._is_ours():
        return False
      os.utime(self._path(self._number))
    except OSError:  # of a file system that is gone for a moment
      pass
    return True

  def give_back(self) -> None:
    """Makes the cell free, if it is ours.

    Where the file system does not let us, it is when this process is gone.
    """
    with contextlib.suppress(OSError):
      if self._is_ours():
        # A file stays: numbers that began anew could be taken twice.
        self._write(None).replace(self._path(self._number))
    self._number = -1

  def _is_ours(self) -> bool:
    """Whether we took the cell, and nobody did after us."""
    return self._number >= 0 and self._last_number() == self._number

  def _path(self, number: int) -> pathlib.Path:
    """Returns the file of the claim of that number."""
    return self._directory / f'{self._name}.{number}'

  def _last_number(self) -> int:
    """Returns the highest number there is, -1 if there is none."""
    parts = (path.name.rpartition('.') for path in self._directory.iterdir())
    numbers = (n for name, _, n in parts if name == self._name)
    return max((int(n) for n in numbers if n.isdecimal()), default=-1)

  def _create(self, path: pathlib.Path) -> bool:
    """Makes the file, whole, unless there is one."""
    partial = self._write(self._owner)
    try:
      os.link(partial, path)
      return True
    except FileExistsError:
      return False
    finally:
      partial.unlink()

  def _write(self, owner: Fields | None) -> pathlib.Path:
    """Writes what a claim's file holds, to a file of ours."""
    partial = self._directory / f'.{self._owner["id"]}'
    with partial.open('w', encoding='utf-8') as stream:
      json.dump(owner, stream)
      stream.flush()
      os.fsync(stream.fileno())
    return partial

  def _is_free(self, path: pathlib.Path) -> bool:
    """Whether who made the claim has given it back, or is gone."""
    try:
      text = path.read_text('utf-8')
      age = self._now() - path.stat().st_mtime
    except OSError as error:
      # ESTALE is NFS's word for a file that another machine has replaced.
      if error.errno not in (errno.ENOENT, errno.ESTALE):
        raise
      return False  # another one has just taken it
    try:
      owner = json.loads(text)
    except ValueError:  # of a file system that a power cut left without it
      return age > STALE_SECONDS
    if owner is None:
      return True
    if owner.get('machine') == self._owner['machine']:
      return _began(owner['pid']) != owner['began']
    return age > STALE_SECONDS

  def _now(self) -> float:
    """Returns the time by the clock that stamps the files."""
    probe = self._directory / f'.{self._owner["id"]}'
    probe.touch()
    try:
      return probe.stat().st_mtime
    finally:
      probe.unlink()


def _machine() -> str:
  """Returns what tells the machines apart whose process numbers we can ask of.

  Host names alone do not: containers share them, and are called localhost.
  """
  parts = [socket.gethostname()]
  with contextlib.suppress(OSError):  # of systems without /proc
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text()
    parts += [boot.strip(), os.readlink('/proc/self/ns/pid')]
  return ' '.join(parts)


def _began(pid: int) -> str | None:
  """Returns when a process of this machine began, None if there is none."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    return stat.rsplit(')', 1)[1].split()[19]
  except (FileNotFoundError, ProcessLookupError):
    pass
  # Without /proc: whether there is a process of that number.
  try:
    os.kill(pid, 0)
  except (ProcessLookupError, PermissionError):
    return None
  return ''
