"""What a run would do and cost, without training or writing anything."""

import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from sam_jax import lookup, tasks, types
from sam_jax.runs import (
  ambient,
  bootstrap,
  build,
  files,
  initialization,
  preparation,
  progress_line,
  provenance,
  stand_ins,
  validation,
  workdir as workdir_lib,
)
from sam_jax.training import (
  layout as layout_lib,
  parallel as parallel_lib,
  train_step,
)

# Share of a device's matrix-multiplication rate that a step of convolutions
# reaches: a round figure between a CPU's and a GPU's.
_EFFICIENCY = 0.4
# Of an epoch whose length is not known, so that any warm-up fits into it.
_MANY_STEPS = 100_000


@ambient.pinned()
def run(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> None:
  """Prints the resolved config, layout, size, memory and time of a run.

  The data need not be there, if it is known how many examples they have and of
  which shape. Without that, the config and the layout are printed all the same.

  Args:
    config: see configs/default.py.
    workdir: run directory; read if it exists, never written.

  Raises:
    ValueError: a value of the config is not allowed, or the directory holds
      another run.
    FileNotFoundError: `config.init_from` is not there; or the data set is not,
      and nothing is known of it.
  """
  lookup.check('parallel', config.parallel, parallel_lib.names())
  validation.check_parallel(config)
  shared = stand_ins.StandIns(_MANY_STEPS * config.batch_size)
  prepared = _prepare(_under_shard_map(config), workdir, shared)
  _check_sources(prepared.config, prepared.experiment, files.user_path(workdir))
  _show(prepared.config, config.parallel, prepared.experiment.layout)
  lines = describe(
    prepared.config, prepared.experiment, has_data=not shared.missing
  )
  for name, value in lines:
    print(f'{name}: {value}', flush=True)
  print('done; nothing was trained or written')
  for reason in shared.missing.values():
    print(f'warning: the run needs its data: {reason}', file=sys.stderr)


def _prepare(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  shared: stand_ins.StandIns,
) -> preparation.Prepared:
  """Returns the run, of data that stand in for those that are not there.

  Whether a directory holds this run, only its data can tell.
  """
  try:
    return preparation.prepare(config, workdir)
  except FileNotFoundError:
    if workdir_lib.has_begun(files.user_path(workdir)):
      raise
  try:
    return preparation.prepare(config, shared=shared)
  except FileNotFoundError as error:
    resolved = build.resolve(config, jax.device_count())
    sizes = (resolved.m, resolved.microbatch_size, resolved.fsdp)
    layout = layout_lib.create(resolved.batch_size, jax.device_count(), *sizes)
    _show(resolved, config.parallel, layout)
    raise FileNotFoundError(
      f'without the data nothing more is known of the run: {error}'
    ) from error


def _show(
  config: ml_collections.ConfigDict, parallel: str, layout: layout_lib.Layout
) -> None:
  """Prints what is known before anything is compiled."""
  print(json.dumps(config.to_dict() | {'parallel': parallel}, indent=2))
  print(layout.describe(), flush=True)


def _under_shard_map(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns the config with shard_map, because pmap takes no shapes."""
  config = config.copy_and_resolve_references()
  config.parallel = 'shard_map'
  return config


def _check_sources(
  config: ml_collections.ConfigDict,
  experiment: build.Experiment,
  workdir: pathlib.Path,
) -> None:
  """Refuses other runs, from which this one starts, as the run would."""
  if not preparation.has_checkpoint(workdir):
    initialization.check_source(experiment, config.init_from)
  if config.labels_from and not workdir_lib.has_begun(workdir):
    bootstrap.check(config, experiment.info or {})


def describe(
  config: ml_collections.ConfigDict,
  experiment: build.Experiment,
  has_data: bool = True,
) -> Iterator[tuple[str, str]]:
  """Yields what a person wants to know before starting a run, by name.

  Args:
    config: resolved.
    experiment: its objects.
    has_data: whether the data are there, and not what stands in for them.
  """
  state = experiment.state_shapes()
  yield 'data', _data(config, experiment, has_data)
  yield 'parameters', f'{provenance.count_parameters(state.params):,}'
  # A text that is not there has a length that nobody knows.
  is_sized = has_data or isinstance(experiment.task, tasks.ImageTask)
  is_long = is_sized or config.num_steps is not None
  per_epoch = f'{experiment.steps_per_epoch:,}' if is_sized else 'unknown'
  total = f'{experiment.num_steps:,}' if is_long else 'unknown'
  yield 'steps', f'{total} ({per_epoch} per epoch)'
  start = time.monotonic()
  yield 'compiling', 'one training step, to learn its memory and arithmetic'
  compiled = _compile(experiment, state)
  yield 'compiled', f'in {time.monotonic() - start:.0f} s'
  yield 'memory of a step', _memory(state, peak_bytes(compiled))
  flops = count_flops(compiled, experiment.fns)  # of one device's program
  yield 'arithmetic of a step', f'{flops / 1e9:,.2f} GFLOP per device'
  if is_long:
    yield 'estimated time', _time(flops * experiment.num_steps, config)


def _data(
  config: ml_collections.ConfigDict,
  experiment: build.Experiment,
  has_data: bool,
) -> str:
  """Returns how many examples there are."""
  dataset, count = experiment.dataset, experiment.task.count
  if not has_data and not isinstance(experiment.task, tasks.ImageTask):
    return f'{dataset.name}, which is not there'
  return (
    f'{dataset.name}, {count(dataset.train):,} training and '
    f'{count(dataset.evaluation):,} {config.data.split} examples'
    + ('' if has_data else ' (as published; the data are not there)')
  )


def _time(flops: float, config: ml_collections.ConfigDict) -> str:
  """Returns how long a run takes, by the arithmetic of all steps."""
  seconds = flops / (_EFFICIENCY * matmul_rate(dtype=config.compute_dtype))
  return (
    f'{progress_line.duration(seconds)} (h:mm:ss; if steps '
    f"reach {_EFFICIENCY:.0%} of this device's matrix-multiplication rate)"
  )


def _memory(state: train_step.TrainState, total: int) -> str:
  """Returns what a step needs on each device, and for what."""
  parts = {
    'parameters': _bytes(state.params),
    'optimizer': _bytes(state.opt_state),
    'method': _bytes(state.method_state),
    'average of parameters': _bytes(state.ema),
    'gradient': _bytes(state.params),
  }
  parts['activations and copies'] = max(total - sum(parts.values()), 0)
  shown = ', '.join(f'{k} {v / 2**20:,.0f}' for k, v in parts.items() if v)
  return f'{total / 2**20:,.0f} MiB per device ({shown})'


def _bytes(shapes: types.PyTree) -> int:
  """Returns the bytes of arrays on one device."""

  def of(x: jax.ShapeDtypeStruct) -> int:
    is_cut = x.sharding is not None
    shape = x.sharding.shard_shape(x.shape) if is_cut else x.shape
    return math.prod(shape) * x.dtype.itemsize

  return sum(map(of, jax.tree.leaves(shapes)))


def peak_bytes(compiled: Any) -> int:
  """Returns the memory that the compiler plans for a program on a device.

  Args:
    compiled: what `jax.jit(...).lower(...).compile()` returns.
  """
  memory = compiled.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )


def count_flops(compiled: Any, fns: train_step.StepFns) -> float:
  """Returns the floating-point operations of a compiled training step.

  Args:
    compiled: the step, on one device.
    fns: what it is made of.
  """
  layout = fns.layout
  pieces = layout.device_groups * layout.device_microbatches
  # XLA counts the body of a loop once.
  repeats = pieces if fns.loop == 'scan' else 1
  return compiled.cost_analysis()['flops'] * repeats


def _compile(experiment: build.Experiment, state: train_step.TrainState) -> Any:
  """Returns the compiled training step."""
  step = experiment.compile_train_step()
  return step.lower(state, experiment.batch_shapes()).compile()


def matmul_rate(
  size: int = 2048, dtype: str = 'float32', warm_up: float = 0.3
) -> float:
  """Returns the floating-point operations per second of one device.

  The products are handed to the device many at a time, so that it does not wait
  for this process, and the fastest of three times counts. The matrices are
  random: products of equal numbers take less power, and with it less time.

  Args:
    size: of the square matrices that are multiplied.
    dtype: of the matrices.
    warm_up: seconds of products before those that count, and about as many for
      each time; one product if that takes longer.
  """
  matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
  multiply = jax.jit(jnp.matmul)

  def take(count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
      product = multiply(matrix, matrix)
    product.block_until_ready()
    return time.perf_counter() - start

  take(1)  # compiles
  count = max(1, int(warm_up / take(1)))
  take(count)
  return 2 * size**3 * count / min(take(count) for _ in range(3))
