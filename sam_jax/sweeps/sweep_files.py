"""Sweep files: Python files of a user, whose `get_sweep()` returns a sweep.

What such a file returns may be anything. It is checked here, so that what is
wrong is one line, and the rest of the package can rely on the types.
"""

import dataclasses
import math
import numbers
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from sam_jax.runs import config_files
from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

_VALUES = 'None, booleans, numbers, strings, or tuples and lists of these'
_MAX_DEPTH = 10  # of these; a list may contain itself


def load(path: str, find: Callable[[str], str]) -> cells_lib.Sweep:
  """Returns what `get_sweep()` of a sweep file returns, checked.

  Args:
    path: of the sweep file.
    find: returns the absolute path of the config file that a cell names, see
      `sam_jax.configs.find`.

  Raises:
    ValueError: the sweep file, or a config file that it names, does not exist
      or has a fault.
  """
  made = config_files.call(path, 'get_sweep')
  try:
    sweep = _checked(made)
    cells_lib.check(sweep)
    cells = [_located(cell, find) for cell in sweep.cells]
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  return dataclasses.replace(sweep, cells=cells)


def _located(
  cell: cells_lib.Fields, find: Callable[[str], str]
) -> cells_lib.Fields:
  """Returns a cell with absolute paths of its config file and of its needs'."""
  located = {
    name: value._replace(changes=_located(value.changes, find))
    if isinstance(value, cells_lib.Like)
    else value
    for name, value in cell.items()
  }
  if cells_lib.CONFIG in cell:
    located[cells_lib.CONFIG] = find(cell[cells_lib.CONFIG])
  return located


def _checked(made: Any) -> cells_lib.Sweep:
  """Returns a sweep of the types that `Sweep` promises.

  Raises:
    ValueError: it has others.
  """
  if not isinstance(made, cells_lib.Sweep):
    raise ValueError(
      f'get_sweep returned {reprlib.repr(made)}; it must return a '
      'sam_jax.sweeps.cells.Sweep'
    )
  return cells_lib.Sweep(
    cells=[
      _fields(f'cell {i}', cell)
      for i, cell in enumerate(_items('cells', made.cells))
    ],
    replicas=_names('replicas', made.replicas),
    paper=[_paper(number) for number in _items('paper', made.paper)],
    smoke=_fields('smoke', made.smoke),
  )


def _items(what: str, values: Any) -> list[Any]:
  """Returns the elements of a list, a tuple, or anything that yields them."""
  if not isinstance(values, Iterable) or isinstance(values, str | Mapping):
    raise ValueError(f'{what} is {reprlib.repr(values)}; it must be a list')
  try:
    return list(values)
  except Exception as error:  # a generator is a program of the user's
    raise ValueError(f'{what}: {type(error).__name__}: {error}') from error


def _names(what: str, values: Any) -> tuple[str, ...]:
  """Returns names of fields."""
  names = _items(what, values)
  for name in names:
    if not isinstance(name, str):
      raise ValueError(f'{what} has {reprlib.repr(name)}, which is not a name')
  return tuple(names)


def _paper(number: Any) -> paper_lib.Paper:
  """Returns an entry of `Sweep.paper`."""
  if not isinstance(number, paper_lib.Paper):
    raise ValueError(
      f'paper has {reprlib.repr(number)}; its entries must be of '
      'sam_jax.sweeps.paper.Paper'
    )
  values = [number.number]
  values += [] if number.half_width is None else [number.half_width]
  are_numbers = all(isinstance(value, numbers.Real) for value in values)
  has_names = isinstance(number.fields, Mapping) and isinstance(
    number.metric, str
  )
  if not are_numbers or not has_names:
    raise ValueError(
      f'paper has {reprlib.repr(number)}; fields must be a dict, number and '
      'half_width numbers, and metric a string'
    )
  return number


def _fields(
  what: str, fields: Any, outer: tuple[int, ...] = ()
) -> cells_lib.Fields:
  """Returns a dict from names of fields to values that a config can have.

  Args:
    what: it is, for messages.
    fields: as the user gave them.
    outer: identities of the dicts in which these are nested.
  """
  if not isinstance(fields, Mapping):
    raise ValueError(
      f'{what} is {reprlib.repr(fields)}; it must be a dict from names of '
      'fields to values'
    )
  if id(fields) in outer:
    raise ValueError(f'{what} needs itself by a Like')
  checked = {}
  for name, value in fields.items():
    if not isinstance(name, str) or not name:
      raise ValueError(
        f'{what} has the key {reprlib.repr(name)}; keys are names of fields'
      )
    if name == cells_lib.CONFIG and not isinstance(value, str):
      raise ValueError(
        f'{what}: {name!r} is {reprlib.repr(value)}; it must be the path or '
        'the name of a config file'
      )
    checked[name] = _value(f'{what}: {name!r}', value, (*outer, id(fields)))
  return checked


def _value(what: str, value: Any, outer: tuple[int, ...]) -> Any:
  """Returns the value of a field: plain, or a `Like`."""
  if not isinstance(value, cells_lib.Like):
    return _plain(what, value)
  return cells_lib.Like(
    _fields(what, value.changes, outer), _names(what, value.without)
  )


def _plain(what: str, value: Any, depth: int = 0) -> Any:
  """Returns a value that a command line can have; scalars of NumPy become so.

  Args:
    what: it is, for messages.
    value: as the user gave it.
    depth: of the tuples and lists in which it is nested.
  """
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, os.PathLike):
    value = os.fspath(value)
  if isinstance(value, tuple | list) and depth < _MAX_DEPTH:
    elements = [_plain(what, element, depth + 1) for element in value]
    return elements if isinstance(value, list) else tuple(elements)
  if value is not None and not isinstance(value, bool | int | float | str):
    raise ValueError(
      f'{what} is {reprlib.repr(value)}; values can be {_VALUES}, or a Like'
    )
  if isinstance(value, float) and math.isnan(value):
    raise ValueError(f'{what} is {value}, which is no number')
  if isinstance(value, str) and '\0' in value:
    raise ValueError(f'{what} is {value!r}, which has a null character')
  return value
