"""What the runs of a sweep found: cells with confidence intervals.

Runs that differ in nothing but their seed are replicas of one cell. Which
fields tell cells apart follows from the runs' configs.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import scipy.stats

from sam_jax.runs import metrics_log, workdir as workdir_lib
from sam_jax.sweeps import cells as cells_lib

Fields = dict[str, Any]

# Of result.json: what makes a number another number, if it differs.
_VERSIONS = ('git_commit', 'versions', 'device')
_CONFIDENCE = 0.95
# Fields that are chosen on the validation split.
_CHOSEN = ('method.rho', 'mixing.alpha')
_A_RUN = 'a run'  # what is said of a field that is another run's directory


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run.

  Attributes:
    workdir: its directory.
    fields: of its config, by dotted name, without those that its method
      ignores. Those of a run that it takes labels or weights from are among
      them, as `labels_from.sam.rho`.
    result: what it found, see result.json.
  """

  workdir: pathlib.Path
  fields: Fields
  result: dict[str, Any]

  def final(self, name: str) -> float | None:
    """Returns a metric, such as top5_error_rate, of the last evaluation."""
    key = f'{self.result["split"]}/{name}'
    lines = metrics_log.read(self.workdir)
    return next((line[key] for line in reversed(lines) if key in line), None)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean with its uncertainty.

  Attributes:
    mean: of the replicas.
    half_width: of the 95 % confidence interval by Student's t; NaN for one.
    n: number of replicas.
  """

  mean: float
  half_width: float
  n: int


@dataclasses.dataclass(frozen=True)
class Cell:
  """Replicas.

  Attributes:
    fields: what tells this cell from others.
    runs: one for each seed.
    shown: fields, with the runs that it takes labels or weights from in a few
      words: how they differ from it, 'same' if they do not.
    repeated: further runs of the same seeds, which tell nothing new, each
      with the one that counts.
  """

  fields: Fields
  runs: tuple[Run, ...]
  shown: Fields
  repeated: tuple[tuple[Run, Run], ...] = ()

  @property
  def split(self) -> str:
    """What was evaluated: 'validation' or 'test'."""
    return self.runs[0].result['split']

  def estimate(self, name: str) -> Estimate:
    """Returns mean and confidence interval of a number of result.json."""
    return estimate([run.result[name] for run in self.runs])

  def final(self, name: str) -> Estimate | None:
    """Returns those of an evaluation's metric at the end; None without it."""
    values = [run.final(name) for run in self.runs]
    return None if None in values else estimate(values)


def estimate(values: Sequence[float]) -> Estimate:
  """Returns the mean of independent values and how far to trust it.

  Example:
    >>> found = estimate([1.0, 2.0, 3.0])
    >>> f'{found.mean} +- {found.half_width:.3f}, n={found.n}'
    '2.0 +- 2.484, n=3'
  """
  n = len(values)
  if n < 2:
    return Estimate(float(np.mean(values)), math.nan, n)
  error = float(np.std(values, ddof=1)) / math.sqrt(n)
  quantile = scipy.stats.t.ppf((1 + _CONFIDENCE) / 2, n - 1)
  return Estimate(float(np.mean(values)), float(quantile * error), n)


def collect(directory: pathlib.Path) -> tuple[list[Run], int]:
  """Finds the runs under a directory.

  Returns:
    Those that are finished, sorted by path with numbers as numbers, and how
    many are not.

  Raises:
    ValueError: there is no run at all.
  """
  runs, num_unfinished = [], 0
  for path in sorted(directory.rglob('config.json'), key=_natural):
    result = cells_lib.result(path.parent)
    if result is None:
      num_unfinished += 1
      continue
    runs.append(Run(path.parent, _fields(path.parent), result))
  if not runs and not num_unfinished:
    raise ValueError(f'{directory} has no runs in it, or below')
  return runs, num_unfinished


def _natural(path: pathlib.Path) -> list[str | float]:
  """Returns what sorts m=4 before m=16."""
  parts = re.split(r'(\d+(?:\.\d+)?(?:e-?\d+)?)', str(path))
  # Every other one is a number.
  return [float(part) if i % 2 else part for i, part in enumerate(parts)]


def _fields(
  workdir: pathlib.Path, followers: tuple[pathlib.Path, ...] = ()
) -> Fields:
  """Returns what of a run's config tells it from others.

  Args:
    workdir: of the run.
    followers: of the runs that start from it.
  """
  fields = _heeded(workdir_lib.read_config(workdir))
  followers += (workdir,)
  for name in workdir_lib.SOURCES:
    if not fields.get(name):
      continue
    source = pathlib.Path(fields[name])
    # Where the runs were moved, those that they start from are beside them.
    places = [source, workdir.parent / source.name]
    found = [
      path
      for path in places
      if path not in followers and (path / 'config.json').exists()
    ]
    if found:
      theirs = _fields(found[0], followers)
      fields[name] = _A_RUN
      fields |= {f'{name}.{key}': value for key, value in theirs.items()}
    elif name == 'labels_from':  # nobody needs it any more
      fields[name] = 'another run'
  return fields


