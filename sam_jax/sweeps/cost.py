"""What the cells of a sweep cost, without running them."""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Sequence

import jax

from sam_jax.runs import build, initialization, preparation
from sam_jax.sweeps import cells as cells_lib, results

# Fields on which the cost of a run does not depend. (It depends on rho, because
# a rho of 0 is one pass; and on data.split, because the validation examples are
# not trained on.)
_FREE_FIELDS = (
  'data.label_noise',
  'data.seed',
  'learning_rate',
  'seed',
  'weight_decay.rate',
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


def describe(
  cells: Sequence[cells_lib.Fields], directory: pathlib.Path, time_steps: int
) -> Iterator[str]:
  """Yields lines: the cells, whether they are finished, what they cost.

  Args:
    cells: of a sweep, checked.
    directory: of the sweep.
    time_steps: number of steps to time of each kind of cell; 0 times none.
  """
  costs: dict[str, Cost | str] = {}
  total = Cost(0.0, 0.0)
  yield f'{"gradients":>12}{"hours":>9}  {"state":10} cell'
  for cell in cells:
    kind = cells_lib.cell_name(
      {k: v for k, v in cell.items() if k not in _FREE_FIELDS}
    )
    if kind not in costs:
      costs[kind] = _cost(cell, directory, time_steps)
    cost = costs[kind]
    made = results.fraction(cells_lib.workdir(cell, directory))
    if isinstance(cost, Cost):
      total += cost.scaled(1 - made)
    yield _line(cell, cost, made, is_timed=time_steps > 0)
  timed = f', {total.hours:,.2f} hours' if time_steps else ''
  yield (
    f'{len(cells)} cells; left to do: {total.gradients:,.0f} gradient '
    f'evaluations (examples forward and backward / batch size){timed} on '
    f'{jax.device_count()} x {jax.devices()[0].device_kind}, one at a time, '
    'without evaluation'
  )


def _line(
  cell: cells_lib.Fields, cost: Cost | str, made: float, *, is_timed: bool
) -> str:
  """Returns the line of a cell."""
  name = cells_lib.cell_name(cell)
  state = 'finished' if made == 1 else f'{made:.0%} made'
  if isinstance(cost, str):
    return f'{"?":>12}{"?":>9}  {state:10} {name}: {cost}'
  hours = f'{cost.hours:.3f}' if is_timed else '-'
  return f'{cost.gradients:>12,.0f}{hours:>9}  {state:10} {name}'


def _cost(
  cell: cells_lib.Fields, directory: pathlib.Path, time_steps: int
) -> Cost | str:
  """Returns what a cell costs, or why that cannot be told."""
  try:
    config = cells_lib.config(cell, directory)
    experiment = preparation.prepare(config).experiment
  except (ValueError, OSError, AttributeError, KeyError) as error:
    return ' '.join(str(error).split())
  steps = experiment.num_steps
  seconds = _seconds_per_step(experiment, time_steps) if time_steps else 0.0
  return Cost(
    steps * experiment.fns.method.gradient_evaluations, steps * seconds / 3600
  )


def _seconds_per_step(experiment: build.Experiment, count: int) -> float:
  """Times some steps, compiled and warm."""
  parallel, task = experiment.parallel, experiment.task
  state = initialization.initial_state(experiment, seed=0)
  state = parallel.replicate(state)
  batches = task.train_batches(
    experiment.dataset.train, experiment.layout.batch_size, seed=0
  )
  step = experiment.compile_train_step()
  start = 0.0
  for i in range(1 + count):
    if i == 1:  # the first step compiles
      start = time.perf_counter()
    state, metrics = step(state, parallel.shard(next(batches)))
    jax.block_until_ready(metrics)
  batches.close()
  return (time.perf_counter() - start) / count
