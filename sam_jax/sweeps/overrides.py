"""Fields that are set for all cells of a sweep, as by --set=FIELD=VALUE."""

import ast
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from sam_jax.runs import files
from sam_jax.sweeps import cells as cells_lib

# What a text raises that is no Python value, and so is a string.
_NO_LITERAL = (MemoryError, RecursionError, SyntaxError, TypeError, ValueError)


def parse_field(text: str) -> tuple[str, Any]:
  """Returns the name and the value of a field that is set for all cells.

  A value of data.directory is a path and is made absolute.

  Raises:
    ValueError: the text has not the form FIELD=VALUE, or the path is none.

  Example:
    >>> parse_field('method.rho=0.1')
    ('method.rho', 0.1)
  """
  name, separator, value = text.partition('=')
  if not separator:
    raise ValueError(f'--set={text} does not have the form FIELD=VALUE')
  with contextlib.suppress(*_NO_LITERAL):
    value = ast.literal_eval(value)
  return name, absolute(name, value)


def absolute(name: str, value: Any) -> Any:
  """Returns the value of a field; where the data are as an absolute path."""
  is_path = name == 'data.directory' and isinstance(value, str)
  return str(files.user_path(value)) if is_path else value


def parse_fields(texts: Iterable[str]) -> cells_lib.Fields:
  """Returns the fields that are set for all cells, see `parse_field`.

  Raises:
    ValueError: a text cannot be parsed, or a field is set twice.
  """
  fields: cells_lib.Fields = {}
  for text in texts:
    name, value = parse_field(text)
    if name == cells_lib.CONFIG:
      raise ValueError(
        f'--set={text} is not allowed: a config file is no field'
      )
    if name in fields:
      raise ValueError(f'--set={name} is given twice; give one value')
    fields[name] = value
  return fields


def check_not_varied(
  fields: cells_lib.Fields, cells: Sequence[cells_lib.Fields]
) -> None:
  """Refuses to set fields in which cells differ: that is what a sweep is for.

  Args:
    fields: to set for all cells.
    cells: that were chosen from a sweep.

  Raises:
    ValueError: the message lists the values of such a field.
  """
  for name in fields:
    values = dict.fromkeys(
      repr(cell[name]) if name in cell else 'that of the config file'
      for cell in cells
    )
    if len(values) > 1:
      shown = ', '.join(list(values)[:5]) + ', ...' * (len(values) > 5)
      raise ValueError(
        f'--set={name} is not allowed, because the cells differ in it: '
        f'{shown}; choose cells by --only'
      )


def with_fields(
  cell: cells_lib.Fields, changes: cells_lib.Fields
) -> cells_lib.Fields:
  """Returns a cell with fields that are set for all cells.

  These go first: a name that is too long has the last fields.
  """
  kept = {k: v for k, v in cell.items() if k not in changes}
  return {cells_lib.CONFIG: kept.pop(cells_lib.CONFIG)} | changes | kept