def _heeded(config: ml_collections.ConfigDict) -> Fields:
  """Returns the fields that a run does not ignore, by dotted name."""
  fields = workdir_lib.flatten(config)
  ignored: tuple[str, ...] = ()
  if fields['method.name'] == 'sgd':  # it has no perturbation
    ignored += ('m',)
  if fields['mixing.name'] == 'none':
    ignored += ('mixing.alpha', 'mixing.probability')
  return {k: v for k, v in fields.items() if k not in ignored}


def _bare(name: str) -> str:
  """Returns the field that a field of another run is there."""
  while name.startswith(tuple(f'{source}.' for source in workdir_lib.SOURCES)):
    name = name.partition('.')[2]
  return name


def group(
  runs: Iterable[Run], replicas: Sequence[str] = ('seed',)
) -> list[Cell]:
  """Returns the cells of some runs, in the order in which they come.

  Args:
    runs: finished ones.
    replicas: fields that tell replicas apart.
  """
  runs = list(runs)
  names = varying(runs, replicas)
  cells: dict[str, list[Run]] = {}
  for run in runs:
    cells.setdefault(repr([run.fields.get(n) for n in names]), []).append(run)
  return [_cell(members, names, replicas) for members in cells.values()]


def _cell(
  members: Sequence[Run], names: Sequence[str], replicas: Sequence[str]
) -> Cell:
  """Returns the cell of runs that differ in nothing but their replica."""
  first: dict[str, Run] = {}
  repeated = []
  for run in members:
    # A first run has a seed of its own.
    replica = repr(
      {k: v for k, v in run.fields.items() if _bare(k) in replicas}
    )
    counted = first.setdefault(replica, run)
    if counted is not run:
      repeated.append((run, counted))
  fields = {name: members[0].fields.get(name) for name in names}
  return Cell(
    fields,
    tuple(first.values()),
    _shown(fields, members[0], replicas),
    tuple(repeated),
  )


def _shown(fields: Fields, run: Run, replicas: Sequence[str]) -> Fields:
  """Returns what tells a cell from others, for people."""
  shown = {k: v for k, v in fields.items() if k == _bare(k)}
  for source in workdir_lib.SOURCES:
    if run.fields.get(source) != _A_RUN:
      continue
    prefix = f'{source}.'
    theirs = {
      name.removeprefix(prefix): value
      for name, value in sorted(run.fields.items())
      if name.startswith(prefix)
    }
    if source in shown or any(name.startswith(prefix) for name in fields):
      shown[source] = str(
        cells_lib.Like(
          {
            name: value
            for name, value in theirs.items()
            if value != run.fields.get(name)
            and _bare(name) not in (*replicas, *workdir_lib.SOURCES)
            and not workdir_lib.is_operational(_bare(name))
          }
        )
      )
  return shown


def varying(runs: Sequence[Run], replicas: Sequence[str]) -> list[str]:
  """Returns the fields that differ between runs and change what they find."""
  names = {name: None for run in runs for name in run.fields}
  return [
    name
    for name in names
    if _bare(name) not in replicas
    and not workdir_lib.is_operational(_bare(name))
    and len({repr(r.fields[name]) for r in runs if name in r.fields}) > 1
  ]


class Choice(NamedTuple):
  """What the validation split says of cells that differ in what it chooses.

  Attributes:
    tried: the cells on the validation split that are compared.
    left_out: those that have less than half of the runs that others have: a
      value of which most runs failed is no fair rival.
    best: the best of `tried`, None if there are none.
    tested: the cells on the test split.
    test: that of the best values; where there was nothing to choose, the only
      one there is; else None. Of equally good values, the first that was
      tested.
  """

  tried: Sequence[Cell]
  left_out: Sequence[Cell]
  best: Cell | None
  tested: Sequence[Cell]
  test: Cell | None

  @property
  def is_needed(self) -> bool:
    """Whether there is anything to choose from."""
    return len(self.tried) + len(self.left_out) > 1


def choose(
  cells: Sequence[Cell], chosen: tuple[str, ...] = _CHOSEN
) -> list[Choice]:
  """Chooses rho on the validation split, as the paper does; Mixup's alpha too.

  Args:
    cells: on either split.
    chosen: names of the fields to choose.

  Returns:
    The choice for each combination of the other fields.
  """
  groups: dict[str, list[Cell]] = {}
  for cell in cells:
    others = {
      name: value
      for name, value in cell.fields.items()
      if _bare(name) not in (*chosen, 'data.split')
    }
    groups.setdefault(repr(others), []).append(cell)
  return [_choice(members, chosen) for members in groups.values()]


