"""A comparison of methods at equal compute: which runs it takes.

Each method has a few candidates: values of rho and perhaps of another field.
They are tried on the validation split, and the best of each method is run on
the test split. A run takes as many steps as its budget of gradient evaluations
pays for, whatever a step of its method costs.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sam_jax.runs import config_files, files
from sam_jax.sweeps import (
  candidates as candidates_lib,
  cells as cells_lib,
  execution,
  failures,
  method_list,
  results,
  run_files,
  settings as settings_lib,
)

# Fields that cannot be set for all runs, and what to do instead.
_OURS = {
  'seed': 'give --seeds',
  'data.split': 'methods are tuned on validation and compared on test',
}
_LENGTHS = ('num_epochs', 'num_steps')


class Tried(NamedTuple):
  """What is known of the candidates of a method.

  Attributes:
    settings: their runs on the validation split, None for those that count for
      nothing because a run failed. Empty if there was nothing to choose.
    best: the one of the lowest mean score, the first of equal ones; None if
      there is none.
  """

  settings: Sequence[
    tuple[candidates_lib.Candidate, settings_lib.Setting | None]
  ]
  best: candidates_lib.Candidate | None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A comparison.

  Attributes:
    entries: the methods, by label.
    candidates: of each method, by label.
    budget: gradient evaluations of a run, at most.
    tuning_seeds: number of runs of each candidate.
    seeds: number of runs on the test split of each method.
  """

  entries: Mapping[str, method_list.Entry]
  candidates: Mapping[str, Sequence[candidates_lib.Candidate]]
  budget: int
  tuning_seeds: int
  seeds: int

  def tuning_cells(self) -> list[cells_lib.Fields]:
    """Returns the runs on the validation split, of those that have a choice."""
    return _distinct(
      cell
      for candidates in self.candidates.values()
      if len(candidates) > 1
      for candidate in candidates
      for cell in self.validation_cells(candidate)
    )

  def validation_cells(
    self, candidate: candidates_lib.Candidate
  ) -> list[cells_lib.Fields]:
    """Returns the runs of a candidate on the validation split."""
    return _replicas(candidate, 'validation', self.tuning_seeds)

  def test_cells(
    self, candidate: candidates_lib.Candidate
  ) -> list[cells_lib.Fields]:
    """Returns the runs of a candidate on the test split."""
    return _replicas(candidate, 'test', self.seeds)

  def choose(self, directory: pathlib.Path) -> dict[str, Tried]:
    """Returns what the runs on the validation split say, by label.

    Args:
      directory: of the runs; those of `tuning_cells` are settled.
    """
    return {
      label: self._choose(candidates, directory)
      for label, candidates in self.candidates.items()
    }

  def _choose(
    self,
    candidates: Sequence[candidates_lib.Candidate],
    directory: pathlib.Path,
  ) -> Tried:
    """Returns the same of one method."""
    if len(candidates) == 1:
      return Tried((), candidates[0])
    found = []
    for candidate in candidates:
      cells = self.validation_cells(candidate)
      setting = finished(cells, directory)
      # Runs that are left of one that fails are no fair sample of it.
      is_whole = setting is not None and len(setting.runs) == len(cells)
      found.append((candidate, setting if is_whole else None))
    means = [
      math.inf if setting is None else setting.estimate(results.FINAL).mean
      for _, setting in found
    ]
    lowest = min(means)
    best = None if lowest == math.inf else candidates[means.index(lowest)]
    return Tried(found, best)

  def chosen_cells(self, tried: Mapping[str, Tried]) -> list[cells_lib.Fields]:
    """Returns the runs on the test split of what was chosen.

    Runs of one seed follow each other, so that methods can be compared early.
    """
    best = [found.best for found in tried.values() if found.best is not None]
    by_seed = zip(*map(self.test_cells, best), strict=True)
    return _distinct(cell for same in by_seed for cell in same)

  def lines(self) -> Iterator[str]:
    """Yields what is compared, and the budgets, for people."""
    yield (
      f'{len(self.candidates)} methods, each run for {self.budget:,} gradient '
      'evaluations'
    )
    for label, candidates in self.candidates.items():
      steps = dict.fromkeys(f'{c.num_steps:,}' for c in candidates)
      yield f'  {label}: {" or ".join(steps)} steps; {_tried(candidates)}'
    tuning = len(self.tuning_cells())
    testing = len(self.candidates) * self.seeds
    for what, count in (
      ('to choose on the validation split', tuning),
      ('on the test split', testing),
    ):
      yield (
        f'{what}: {count} runs, at most {count * self.budget:,} gradient '
        'evaluations'
      )


