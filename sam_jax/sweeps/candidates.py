"""Candidates: the ways to run a method, each within a budget of gradients."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from sam_jax import datasets, methods
from sam_jax.runs import build, factories, files
from sam_jax.sweeps import cells as cells_lib, method_list

_SAMS_COST = 2
_TOLERANCE = 1e-9  # of a quotient that rounding may bring below a whole number


class Candidate(NamedTuple):
  """A way to run a method.

  Attributes:
    fields: of the method.
    cell: fields of its runs, without split and seed.
    cost: gradient evaluations of a step.
    num_steps: that the budget pays for.
  """

  fields: Mapping[str, Any]
  cell: cells_lib.Fields
  cost: float
  num_steps: int


def create(
  config: ml_collections.ConfigDict,
  base: cells_lib.Fields,
  entry: method_list.Entry,
  *,
  rho_factors: Sequence[float],
  budget: int,
  steps_per_epoch: int,
) -> list[Candidate]:
  """Returns the candidates of a method.

  Args:
    config: of the runs. Its section `method` counts for nothing.
    base: fields of all runs, without their length.
    entry: the method.
    rho_factors: see `method_list.Entry.candidates`.
    budget: gradient evaluations of a run.
    steps_per_epoch: below which no run may be.

  Raises:
    ValueError: the method refuses a value, or a run would be shorter than an
      epoch.
  """
  found = [
    _candidate(config, base, entry.name, fields, budget)
    for fields in entry.candidates(rho_factors)
  ]
  _check_length(entry.label, found, budget, steps_per_epoch)
  return found


def _candidate(
  config: ml_collections.ConfigDict,
  base: cells_lib.Fields,
  name: str,
  fields: Mapping[str, Any],
  budget: int,
) -> Candidate:
  """Returns a way to run a method; what the method refuses is found here."""
  # What the config sets is meant for its own method.
  unset = {
    f'method.{field}': None
    for field, value in config.method.items()
    if value is not None and field != 'name' and field not in fields
  }
  ours = {f'method.{field}': value for field, value in fields.items()}
  cost = methods.create(name, **fields).gradient_evaluations
  num_steps = math.floor(budget / cost + _TOLERANCE)
  # The name of a run loses its first fields if it is too long: the method is
  # the last to go.
  first = {'num_steps': num_steps, 'data.split': 'test'}
  cell = base | unset | first | ours | {'method.name': name}
  return Candidate(fields, cell, cost, num_steps)


def _check_length(
  label: str,
  candidates: Sequence[Candidate],
  budget: int,
  steps_per_epoch: int,
) -> None:
  """Refuses runs that do not see all examples once."""
  costliest = max(candidates, key=lambda candidate: candidate.cost)
  if costliest.num_steps < steps_per_epoch:
    raise ValueError(
      f'--gradients={budget} pays for {costliest.num_steps} steps of {label}, '
      f'and an epoch has {steps_per_epoch}; give at least '
      f'{math.ceil(costliest.cost * steps_per_epoch)}'
    )


def default_budget(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> int:
  """Returns the gradient evaluations of SAM for the length of the config."""
  steps = config.num_steps
  if steps is None:
    steps = config.num_epochs * steps_per_epoch
  return _SAMS_COST * steps


def steps_per_epoch(config: ml_collections.ConfigDict) -> int:
  """Returns the steps of an epoch of a run on the test split.

  No device is taken: they are for the runs.
  """
  config = build.resolve(config, num_devices=1)
  changes: dict[str, Any] = {'split': 'test'}
  if config.data.get('directory') is not None:  # that of the file, perhaps
    changes['directory'] = str(files.user_path(config.data.directory))
  dataset = factories.load_data(config, **changes)
  task = factories.create_task(config, dataset.info)
  count = task.count(dataset.train)
  return datasets.steps_per_epoch(count, config.batch_size)