def _choice(cells: Sequence[Cell], chosen: tuple[str, ...]) -> Choice:
  """Returns the choice among cells that differ in what is chosen, and split."""

  def values(cell: Cell) -> str:
    return repr({k: v for k, v in cell.fields.items() if _bare(k) in chosen})

  validation = [c for c in cells if c.split == 'validation']
  tested = [c for c in cells if c.split != 'validation']
  most = max((len(cell.runs) for cell in validation), default=0)
  tried = [cell for cell in validation if 2 * len(cell.runs) >= most]
  left_out = [cell for cell in validation if 2 * len(cell.runs) < most]
  errors = [cell.estimate('final_error_rate').mean for cell in tried]
  best = [
    cell
    for cell, error in zip(tried, errors, strict=True)
    if error == min(errors)
  ]
  of_best = [c for c in tested if values(c) in map(values, best)]
  if len(validation) < 2:
    of_best = tested if len(tested) == 1 else []
  test = of_best[0] if of_best else None
  if test is not None and best:
    best = [c for c in best if values(c) == values(test)] or best
  return Choice(tried, left_out, best[0] if best else None, tested, test)


def best_rho(found: dict[float, list[float]]) -> float:
  """Returns the rho of the lowest mean error, the smallest of equal ones."""
  return min(found, key=lambda rho: (estimate(found[rho]).mean, rho))


def _alike(found: dict[float, list[float]], best: float) -> list[float]:
  """Returns the rhos whose error is no worse, as far as one can tell.

  By the paired differences between runs of the same seed.
  """
  alike = []
  for rho, errors in found.items():
    pairs = zip(errors, found[best], strict=True)
    difference = estimate([a - b for a, b in pairs])
    # One run tells nothing: its half width is not a number.
    if rho != best and not difference.mean > difference.half_width:
      alike.append(rho)
  return alike


def recommend(found: dict[float, list[float]]) -> str:
  """Returns what to do, in a line or two."""
  best = best_rho(found)
  if best == 0:
    line = 'no rho of these is better than none at all (rho = 0)'
  else:
    line = f'best on the validation split: rho = {best:g}'
  alike = _alike(found, best)
  if alike:
    listed = ', '.join(f'{rho:g}' for rho in alike)
    line += f'; not to be told apart from it: {listed}'
  if best == max(found):
    line += '\nit is the largest that was tried: try larger ones by --rhos'
  return line


def sgd_at_equal_compute(cell: Cell, cells: Iterable[Cell]) -> Cell | None:
  """Returns the SGD that a cell has to be better than.

  Of the cells of SGD that differ from it in nothing but the method and the
  length, and evaluate no more gradients, the one of the lowest mean error: the
  paper reports the better of SGD for as many epochs and for twice as many.

  Args:
    cell: of another method.
    cells: all.

  Returns:
    None if there is no such cell, or the cell is of SGD itself.
  """
  if cell.runs[0].fields['method.name'] == 'sgd':
    return None
  budget = cell.estimate('gradient_evaluations').mean
  rivals = [
    c
    for c in cells
    if c.runs[0].fields['method.name'] == 'sgd'
    and _setting(c) == _setting(cell)
    and c.estimate('gradient_evaluations').mean <= budget
  ]
  return min(
    rivals, key=lambda c: c.estimate('final_error_rate').mean, default=None
  )


def _setting(cell: Cell) -> Fields:
  """Returns what tells a cell from others besides method and length."""
  return {
    name: value
    for name, value in cell.fields.items()
    if _bare(name) not in ('num_epochs', 'num_steps', 'm', 'microbatch_size')
    and not _bare(name).startswith('method.')
  }


def mixed(cell: Cell) -> list[str]:
  """Returns in which versions the runs of a cell differ: no fair replicas.

  A run that went on with another version differs from itself.
  """
  starts = [
    start
    for run in cell.runs
    for start in run.result.get('starts', [run.result])
  ]
  return [
    name
    for name in _VERSIONS
    if len({repr(start.get(name)) for start in starts}) > 1
  ]


def curve(cell: Cell, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns epochs, mean and half width of a metric along the runs."""
  by_epoch: dict[float, list[float]] = {}
  for run in cell.runs:
    for line in metrics_log.read(run.workdir):
      if name in line:
        by_epoch.setdefault(line['epoch'], []).append(line[name])
  epochs = sorted(by_epoch)
  found = [estimate(by_epoch[epoch]) for epoch in epochs]
  return (
    np.array(epochs),
    np.array([e.mean for e in found]),
    np.array([e.half_width for e in found]),
  )
