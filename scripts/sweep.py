"""Runs all cells of a sweep; goes on with it; shows how far it is.

    python scripts/sweep.py --sweep=configs/sweeps/digits_noise.py \
        --workdir=runs/digits_noise --workers=2

A cell is one run of `python -m sam_jax.train` in a directory of its own. What
is finished is left, what was interrupted goes on where it stopped, so that the
same command again is all it takes after a kill or a power cut. Several machines
may share the directory: each cell is claimed by one of them, and one that has
nothing else to do waits two minutes for the cells of one that may have died. A
cell that fails does not stop the rest; it is listed in the end, and tried again
with --retry.

--dry_run prints the cells and what they cost. --emit=shell, slurm or tpu prints
commands instead: one a line; a job array; for every worker of a TPU pod.
--only=REGEX takes the cells in whose name it is found, and those they need.
--scale=smoke takes three steps of the first replica of each, with a small
network of the same kind on a few examples: do they run at all? Give it a
directory of its own.
--set=FIELD=VALUE sets a field of all cells, such as where the data are.

Exit status: 0 if every cell is finished, 1 if some are not, 2 if the sweep
cannot be run, 128 + the number of a signal that ended it.
"""

import dataclasses
import itertools
import pathlib
import shlex
import sys
import time
from collections.abc import Sequence

import jax
from absl import app, flags, logging

# The checkout goes first, installed or not.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from sam_jax import datasets
from sam_jax.runs import experiment as experiment_lib
from sam_jax.sweeps import cells as cells_lib, pool as pool_lib, smoke
from sam_jax.training import train_step

_SWEEP = flags.DEFINE_string('sweep', None, 'Sweep file.', required=True)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory of all runs.', required=True
)
_WORKERS = flags.DEFINE_integer('workers', 1, 'Cells at a time.', lower_bound=1)
_RETRY = flags.DEFINE_bool('retry', False, 'Try failed cells again.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print the cells; run nothing.')
_EMIT = flags.DEFINE_enum(
  'emit', None, ['shell', 'slurm', 'tpu'], 'Print commands; run nothing.'
)
_SCALE = flags.DEFINE_enum(
  'scale',
  'full',
  ['full', 'smoke'],
  'smoke: a few steps of a small network, of one replica.',
)
_ONLY = flags.DEFINE_string(
  'only',
  '',
  'Regular expression: the cells whose name has it, and those they need.',
)

_SET = flags.DEFINE_multi_string(
  'set', [], 'FIELD=VALUE of the config, for all cells: data.directory=DIR.'
)
_GPUS = flags.DEFINE_list(
  'gpus', [], 'Numbers of GPUs that the workers take turns with, one each.'
)
_TIME_STEPS = flags.DEFINE_integer(
  'time_steps',
  3,
  'Steps that --dry_run times of each kind of cell; 0 does not.',
  lower_bound=0,
)


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    _exit(f'unknown arguments: {" ".join(argv[1:])}')
  if not logging.get_verbosity():  # the libraries' chatter, unless asked for
    logging.set_verbosity(logging.WARNING)
  directory = pathlib.Path(_WORKDIR.value).absolute()
  try:
    cells = _cells(pathlib.Path(_SWEEP.value))
  except (ValueError, OSError) as error:
    _exit(str(error))
  if _EMIT.value:
    return _emit(cells, directory)
  if _DRY_RUN.value:
    return _print_cost(cells, directory)
  runner = pool_lib.Runner(
    cells,
    directory,
    workers=_WORKERS.value,
    gpus=_GPUS.value,
    retry=_RETRY.value,
    root=_ROOT,
  )
  sys.exit(runner.run())


