"""The runs in a directory: how far they are, and what they found."""

import dataclasses
import json
import pathlib
import re
from typing import Any, NamedTuple

import ml_collections

from sam_jax import tasks
from sam_jax.runs import metrics_log, workdir as workdir_lib
from sam_jax.sweeps import cells as cells_lib

# The key of result.json by which runs are compared: the score at the end.
FINAL = 'final_score'
# The value of a field that is the directory of another run, which is there.
A_RUN = 'a run'


def read(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns result.json of a run, None if the run is not finished.

  Raises:
    ValueError: the file is torn, or of another edition.
  """
  path = workdir / 'result.json'
  try:
    result = json.loads(path.read_text('utf-8'))
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise ValueError(f'{path} cannot be read ({error})') from error
  if 'score' not in result:
    raise workdir_lib.other_edition(path)
  return result


def is_finished(workdir: pathlib.Path) -> bool:
  """Returns whether a run has its result; False if the disk does not answer."""
  try:
    return (workdir / 'result.json').exists()
  except OSError:
    return False


def fraction(workdir: pathlib.Path) -> float:
  """Returns the share of its steps that a run has made, by its log; in [0, 1].

  It is 0 if the files cannot be read: the run itself will say what is wrong.
  """
  if is_finished(workdir):
    return 1.0
  try:
    config = workdir_lib.read_config(workdir)
    lines = metrics_log.read(workdir) if config is not None else []
  except (OSError, ValueError):
    return 0.0
  if config is None or not lines:
    return 0.0
  if config.num_steps is None:
    return min(lines[-1]['epoch'] / config.num_epochs, 1.0)
  return min(lines[-1]['step'] / config.num_steps, 1.0)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
  """A run that has its result.

  Attributes:
    workdir: its directory.
    fields: of its config, by dotted name, without those that the run ignores.
      If it takes labels or weights from another run, the fields of that run are
      among them, as `labels_from.method.rho`.
    result: content of result.json.
  """

  workdir: pathlib.Path
  fields: cells_lib.Fields
  result: dict[str, Any]

  @property
  def score(self) -> tasks.Score:
    """The metric by which the run is compared with others."""
    return tasks.Score(**self.result['score'])

  @property
  def split(self) -> str:
    """What the run was evaluated on: 'validation' or 'test'."""
    return self.result['split']

  def final(self, metric: str) -> float | None:
    """Returns any metric of the last evaluation, None if it was not logged."""
    key = f'{self.split}/{metric}'
    lines = metrics_log.read(self.workdir)
    return next((line[key] for line in reversed(lines) if key in line), None)


class Found(NamedTuple):
  """The runs under a directory.

  Attributes:
    runs: the finished ones, sorted by path with numbers as numbers.
    num_unfinished: how many are not finished.
    unreadable: why others cannot be read, a line each.
  """

  runs: list[FinishedRun]
  num_unfinished: int
  unreadable: list[str]


def collect(directory: pathlib.Path) -> Found:
  """Finds the runs under a directory.

  Raises:
    ValueError: there is no run at all.
  """
  runs: list[FinishedRun] = []
  unreadable: list[str] = []
  num_unfinished = 0
  for path in sorted(directory.rglob('config.json'), key=_natural):
    try:
      result = read(path.parent)
      if result is None:
        num_unfinished += 1
      else:
        runs.append(FinishedRun(path.parent, _fields(path.parent), result))
    except ValueError as error:
      unreadable.append(str(error))
  if not (runs or num_unfinished or unreadable):
    raise ValueError(f'{directory} has no runs in it, nor below')
  return Found(runs, num_unfinished, unreadable)


def _natural(path: pathlib.Path) -> list[str | float]:
  """Returns a key that sorts m=4 before m=16."""
  parts = re.split(r'(\d+(?:\.\d+)?(?:e-?\d+)?)', str(path))
  # Every other part is a number.
  return [float(part) if i % 2 else part for i, part in enumerate(parts)]


def _fields(
  workdir: pathlib.Path, followers: tuple[pathlib.Path, ...] = ()
) -> cells_lib.Fields:
  """Returns the fields of a run's config that tell it from other runs.

  Args:
    workdir: of the run.
    followers: directories of the runs that start from it.
  """
  config = workdir_lib.read_config(workdir)
  if config is None:
    raise ValueError(f'{workdir} has no config.json')
  fields = _heeded(config)
  followers += (workdir,)
  for name in workdir_lib.SOURCES:
    if not fields.get(name):
      continue
    source = pathlib.Path(fields[name])
    # If the runs were moved, those that they start from lie beside them.
    places = [source, workdir.parent / source.name]
    found = [
      path
      for path in places
      if path not in followers and (path / 'config.json').exists()
    ]
    if found:
      theirs = _fields(found[0], followers)
      fields[name] = A_RUN
      fields |= {f'{name}.{key}': value for key, value in theirs.items()}
    elif name == 'labels_from':  # the directory may be deleted after its use
      fields[name] = 'another run'
  return fields


def _heeded(config: ml_collections.ConfigDict) -> cells_lib.Fields:
  """Returns the fields that a run does not ignore, by dotted name."""
  fields = workdir_lib.flatten(config)
  ignored: tuple[str, ...] = ()
  if fields.get('method.name') == 'sgd':  # it perturbs nothing
    ignored += ('m',)
  if fields.get('mixing.name') == 'none':
    ignored += ('mixing.alpha', 'mixing.probability')
  return {k: v for k, v in fields.items() if k not in ignored}


def own_name(name: str) -> str:
  """Returns what a field of another run is called in that run.

  Example:
    >>> own_name('labels_from.method.rho')
    'method.rho'
  """
  while name.startswith(tuple(f'{source}.' for source in workdir_lib.SOURCES)):
    name = name.partition('.')[2]
  return name


def is_within(name: str, *sections: str) -> bool:
  """Returns whether a field is one of some fields, or in one of some sections.

  Example:
    >>> is_within('data.name', 'data', 'm'), is_within('model.name', 'm')
    (True, False)
  """
  return any(name == s or name.startswith(f'{s}.') for s in sections)
