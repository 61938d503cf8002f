"""What the cells of a sweep cost, without running them."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from sam_jax.runs import (
  build,
  initialization,
  preparation,
  stand_ins,
  workdir as workdir_lib,
)
from sam_jax.sweeps import cells as cells_lib, check, results

# Sections and fields on which the time of a step does not depend, beside those
# that leave the result as it is. Of other numbers with a fraction it counts
# whether they are 0: a rho of 0 is one pass.
_FREE_FIELDS = (
  'data.label_noise',
  'data.label_noise_kind',
  'data.seed',
  'data.split',
  'learning_rate',
  'num_epochs',
  'num_steps',
  'schedule',
  'seed',
  *workdir_lib.SOURCES,
)


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of a cell.

  Attributes:
    gradients: gradient evaluations: examples that go through a forward and a
      backward pass, in units of the batch size.
    hours: on the devices of this process, without evaluation.
  """

  gradients: float
  hours: float

  def __add__(self, other: 'Cost') -> 'Cost':
    """Returns the cost of both."""
    return Cost(self.gradients + other.gradients, self.hours + other.hours)

  def scaled(self, share: float) -> 'Cost':
    """Returns the cost of a share of the steps."""
    return Cost(share * self.gradients, share * self.hours)


class Estimates:
  """What cells cost, as far as that can be told.

  Attributes:
    costs: by the names of the cells.
    unknown: why the others cannot be told, by their names.
    missing: by the names of data sets that are not there, how to get them. What
      cells cost is known without them.
  """

  def __init__(
    self,
    cells: Sequence[cells_lib.Fields],
    directory: pathlib.Path,
    time_steps: int,
  ) -> None:
    """Builds the cells, and times some steps of each kind of program.

    Args:
      cells: of a sweep, checked.
      directory: of the sweep.
      time_steps: number of steps to time; 0 times none.
    """
    self.costs: dict[str, Cost] = {}
    self.unknown: dict[str, str] = {}
    self._cells, self._time_steps = cells, time_steps
    self._seconds: dict[str, float] = {}  # of a step, by program
    self._made = {  # share of the steps
      cells_lib.cell_name(cell): results.fraction(
        cells_lib.workdir(cell, directory)
      )
      for cell in cells
    }
    shared = stand_ins.StandIns()
    self.missing = shared.missing
    for alike, built in check.experiments(cells, directory, shared):
      names = map(cells_lib.cell_name, alike)
      if isinstance(built, str):
        self.unknown |= dict.fromkeys(names, built)
      else:
        self.costs |= dict.fromkeys(names, self._cost(alike[0], built))

  def lines(self) -> Iterator[str]:
    """Yields lines: the cells, how much of them is made, what they cost."""
    yield f'{"gradients":>12}{"hours":>9}  {"state":10} cell'
    total = Cost(0.0, 0.0)
    for cell in self._cells:
      name = cells_lib.cell_name(cell)
      made, cost = self._made[name], self.costs.get(name)
      if cost is not None:
        total += cost.scaled(1 - made)
      yield self._line(cell, cost, made)
    yield self._sum(total)

  def problems(self) -> list[str]:
    """Returns why cells that are left cannot be run, a line for each reason."""
    left = {k: v for k, v in self.unknown.items() if self._made[k] < 1}
    return check.summary(left, len(self._cells))

  def _cost(self, cell: cells_lib.Fields, built: preparation.Prepared) -> Cost:
    """Returns what a cell costs."""
    experiment, seconds = built.experiment, 0.0
    if self._time_steps:
      program = _program(built)
      if program not in self._seconds:
        said = f'compiling and timing a step of {cells_lib.description(cell)}'
        print(said, file=sys.stderr, flush=True)
        self._seconds[program] = _seconds_per_step(experiment, self._time_steps)
      seconds = self._seconds[program]
    steps = experiment.num_steps
    gradients = steps * experiment.fns.method.gradient_evaluations
    return Cost(gradients, steps * seconds / 3600)

  def _line(
    self, cell: cells_lib.Fields, cost: Cost | None, made: float
  ) -> str:
    """Returns the line of a cell."""
    state = 'finished' if made == 1 else f'{made:.0%} made'
    gradients = '?' if cost is None else f'{cost.gradients:,.0f}'
    hours = '?' if cost is None else self._hours(cost, '.3f')
    return (
      f'{gradients:>12}{hours:>9}  {state:10} {cells_lib.description(cell)}'
    )

  def _sum(self, total: Cost) -> str:
    """Returns the line with what is left to do."""
    if not self.costs:
      return f'{len(self._cells)} cells; what they cost cannot be told'
    without = f', without {len(self.unknown)} cells' if self.unknown else ''
    timed = f', {self._hours(total, ",.2f")} hours' if self._time_steps else ''
    return (
      f'{len(self._cells)} cells; left to do: {total.gradients:,.0f} gradient '
      f'evaluations (examples forward and backward / batch size){timed} on '
      f'{jax.device_count()} x {jax.devices()[0].device_kind}, one at a time, '
      f'without evaluation{without}'
    )

  def _hours(self, cost: Cost, form: str) -> str:
    """Returns the hours of a cost, if steps were timed."""
    return format(cost.hours, form) if self._time_steps else '-'


def _program(built: preparation.Prepared) -> str:
  """Returns what the time of a step depends on."""
  fields = {
    name: bool(value) if isinstance(value, float) else value
    for name, value in workdir_lib.flatten(built.config).items()
    if not results.is_within(name, *_FREE_FIELDS) and not _is_operational(name)
  }
  # A share of the steps or of the examples is in this number.
  gradients = built.experiment.fns.method.gradient_evaluations
  return repr((fields, round(gradients, 6)))


def _is_operational(name: str) -> bool:
  """Whether a field changes neither the result nor the time of a step."""
  return workdir_lib.is_operational(name) and name not in (
    'fsdp',
    'microbatch_loop',
    'model.remat',
    'parallel',
  )


def _seconds_per_step(experiment: build.Experiment, count: int) -> float:
  """Times some steps, compiled and warm, from all over the run.

  Those of one method may differ: late-phase SAM perturbs in the last ones.
  """
  parallel, task = experiment.parallel, experiment.task
  state = initialization.initial_state(experiment, seed=0)
  state = parallel.replicate(state)
  batches = task.train_batches(
    experiment.dataset.train, experiment.layout.batch_size, seed=0
  )
  step = experiment.compile_train_step()
  seconds = []
  for number in (0, *_places(experiment.num_steps, count)):
    state = dataclasses.replace(state, step=0 * state.step + number)
    start = time.perf_counter()
    state, metrics = step(state, parallel.shard(next(batches)))
    jax.block_until_ready(metrics)
    seconds.append(time.perf_counter() - start)
  batches.close()
  return sum(seconds[1:]) / count  # the first step compiles


def _places(length: int, count: int) -> list[int]:
  """Returns steps of a run, one at random from each of as many equal parts."""
  draws = np.random.default_rng(0).uniform(size=count)
  return [int((i + draw) * length / count) for i, draw in enumerate(draws)]
