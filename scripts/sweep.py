"""Runs all cells of a sweep; goes on with it; shows how far it is.

    python scripts/sweep.py --sweep=configs/sweeps/digits_noise.py \
        --workdir=runs/digits_noise --workers=2

A cell is one run of `python -m sam_jax.train` in a directory of its own. What
is finished is left, what was interrupted goes on where it stopped, so that the
same command again is all it takes after a kill or a power cut. Several machines
may share the directory: each cell is claimed by one of them. A cell that fails
does not stop the rest; it is listed in the end, and tried again with --retry.

--dry_run prints the cells and what they cost. --emit=shell, slurm or tpu prints
commands instead: one a line; a job array; for every worker of a TPU pod.
--scale=smoke takes three steps of the first replica of every cell, elsewhere.

Exit status: 0 if every cell is finished, 1 if some are not, 2 if the sweep
cannot be run.
"""

import ctypes
import dataclasses
import importlib.util
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import ml_collections
import tqdm
from absl import app, flags, logging

# The checkout goes first, installed or not.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from sam_jax import (
  datasets,
  experiment as experiment_lib,
  reporting,
  sweeps,
  train_step,
)

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
  'scale', 'full', ['full', 'smoke'], 'smoke: a few steps of one replica.'
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

_SMOKE_FIELDS = {'num_steps': 3, 'eval_batch_size': 64}
_POLL_SECONDS = 0.5
_STOP_SECONDS = 120
_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass
class _Run:
  """A cell that is running."""

  cell: sweeps.Fields
  claim: sweeps.Claim
  process: subprocess.Popen
  slot: int
  renewed: float


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
  sys.exit(_Runner(cells, directory).run())


