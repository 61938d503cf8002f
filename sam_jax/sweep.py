r"""Runs all cells of a sweep, or resumes them, and shows how far it is.

    python -m sam_jax.sweep --sweep=digits_noise --workdir=runs/digits_noise \
        --workers=2
    python -m sam_jax.sweep --config=digits --workdir=runs/rho \
        --grid method.rho=0.05,0.1 seed=0,1,2

The first form takes the cells of a file. The second one makes a cell of each
combination of the values of --grid: here six. Values are written as those of
--config.FIELD=VALUE, None and tuples included. A comma separates them, unless
it stands in brackets or quotes: model.features=(4,8),(8,16).
--config.FIELD=VALUE sets a field of all cells. `python -m sam_jax.report
runs/rho` reports either.

A cell is one run of `python -m sam_jax.train` in a directory of its own. What
is finished is left alone, and what was interrupted resumes, so the same command
again is all that it takes after a kill or a power cut. All cells that are left
are checked before the first one starts, and nothing starts if one cannot be
run. A cell that fails does not stop the rest. It is listed at the end, and run
again with --retry, or when its settings have changed. The first signal (Ctrl-C,
SIGTERM) has the running cells save a checkpoint and end; the second kills them.

On several machines:

  --ray=ADDRESS runs the cells on a Ray cluster (pip install 'sam_jax[ray]').
    Each cell is a task with GPUs of its own; a cell whose machine dies resumes
    on another one. All machines see the workdir under the same path.
  --emit=slurm prints a script with a job array, --emit=tpu a command a line for
    every worker of a TPU pod, --emit=shell a command a line.

Before a long sweep:

  --dry_run prints the cells and their gradient evaluations, with
    --time_steps=3 hours too. It needs no data whose size is known.
  --scale=smoke takes three steps of the first replica of each cell, with a
    small network of the same kind on a few examples: do the cells run at all?
    Where CIFAR, SVHN, ImageNet or a data set of the fine-tuning is missing, it
    takes synthetic images and says so. Give it a directory of its own.

--only=REGEX takes the cells that match, as --dry_run shows them, and those that
they need. --set=FIELD=VALUE sets a field of all cells, such as where the data
are; it cannot be a field in which the cells differ.

Exit status: 0 if every cell is finished, 1 if some are not, 2 if the sweep
cannot be run, 128 + the number of a signal that ended it.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from sam_jax import _cli, _config_flag, configs
from sam_jax.runs import files
from sam_jax.sweeps import (
  cells as cells_lib,
  check,
  cost,
  emit,
  execution,
  grid,
  overrides,
  pool,
  ray_cluster,
  smoke,
  sweep_files,
)

flags = _cli.Flags()
_SWEEP = flags.DEFINE_string(
  'sweep', None, 'Sweep file, or the name of a shipped sweep.'
)
_CONFIG = _config_flag.ConfigFlag(flags, required=False)
_GRID = flags.DEFINE_multi_string(
  'grid',
  [],
  'In place of --sweep, with --config: FIELD=VALUE,VALUE of the config, one or '
  'several with spaces in between. Makes a cell of each combination.',
)
flags.filters.append(grid.take)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory of all runs.', required=True
)
_WORKERS = flags.DEFINE_integer(
  'workers', 1, 'Number of cells at a time on this machine.', lower_bound=1
)
_GPUS = flags.DEFINE_list(
  'gpus', [], 'Numbers of GPUs that the workers take turns with, one each.'
)
_RETRY = flags.DEFINE_bool(
  'retry', False, 'Run cells again that failed with the same settings.'
)
_ONLY = flags.DEFINE_string(
  'only', '', 'Regular expression: take the cells that match.'
)
_SET = flags.DEFINE_multi_string(
  'set', [], 'FIELD=VALUE of the config, for all cells: data.directory=DIR.'
)
_SCALE = flags.DEFINE_enum(
  'scale',
  'full',
  ['full', 'smoke'],
  'smoke: a few steps of a small network, of one replica.',
)
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print the cells; run nothing.')
_TIME_STEPS = flags.DEFINE_integer(
  'time_steps',
  0,
  'Steps of each kind of cell that --dry_run times, to tell hours; this '
  'compiles each kind. 0 times none.',
  lower_bound=0,
)
_EMIT = flags.DEFINE_enum(
  'emit', None, list(emit.FORMATS), 'Print commands; run nothing.'
)
_RAY = flags.DEFINE_string(
  'ray',
  None,
  "Address of a Ray cluster to run the cells on: HOST:PORT, or 'auto' on one "
  'of its machines.',
)
_GPUS_PER_CELL = flags.DEFINE_float(
  'gpus_per_cell',
  None,
  'With --ray: GPUs of each cell; by default 1 if the cluster has GPUs, else '
  '0.',
  lower_bound=0,
)
_CPUS_PER_CELL = flags.DEFINE_float(
  'cpus_per_cell', 1, 'With --ray: CPU cores of each cell.', lower_bound=0
)

# Who sets one of these wants no other data.
_CHOICES_OF_DATA = {'data.name', 'data.directory'}


def main(argv: Sequence[str]) -> int:
  """Does what the flags say; returns the exit status."""
  _cli.refuse_arguments(argv[1:])
  _check_flags()
  _check_source()
  directory = files.run_directory(_WORKDIR.value)
  source = _CONFIG.path if _GRID.value else _cli.sweep_path(_SWEEP.value)
  cells = _cells(_grid() if _GRID.value else _file(source))
  if _EMIT.value:
    return _emit(cells, directory, pathlib.Path(source.partition(':')[0]).stem)
  if _DRY_RUN.value:
    return _dry_run(cells, directory)
  try:
    return execution.execute(
      cells, directory, _place(directory), retry=_RETRY.value, check=True
    )
  except check.Refused as error:
    return _refuse(error.problems)


def _emit(
  cells: Sequence[cells_lib.Fields], directory: pathlib.Path, name: str
) -> int:
  """Prints commands; returns the exit status."""
  # Where they will run there are other devices, and perhaps the data.
  problems = check.of_fields(cells, directory)
  if not problems:
    print(emit.emit(cells, directory, _EMIT.value, name), end='')
  return _refuse(problems)


def _dry_run(cells: Sequence[cells_lib.Fields], directory: pathlib.Path) -> int:
  """Prints cells and costs, as far as they can be told; returns the status."""
  found = cost.Estimates(cells, directory, _TIME_STEPS.value)
  for line in found.lines():
    print(line)
  for reason in found.missing.values():
    _cli.say('sweep', f'warning: the runs need their data: {reason}')
  return _refuse(found.problems())


def _refuse(problems: Sequence[str]) -> int:
  """Says why cells cannot be run; returns the exit status, 0 if they can."""
  for problem in problems:
    _cli.say('sweep', problem)
  return 2 if problems else 0


def _check_flags() -> None:
  """Refuses flags that say how cells share another place than the chosen one.

  Raises:
    ValueError: there is such a flag.
  """
  if _RAY.value is None:
    unused = [f for f in (_GPUS_PER_CELL, _CPUS_PER_CELL) if f.present]
    advice = 'needs --ray; on this machine give --workers and --gpus'
  else:
    unused = [f for f in (_WORKERS, _GPUS) if f.present]
    advice = (
      'cannot be used with --ray, which runs as many cells as there is room '
      'for; give --gpus_per_cell and --cpus_per_cell'
    )
  if unused:
    names = ', '.join(f'--{flag.name}' for flag in unused)
    raise ValueError(f'{names} {advice}')


def _check_source() -> None:
  """Refuses flags that do not say, in one way, what the cells are.

  Raises:
    ValueError: the message says which flags belong together.
  """
  if _GRID.value:
    if _SWEEP.value is not None:
      raise ValueError(
        '--grid makes a sweep itself and cannot be used with --sweep; give one '
        'of the two, or set a field of all cells of --sweep by --set'
      )
    if not _CONFIG.is_given:
      raise ValueError('--grid needs --config, the config of all cells')
  elif _SWEEP.value is None:
    raise ValueError(
      'give --sweep=NAME, or --config=NAME with --grid FIELD=VALUE,VALUE'
    )
  elif _CONFIG.is_given or _CONFIG.overrides:
    raise ValueError(
      '--config belongs to --grid; the cells of --sweep name their config '
      'themselves, and --set=FIELD=VALUE sets a field of all of them'
    )


def _file(path: str) -> cells_lib.Sweep:
  """Returns the sweep of a file."""
  return sweep_files.load(path, configs.find)


def _grid() -> cells_lib.Sweep:
  """Returns the sweep that --config and --grid make."""
  texts = grid.combinations(_GRID.value)
  for name in _CONFIG.overrides:
    if name in texts[0]:
      raise ValueError(
        f'{name} is given by --config.{name} and by --grid; leave one out'
      )
  cells, remarks = [], list[str]()
  for combination in texts:
    config = _CONFIG.load(combination)
    remarks += _CONFIG.remarks(config)
    names = [*_CONFIG.overrides, *combination]
    fields = _config_flag.values(config, names)
    cells.append(
      {cells_lib.CONFIG: _CONFIG.path}
      | {name: overrides.absolute(name, v) for name, v in fields.items()}
    )
  sweep = cells_lib.Sweep(cells)
  cells_lib.check(sweep)
  for line in dict.fromkeys(remarks):
    _cli.say('sweep', line)
  return sweep


def _cells(sweep: cells_lib.Sweep) -> list[cells_lib.Fields]:
  """Returns the cells of a sweep, as the flags change them."""
  cells = chosen = cells_lib.only(sweep.cells, _ONLY.value)
  if _SCALE.value == 'smoke':
    cells = smoke.cells(sweep, chosen)
  fields = overrides.parse_fields(_SET.value)
  overrides.check_not_varied(fields, chosen)
  cells = [overrides.with_fields(cell, fields) for cell in cells]
  given = {*fields, *_CONFIG.overrides}
  if _SCALE.value == 'smoke' and not given & _CHOICES_OF_DATA:
    cells, lines = smoke.stand_ins(cells)
    for line in lines:
      _cli.say('sweep', line)
  cells_lib.check(dataclasses.replace(sweep, cells=cells))
  return cells


def _place(directory: pathlib.Path) -> execution.Place:
  """Returns where the flags have the cells run."""
  if _RAY.value is None:
    return pool.Pool(directory, workers=_WORKERS.value, gpus=_GPUS.value)
  return ray_cluster.RayCluster(
    directory,
    _RAY.value,
    gpus_per_cell=_GPUS_PER_CELL.value,
    cpus_per_cell=_CPUS_PER_CELL.value,
  )


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'sweep', flags)


if __name__ == '__main__':
  cli()
