"""Whether the cells of a sweep can be run at all, before the first one is.

    python -m sam_jax.sweeps.check < CELLS > PROBLEMS

Every cell is built as its run would be, without training. That is done in a
process of its own, with the variables of a cell: it sees the devices of a cell,
and the sweep's own process holds no device and no data. This file is the
program of that process.
"""

import contextlib
import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import ml_collections

from sam_jax.runs import (
  preparation,
  shared as shared_lib,
  shipped,
  validation,
  workdir as workdir_lib,
)
from sam_jax.sweeps import cells as cells_lib, child, tether

# It takes no memory of a device that it does not need.
_VARIABLES = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
_MAX_PROBLEMS = 10  # that are said


class Refused(ValueError):  # noqa: N818  (named after what it says)
  """Cells cannot be run.

  Attributes:
    problems: why, a line for each reason.
  """

  def __init__(self, problems: Sequence[str]) -> None:
    """Takes the lines."""
    super().__init__('; '.join(problems))
    self.problems = list(problems)


def in_process(
  cells: Sequence[cells_lib.Fields],
  directory: pathlib.Path,
  environment: Mapping[str, str],
) -> list[str]:
  """Returns why cells cannot be run, a line for each reason.

  Args:
    cells: of a sweep, checked.
    directory: of the sweep.
    environment: variables of the process that tries.
  """
  done = subprocess.run(
    [
      *(sys.executable, '-I', tether.__file__, str(os.getpid())),
      *(sys.executable, '-m', 'sam_jax.sweeps.check'),
    ],
    input=pickle.dumps((cells, directory)),
    capture_output=True,
    env=child.with_package(environment) | _VARIABLES,
    start_new_session=True,  # Ctrl-C is for the sweep
    check=False,
  )
  if done.returncode == 0:
    return pickle.loads(done.stdout)
  lines = done.stderr.decode('utf-8', 'replace').splitlines()
  reason = child.reason(done.returncode, [x for x in lines if x.strip()])
  return [f'the check of the cells failed: {reason}']


def problems(
  cells: Sequence[cells_lib.Fields], directory: pathlib.Path
) -> list[str]:
  """Returns why cells cannot be run, a line for each reason.

  This process builds them.

  Args:
    cells: of a sweep, checked.
    directory: of the sweep.
  """
  found = {
    cells_lib.cell_name(cell): built
    for alike, built in experiments(cells, directory)
    if isinstance(built, str)
    for cell in alike
  }
  return summary(found, len(cells))


def experiments(
  cells: Sequence[cells_lib.Fields],
  directory: pathlib.Path,
  shared: shared_lib.Shared | None = None,
) -> Iterator[tuple[list[cells_lib.Fields], preparation.Prepared | str]]:
  """Yields cells that are built alike, and what was built, or why it cannot be.

  What cells have in common is made once: nothing depends on the seed, and data
  are read once if cells that share them follow each other, as they do here.

  Args:
    cells: of a sweep, checked.
    directory: of the sweep.
    shared: has the data sets; None reads them.
  """
  kinds: dict[tuple[str, str], list[cells_lib.Fields]] = {}
  configs: dict[tuple[str, str], ml_collections.ConfigDict] = {}
  for cell in cells:
    try:
      config = _config(cell, directory)
    except Exception as error:
      yield [cell], _reason(error)
      continue
    kind = _kind(config)
    configs.setdefault(kind, config)
    kinds.setdefault(kind, []).append(cell)
  shared = shared or shared_lib.Shared()
  for kind in sorted(kinds):
    try:
      built = preparation.prepare(configs[kind], shared=shared)
    except Exception as error:
      yield kinds[kind], _reason(error)
    else:
      yield kinds[kind], built


def _config(
  cell: cells_lib.Fields, directory: pathlib.Path
) -> ml_collections.ConfigDict:
  """Returns the config of a cell, after checking what no other cell shares.

  Raises:
    ValueError: a value is not allowed, or what the run starts from is missing.
  """
  config = cells_lib.config(cell, directory)
  validation.check_ranges(config)
  workdir = cells_lib.workdir(cell, directory)
  for name in workdir_lib.SOURCES:
    source = config.get(name)
    is_needed = source and not isinstance(cell.get(name), cells_lib.Like)
    if not is_needed or workdir_lib.has_begun(workdir):
      continue
    if not shipped.find(source).exists():
      raise ValueError(f'{name} is {source!r}, which does not exist')
  return config


def _kind(config: ml_collections.ConfigDict) -> tuple[str, str]:
  """Returns what an experiment depends on, its data first."""
  fields = config.to_dict()
  data = [fields.get('task'), fields.get('data')]
  sources = {name: bool(fields.get(name)) for name in workdir_lib.SOURCES}
  return repr(data), repr(fields | sources | {'seed': None})


def _reason(error: Exception) -> str:
  """Returns the message of an error, with its kind if it is not an input's.

  Configs and plug-ins are programs of the user's, and may raise anything.
  """
  is_plain = isinstance(error, ValueError | OSError)
  return str(error) if is_plain else f'{type(error).__name__}: {error}'


def of_fields(
  cells: Sequence[cells_lib.Fields], directory: pathlib.Path
) -> list[str]:
  """Returns which fields or config files cells cannot have; builds nothing."""
  found = {}
  for cell in cells:
    try:
      cells_lib.config(cell, directory)
    except Exception as error:
      found[cells_lib.cell_name(cell)] = _reason(error)
  return summary(found, len(cells))


def summary(found: Mapping[str, str], total: int) -> list[str]:
  """Returns each reason once, with the number of cells that it concerns.

  Args:
    found: reasons by the names of the cells.
    total: number of cells.
  """
  by_reason: dict[str, list[str]] = {}
  for name, reason in found.items():
    by_reason.setdefault(reason, []).append(name)
  lines = [
    f'{len(names)} of {total} cells cannot be run: {reason} (first: {names[0]})'
    for reason, names in by_reason.items()
  ]
  more = len(lines) - _MAX_PROBLEMS
  return lines[:_MAX_PROBLEMS] + [f'... and {more} more'] * (more > 0)


def _main() -> None:
  """Checks the cells that come in, and sends the problems back."""
  cells, directory = pickle.load(sys.stdin.buffer)
  with os.fdopen(os.dup(1), 'wb') as stream:
    os.dup2(2, 1)  # what a plug-in prints is no answer
    with contextlib.redirect_stdout(sys.stderr):
      answer = problems(cells, directory)
    pickle.dump(answer, stream)


if __name__ == '__main__':
  _main()