def _exit(message: str) -> None:
  """Ends the program with one line."""
  print(f'sweep: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)


def _cells(path: pathlib.Path) -> list[sweeps.Fields]:
  """Returns the cells of a sweep file, at the scale asked for."""
  sweep = sweeps.load(path)
  if _SCALE.value == 'full':
    return list(sweep.cells)
  first: dict[str, sweeps.Fields] = {}
  for cell in sweep.cells:
    kind = {k: v for k, v in cell.items() if k not in sweep.replicas}
    first.setdefault(sweeps.cell_name(kind), cell | _SMOKE_FIELDS)
  return list(first.values())


# --- Running -----------------------------------------------------------------


class _Runner:
  """Runs the cells that are left, some at a time."""

  def __init__(
    self, cells: list[sweeps.Fields], directory: pathlib.Path
  ) -> None:
    self._cells = cells
    self._directory = directory
    self._running: list[_Run] = []
    self._failed: list[sweeps.Fields] = []
    self._elsewhere: list[sweeps.Fields] = []
    self._signum: int | None = None
    self._began = time.monotonic()
    self._fraction_at_start = self._fraction()
    self._bar = tqdm.tqdm(
      total=len(cells),
      initial=self._fraction_at_start,
      disable=not sys.stderr.isatty(),
      bar_format='{l_bar}{bar}| {n:.2f}/{total_fmt} cells {postfix}',
    )

  def run(self) -> int:
    """Runs all; returns the exit status."""
    for signum in (signal.SIGTERM, signal.SIGINT):
      signal.signal(signum, self._note)
    pending = list(self._cells)
    while (pending or self._running) and self._signum is None:
      while pending and len(self._running) < _WORKERS.value:
        self._start(pending.pop(0))
      for run in list(self._running):
        self._attend(run)
      self._show()
      time.sleep(_POLL_SECONDS if self._running else 0)
    self._stop()
    self._bar.close()
    return self._conclude()

  def _note(self, signum: int, frame: object) -> None:
    del frame
    self._signum = signum

  def _start(self, cell: sweeps.Fields) -> None:
    """Starts a cell, unless it is finished, failed or another machine's."""
    if sweeps.result(self._workdir(cell)) is not None:
      return
    if self._failure(cell).exists() and not _RETRY.value:
      self._failed.append(cell)
      return
    claims = self._directory / 'claims'
    claim = sweeps.Claim(claims, sweeps.cell_name(cell))
    if not claim.take():
      self._elsewhere.append(cell)
      return
    # It may have been finished between the first look and the claim.
    if sweeps.result(self._workdir(cell)) is not None:
      claim.give_back()
      return
    self._failure(cell).unlink(missing_ok=True)
    slot = min(set(range(_WORKERS.value)) - {r.slot for r in self._running})
    process = _launch(cell, self._directory, self._log(cell), slot)
    self._running.append(_Run(cell, claim, process, slot, time.monotonic()))

  def _attend(self, run: _Run) -> None:
    """Renews a claim; takes note of an end."""
    if time.monotonic() - run.renewed > sweeps.RENEW_SECONDS:
      run.renewed = time.monotonic()
      if not run.claim.renew():
        # We slept so long that another machine took it.
        run.process.kill()
        run.process.wait()
        self._running.remove(run)
        self._elsewhere.append(run.cell)
        return
    if run.process.poll() is None:
      return
    self._running.remove(run)
    if run.process.returncode == 0:
      result = sweeps.result(self._workdir(run.cell))
      self._line(
        f'{result["split"]} error {result["final_error_rate"]:.2%} in '
        f'{result["wall_seconds"]:.0f} s: {sweeps.cell_name(run.cell)}'
      )
    else:
      self._failed.append(run.cell)
      reason = _last_line(self._log(run.cell))
      self._failure(run.cell).parent.mkdir(parents=True, exist_ok=True)
      self._failure(run.cell).write_text(reason + '\n')
      self._line(f'failed: {sweeps.cell_name(run.cell)}: {reason}')
    run.claim.give_back()

  def _stop(self) -> None:
    """Has what is running save a checkpoint and end."""
    for run in self._running:
      run.process.terminate()
    for run in self._running:
      try:
        run.process.wait(_STOP_SECONDS)
      except subprocess.TimeoutExpired:
        run.process.kill()
        run.process.wait()
      run.claim.give_back()

  def _conclude(self) -> int:
    """Says what is done and what is not; returns the exit status."""
    done = self._num_done()
    print(f'{done} of {len(self._cells)} cells are finished')
    if self._elsewhere:
      print(f'{len(self._elsewhere)} were being run by another sweep')
    for cell in self._failed:
      reason = self._failure(cell).read_text().strip()
      print(f'failed: {sweeps.cell_name(cell)}: {reason} ({self._log(cell)})')
    if self._signum is not None:
      print('stopped by a signal; the same command goes on from there')
      return 128 + self._signum
    return 0 if done == len(self._cells) else 1

  def _num_done(self) -> int:
    """Returns how many cells are finished."""
    return sum(
      sweeps.result(self._workdir(cell)) is not None for cell in self._cells
    )

  def _fraction(self) -> float:
    """Returns how many cells' worth is made."""
    return sum(sweeps.fraction(self._workdir(cell)) for cell in self._cells)

  def _show(self) -> None:
    """Moves the bar."""
    if not self._bar.disable:
      self._bar.n = made = self._fraction()
      self._bar.set_postfix_str(
        f'{len(self._running)} running, {len(self._failed)} failed'
        f'{self._time_left(made)}'
      )

  def _line(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    done = self._num_done()
    left = self._time_left(self._fraction())
    text = f'[{done}/{len(self._cells)}{left}] {text}'
    if self._bar.disable:
      print(text, flush=True)
    else:
      self._bar.write(text)

  def _time_left(self, made: float) -> str:
    """Returns the time left, once there is something to tell it by."""
    here = made - self._fraction_at_start
    if here <= 0:
      return ''
    rate = here / (time.monotonic() - self._began)
    left = reporting.duration((len(self._cells) - made) / rate)
    return f', {left} left'

  def _workdir(self, cell: sweeps.Fields) -> pathlib.Path:
    return self._directory / sweeps.cell_name(cell)

  def _log(self, cell: sweeps.Fields) -> pathlib.Path:
    return self._directory / 'logs' / f'{sweeps.cell_name(cell)}.log'

  def _failure(self, cell: sweeps.Fields) -> pathlib.Path:
    return self._directory / 'failed' / sweeps.cell_name(cell)


def _launch(
  cell: sweeps.Fields, directory: pathlib.Path, log: pathlib.Path, slot: int
) -> subprocess.Popen:
  """Starts a cell in a process of its own that does not outlive this one."""
  log.parent.mkdir(parents=True, exist_ok=True)
  environment = dict(os.environ)
  if _GPUS.value:
    gpu = _GPUS.value[slot % len(_GPUS.value)]
    environment['CUDA_VISIBLE_DEVICES'] = gpu
  with log.open('ab') as stream:
    return subprocess.Popen(
      [sys.executable, *_command(cell, directory)],
      cwd=_ROOT,
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=stream,
      stderr=subprocess.STDOUT,
      preexec_fn=_die_with_parent if sys.platform == 'linux' else None,
    )


def _die_with_parent() -> None:
  """Has Linux kill this process when the sweep is killed.

  A run that went on alone would write where the next sweep writes.
  """
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _command(cell: sweeps.Fields, directory: pathlib.Path) -> list[str]:
  """Returns the command line of a cell, after the interpreter."""
  return ['-m', 'sam_jax.train', *sweeps.arguments(cell, directory)]


def _last_line(log: pathlib.Path) -> str:
  """Returns the last line of a log that says something."""
  lines = log.read_text('utf-8', errors='replace').splitlines()
  return next((x.strip() for x in reversed(lines) if x.strip()), 'no output')


# --- Commands ----------------------------------------------------------------

_SLURM = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output={logs}/%A_%a.log
# Add what your cluster wants: --partition, --gres=gpu:1, --time, ...
# The same script again goes on with what is not finished.
cd {root}
cells=(
{cells}
)
eval "exec python -m sam_jax.train ${{cells[$SLURM_ARRAY_TASK_ID]}}"
"""


def _emit(cells: list[sweeps.Fields], directory: pathlib.Path) -> None:
  """Prints commands for the cells that are not finished."""
  left = [
    cell
    for cell in cells
    if sweeps.result(directory / sweeps.cell_name(cell)) is None
  ]
  if _EMIT.value == 'slurm':
    quoted = (shlex.join(sweeps.arguments(c, directory)) for c in left)
    text = _SLURM.format(
      name=pathlib.Path(_SWEEP.value).stem,
      last=len(left) - 1,
      logs=directory / 'logs',
      root=shlex.quote(str(_ROOT)),
      cells='\n'.join(f'  {shlex.quote(q)}' for q in quoted),
    )
    print(text, end='')
    return
  extra = ['--coordinator=auto'] if _EMIT.value == 'tpu' else []
  print(f'cd {shlex.quote(str(_ROOT))}')
  for cell in left:
    print(shlex.join(['python', *_command(cell, directory), *extra]))


# --- Cost --------------------------------------------------------------------

# Fields on which the time of a step does not depend.
_FREE_FIELDS = (
  'data.label_noise',
  'data.seed',
  'data.split',
  'learning_rate',
  'sam.rho',
  'seed',
  'weight_decay.rate',
)


def _print_cost(cells: list[sweeps.Fields], directory: pathlib.Path) -> None:
  """Prints the cells, whether they are finished, and what they cost."""
  costs: dict[str, _Cost | str] = {}
  total = _Cost(0.0, 0.0)
  print(f'{"gradients":>12}{"hours":>9}  {"state":10} cell')
  for cell in cells:
    fixed = {k: v for k, v in cell.items() if k not in _FREE_FIELDS}
    kind = sweeps.cell_name(fixed)
    if kind not in costs:
      costs[kind] = _cost(cell)
    cost = costs[kind]
    made = sweeps.fraction(directory / sweeps.cell_name(cell))
    state = 'finished' if made == 1 else f'{made:.0%} made'
    if isinstance(cost, str):
      print(f'{"?":>12}{"?":>9}  {state:10} {sweeps.cell_name(cell)}: {cost}')
      continue
    print(
      f'{cost.gradients:>12,.0f}{cost.hours:>9.3f}  {state:10} '
      f'{sweeps.cell_name(cell)}'
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


def _cost(cell: sweeps.Fields) -> _Cost | str:
  """Returns what a cell costs, or why that cannot be told."""
  try:
    config = _config(cell)
    experiment_lib.load_plugins(config)
    config = experiment_lib.resolve(config, jax.device_count())
    experiment = experiment_lib.build(config)
  except (ValueError, OSError, AttributeError, KeyError) as error:
    return ' '.join(str(error).split())
  gradients = experiment.num_steps * experiment.fns.method.gradient_evaluations
  seconds = _seconds_per_step(experiment) if _TIME_STEPS.value else 0.0
  return _Cost(gradients, experiment.num_steps * seconds / 3600)


def _config(cell: sweeps.Fields) -> ml_collections.ConfigDict:
  """Returns the config of a cell as the command line would make it."""
  path, _, argument = cell[sweeps.CONFIG].partition(':')
  spec = importlib.util.spec_from_file_location('config_file', _ROOT / path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(argument) if argument else module.get_config()
  fields = {k: v for k, v in cell.items() if k != sweeps.CONFIG}
  config.update_from_flattened_dict(fields)
  return config


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