def _tried(candidates: Sequence[candidates_lib.Candidate]) -> str:
  """Returns which values of a method's fields are tried, for people."""
  values: dict[str, dict[str, None]] = {}
  for candidate in candidates:
    for name, value in candidate.fields.items():
      values.setdefault(name, {})[str(value)] = None
  varied = [
    f'{name} of {", ".join(tried)}'
    for name, tried in values.items()
    if len(tried) > 1
  ]
  return f'chooses {" and ".join(varied)}' if varied else 'nothing to choose'


def create(
  config_file: str,
  given: cells_lib.Fields,
  listed: str,
  *,
  budget: int | None,
  rho_factors: Sequence[float],
  tuning_seeds: int,
  seeds: int,
) -> Comparison:
  """Returns a comparison.

  Args:
    config_file: its path, with an argument if any. Its section `method` counts
      for nothing.
    given: fields of the config to set for all runs.
    listed: the methods, see `method_list.parse`.
    budget: gradient evaluations of each run; None is what SAM takes for the
      length of the config.
    rho_factors: see `method_list.Entry.candidates`.
    tuning_seeds: number of runs of each candidate.
    seeds: number of runs on the test split of each method.

  Raises:
    ValueError: a method, a field or a value is not allowed, or a method's runs
      would be shorter than an epoch.
    FileNotFoundError: the data set is not there.
  """
  _check_given(given, budget)
  base = {cells_lib.CONFIG: config_file} | given
  if directory := given.get('data.directory'):
    base['data.directory'] = str(files.user_path(directory))
  # The directory of the runs does not matter here.
  config = cells_lib.config(base, pathlib.Path())
  config_files.load_plugins(config)
  entries = {entry.label: entry for entry in method_list.parse(listed)}
  steps_per_epoch = candidates_lib.steps_per_epoch(config)
  if budget is None:
    budget = candidates_lib.default_budget(config, steps_per_epoch)
  without_length = {k: v for k, v in base.items() if k not in _LENGTHS}
  candidates = {
    label: candidates_lib.create(
      config,
      without_length,
      entry,
      rho_factors=rho_factors,
      budget=budget,
      steps_per_epoch=steps_per_epoch,
    )
    for label, entry in entries.items()
  }
  return Comparison(entries, candidates, budget, tuning_seeds, seeds)


def _check_given(given: cells_lib.Fields, budget: int | None) -> None:
  """Refuses to set fields for all runs that the comparison sets."""
  for name in given:
    instead = _OURS.get(name)
    if results.is_within(name, 'method'):
      instead = 'give it in --methods, as in sam(p=1)'
    elif name in _LENGTHS and budget is not None:
      instead = '--gradients is the length; leave one of the two out'
    if instead is not None:
      raise ValueError(f'--config.{name} is not allowed: {instead}')


def _replicas(
  candidate: candidates_lib.Candidate, split: str, seeds: int
) -> list[cells_lib.Fields]:
  """Returns the runs of a candidate on a split."""
  return cells_lib.product(
    [candidate.cell | {'data.split': split}], {'seed': range(seeds)}
  )


def _distinct(cells: Iterable[cells_lib.Fields]) -> list[cells_lib.Fields]:
  """Returns cells without those that are there already."""
  return list({cells_lib.cell_name(cell): cell for cell in cells}.values())


def is_settled(
  cells: Iterable[cells_lib.Fields], directory: pathlib.Path
) -> bool:
  """Returns whether each run is finished, or has failed for good."""
  try:
    return all(
      execution.is_finished(cell, directory)
      or failures.read(cell, directory) is not None
      for cell in cells
    )
  except (OSError, ValueError):  # the sweep has said so
    return False


def finished(
  cells: Iterable[cells_lib.Fields], directory: pathlib.Path
) -> settings_lib.Setting | None:
  """Returns the finished runs among some that differ in their seed.

  Returns:
    None if there is none.
  """
  runs = []
  for cell in cells:
    workdir = cells_lib.workdir(cell, directory)
    result = run_files.read_result(workdir)
    if result is not None:
      runs.append(results.FinishedRun(workdir, cell, result))
  return settings_lib.Setting({}, tuple(runs), {}) if runs else None