def _exit(message: str) -> None:
  """Ends the program with one line."""
  print(f'sweep: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)


def _cells(path: pathlib.Path) -> list[cells_lib.Fields]:
  """Returns the cells of a sweep file, as the flags change them."""
  sweep = cells_lib.load(path)
  cells = cells_lib.only(sweep.cells, _ONLY.value)
  if _SCALE.value == 'smoke':
    cells = smoke.cells(sweep, cells, _ROOT)
  fields = dict(map(cells_lib.parse_field, _SET.value))
  cells = [cell | fields for cell in cells]
  cells_lib.check(dataclasses.replace(sweep, cells=cells))
  return cells


# --- Commands ----------------------------------------------------------------

_SLURM = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output={name}-%A_%a.log
# Add what your cluster wants: --partition, --gres=gpu:1, --time, ...
# The same script again goes on with what is not finished.
cd {root}
cells=(
{cells}
)
eval "${{cells[$SLURM_ARRAY_TASK_ID]}}"
"""


def _emit(cells: list[cells_lib.Fields], directory: pathlib.Path) -> None:
  """Prints commands for the cells that are not finished."""
  chains = cells_lib.chains(
    cell
    for cell in cells
    if not cells_lib.is_finished(directory / cells_lib.cell_name(cell))
  )
  if not chains:
    print('# all cells are finished')
    return
  extra = ['--coordinator=auto'] if _EMIT.value == 'tpu' else []
  commands = [
    [
      shlex.join(['python', *cells_lib.command(cell, directory), *extra])
      for cell in chain
    ]
    for chain in chains
  ]
  if _EMIT.value != 'slurm':
    print(f'cd {shlex.quote(str(_ROOT))}')
    print(*itertools.chain.from_iterable(commands), sep='\n')
    return
  # The last one takes the place of the shell, and so gets Slurm's signals.
  tasks = [' && '.join([*c[:-1], f'exec {c[-1]}']) for c in commands]
  text = _SLURM.format(
    name=pathlib.Path(_SWEEP.value).stem,
    last=len(tasks) - 1,
    root=shlex.quote(str(_ROOT)),
    cells='\n'.join(f'  {shlex.quote(task)}' for task in tasks),
  )
  print(text, end='')


# --- Cost --------------------------------------------------------------------

# Fields on which the cost of a run does not depend. A rho of 0 is one pass, and
# the validation split is not trained on.
_FREE_FIELDS = (
  'data.label_noise',
  'data.seed',
  'learning_rate',
  'seed',
  'weight_decay.rate',
)


def _print_cost(cells: list[cells_lib.Fields], directory: pathlib.Path) -> None:
  """Prints the cells, whether they are finished, and what they cost."""
  costs: dict[str, _Cost | str] = {}
  total = _Cost(0.0, 0.0)
  print(f'{"gradients":>12}{"hours":>9}  {"state":10} cell')
  for cell in cells:
    fixed = {k: v for k, v in cell.items() if k not in _FREE_FIELDS}
    kind = cells_lib.cell_name(fixed)
    if kind not in costs:
      costs[kind] = _cost(cell, directory)
    cost = costs[kind]
    made = cells_lib.fraction(directory / cells_lib.cell_name(cell))
    state = 'finished' if made == 1 else f'{made:.0%} made'
    if isinstance(cost, str):
      print(
        f'{"?":>12}{"?":>9}  {state:10} {cells_lib.cell_name(cell)}: {cost}'
      )
      continue
    hours = f'{cost.hours:.3f}' if _TIME_STEPS.value else '-'
    print(
      f'{cost.gradients:>12,.0f}{hours:>9}  {state:10} '
      f'{cells_lib.cell_name(cell)}'
    )
    total = _Cost(
      total.gradients + (1 - made) * cost.gradients,
      total.hours + (1 - made) * cost.hours,
    )
  timed = f', {total.hours:,.2f} hours' if _TIME_STEPS.value else ''
  print(
    f'{len(cells)} cells; left to do: {total.gradients:,.0f} gradient '
    f'evaluations (examples forward and backward / batch size){timed} on '
    f'{jax.device_count()} x {jax.devices()[0].device_kind}, one at a time, '
    'evaluation left out'
  )


@dataclasses.dataclass(frozen=True)
class _Cost:
  """Of a cell: gradient evaluations, and hours on this machine."""

  gradients: float
  hours: float


def _cost(cell: cells_lib.Fields, directory: pathlib.Path) -> _Cost | str:
  """Returns what a cell costs, or why that cannot be told."""
  try:
    config = cells_lib.config(cell, directory, _ROOT)
    experiment_lib.load_plugins(config)
    config = experiment_lib.resolve(config, jax.device_count())
    experiment = experiment_lib.build(config)
  except (ValueError, OSError, AttributeError, KeyError) as error:
    return ' '.join(str(error).split())
  gradients = experiment.num_steps * experiment.fns.method.gradient_evaluations
  seconds = _seconds_per_step(experiment) if _TIME_STEPS.value else 0.0
  return _Cost(gradients, experiment.num_steps * seconds / 3600)


def _seconds_per_step(experiment: experiment_lib.Experiment) -> float:
  """Times a few steps, compiled and warm."""
  variables = experiment_lib.init_variables(
    experiment.model, experiment.input_shape, 0
  )
  state = experiment.parallel.replicate(
    train_step.init_state(variables, experiment.fns)
  )
  stream = datasets.train_batches(
    experiment.dataset.train, experiment.layout.batch_size, seed=0
  )
  step = experiment.compile_train_step()
  for i in range(1 + _TIME_STEPS.value):
    if i == 1:  # the first one compiles
      start = time.perf_counter()
    state, metrics = step(state, experiment.parallel.shard(next(stream)))
    jax.block_until_ready(metrics)
  stream.close()
  return (time.perf_counter() - start) / _TIME_STEPS.value


if __name__ == '__main__':
  app.run(main)
