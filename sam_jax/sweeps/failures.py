"""What is remembered of a cell that failed: why, and with which settings.

A cell that failed is not started again as it is. With other settings it is.
"""

import json
import pathlib
from typing import Any, NamedTuple

from sam_jax.runs import files, workdir as workdir_lib
from sam_jax.sweeps import cells as cells_lib


class Failure(NamedTuple):
  """A failed start of a cell.

  Attributes:
    reason: why, in one line.
    settings: fields of the config, by dotted name; None if it had none.
  """

  reason: str
  settings: cells_lib.Fields | None


def path(cell: cells_lib.Fields, directory: pathlib.Path) -> pathlib.Path:
  """Returns the file that says how a cell of a sweep failed."""
  return directory / 'failed' / f'{cells_lib.cell_name(cell)}.json'


def read(cell: cells_lib.Fields, directory: pathlib.Path) -> Failure | None:
  """Returns how a cell failed, None if it did not.

  A file that was damaged counts for nothing: the cell is started again.

  Raises:
    OSError: the file cannot be read.
  """
  try:
    content = path(cell, directory).read_bytes()
  except FileNotFoundError:
    return None
  try:
    failure = Failure(**json.loads(content))
  except (TypeError, ValueError, RecursionError):
    return None
  return failure if isinstance(failure.reason, str) else None


def write(cell: cells_lib.Fields, directory: pathlib.Path, reason: str) -> None:
  """Remembers why a cell failed, and its settings.

  Raises:
    OSError: the file cannot be written.
  """
  failure = Failure(reason, settings(cell, directory))
  place = path(cell, directory)
  place.parent.mkdir(parents=True, exist_ok=True)
  files.write_json(place, failure._asdict())


def forget(cell: cells_lib.Fields, directory: pathlib.Path) -> None:
  """Forgets that a cell failed."""
  path(cell, directory).unlink(missing_ok=True)


def settings(
  cell: cells_lib.Fields, directory: pathlib.Path
) -> cells_lib.Fields | None:
  """Returns the settings of a cell; None if its config cannot be made."""
  try:
    return workdir_lib.flatten(cells_lib.config(cell, directory))
  except ValueError:
    return None


def changes(old: Any, new: cells_lib.Fields | None) -> str:
  """Returns how settings have changed, '' if they have not.

  Args:
    old: of a failure.
    new: of the cell now.
  """
  if not isinstance(old, dict) or new is None:
    return '' if old == new else 'the config'
  return '; '.join(
    f'{name} is {new.get(name)!r}, was {old.get(name)!r}'
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)
  )
