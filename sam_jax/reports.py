"""What the runs of a sweep found: cells with confidence intervals.

Runs that differ in nothing but their seed are replicas of one cell. Which
fields tell cells apart follows from the runs' configs.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections
import numpy as np
import scipy.stats

from sam_jax import sweeps, workdir as workdir_lib, writers

Fields = dict[str, Any]

# Of result.json: what makes a number another number, if it differs.
_VERSIONS = ('git_commit', 'versions', 'device')
_CONFIDENCE = 0.95
# Fields that are chosen on the validation split.
_CHOSEN = ('sam.rho', 'mixing.alpha')


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run.

  Attributes:
    workdir: its directory.
    fields: of its config, by dotted name, without those that its method
      ignores.
    result: what it found, see result.json.
  """

  workdir: pathlib.Path
  fields: Fields
  result: dict[str, Any]

  def final(self, name: str) -> float | None:
    """Returns a metric, such as top5_error_rate, of the last evaluation."""
    key = f'{self.result["split"]}/{name}'
    lines = writers.read(self.workdir)
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
  """

  fields: Fields
  runs: tuple[Run, ...]

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
    Those that are finished, sorted by path, and how many are not.

  Raises:
    ValueError: there is no run at all.
  """
  runs, num_unfinished = [], 0
  for path in sorted(directory.rglob('config.json')):
    result = sweeps.result(path.parent)
    if result is None:
      num_unfinished += 1
      continue
    runs.append(Run(path.parent, _fields(path.parent), result))
  if not runs and not num_unfinished:
    raise ValueError(f'{directory} has no runs in it, or below')
  return runs, num_unfinished


def _fields(workdir: pathlib.Path) -> Fields:
  """Returns what of a run's config tells it from others."""
  fields = _heeded(workdir_lib.read_config(workdir))
  if fields.get('labels_from'):
    fields['labels_from'] = _difference(fields, workdir.parent)
  return fields


def _heeded(config: ml_collections.ConfigDict) -> Fields:
  """Returns the fields that a run does not ignore, by dotted name."""
  fields = workdir_lib.flatten(config)
  ignored: tuple[str, ...] = ()
  if fields['method'] == 'sgd':  # it has no perturbation
    ignored += tuple(name for name in fields if name.startswith('sam.'))
  if fields['mixing.name'] == 'none':
    ignored += ('mixing.alpha', 'mixing.probability')
  return {k: v for k, v in fields.items() if k not in ignored}


def _difference(fields: Fields, directory: pathlib.Path) -> str:
  """Says how the run that a run's labels are from differs from it.

  Every replica has a first run of its own, which makes it no other cell.

  Args:
    fields: of the run.
    directory: of this and other runs: where it was moved, theirs are here.
  """
  path = pathlib.Path(fields['labels_from'])
  first = workdir_lib.read_config(path)
  first = first or workdir_lib.read_config(directory / path.name)
  if first is None:  # nobody needs it any more
    return 'another run'
  theirs = _heeded(first)
  return str(
    sweeps.Like(
      {
        name: theirs[name]
        for name in sorted(theirs)
        if theirs[name] != fields.get(name)
        and name != 'labels_from'
        and not workdir_lib.is_operational(name)
      }
    )
  )


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
  return [
    Cell({n: members[0].fields.get(n) for n in names}, tuple(members))
    for members in cells.values()
  ]


def varying(runs: Sequence[Run], replicas: Sequence[str]) -> list[str]:
  """Returns the fields that differ between runs and change what they find."""
  names = {name: None for run in runs for name in run.fields}
  return [
    name
    for name in names
    if name not in replicas
    and not workdir_lib.is_operational(name)
    and len({repr(r.fields[name]) for r in runs if name in r.fields}) > 1
  ]


def select(cells: Sequence[Cell]) -> list[tuple[Cell, int]]:
  """Chooses rho on the validation split, as the paper does; Mixup's alpha too.

  Args:
    cells: with `data.split` among what tells them apart.

  Returns:
    The test cell of each combination of the other fields that has the values
    whose mean validation error is lowest, and how many were tried. Where there
    was nothing to choose, the test cell as it is, and 1. A cell of other values
    is left out.
  """
  tried: dict[str, dict[str, list[Cell]]] = {}
  for cell in cells:
    others = {
      k: v for k, v in cell.fields.items() if k not in (*_CHOSEN, 'data.split')
    }
    splits = tried.setdefault(repr(others), {'validation': [], 'test': []})
    splits[cell.fields.get('data.split', 'test')].append(cell)
  selected = []
  for splits in tried.values():
    if len(splits['validation']) > 1:
      selected += _best(splits)
    elif len(splits['test']) == 1:
      selected.append((splits['test'][0], 1))
  return selected


def _best(splits: dict[str, list[Cell]]) -> list[tuple[Cell, int]]:
  """Returns the test cell of the values that are best on validation.

  Of equally good ones the first that was tested; none if none was.
  """
  validation = splits['validation']
  errors = [cell.estimate('final_error_rate').mean for cell in validation]
  best = [
    _choice(cell)
    for cell, error in zip(validation, errors, strict=True)
    if error == min(errors)
  ]
  tested = [cell for cell in splits['test'] if _choice(cell) in best]
  return [(cell, len(validation)) for cell in tested[:1]]


def _choice(cell: Cell) -> list[Any]:
  """Returns what is chosen on the validation split."""
  return [cell.fields.get(name) for name in _CHOSEN]


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
  if cell.runs[0].fields['method'] == 'sgd':
    return None
  budget = cell.estimate('gradient_evaluations').mean
  rivals = [
    c
    for c in cells
    if c.runs[0].fields['method'] == 'sgd'
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
    if name not in ('method', 'num_epochs', 'num_steps', 'microbatch_size')
    and not name.startswith('sam.')
  }


def mixed(cell: Cell) -> list[str]:
  """Returns in which versions the runs of a cell differ: no fair replicas."""
  return [
    name
    for name in _VERSIONS
    if len({repr(run.result.get(name)) for run in cell.runs}) > 1
  ]


def curve(cell: Cell, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns epochs, mean and half width of a metric along the runs."""
  by_epoch: dict[float, list[float]] = {}
  for run in cell.runs:
    for line in writers.read(run.workdir):
      if name in line:
        by_epoch.setdefault(line['epoch'], []).append(line[name])
  epochs = sorted(by_epoch)
  found = [estimate(by_epoch[epoch]) for epoch in epochs]
  return (
    np.array(epochs),
    np.array([e.mean for e in found]),
    np.array([e.half_width for e in found]),
  )
