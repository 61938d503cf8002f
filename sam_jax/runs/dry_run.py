"""What a run would do and cost, without training or writing anything."""

import json
import math
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sam_jax import lookup, types
from sam_jax.runs import (
  ambient,
  bootstrap,
  build,
  files,
  initialization,
  preparation,
  progress_line,
  provenance,
  validation,
  workdir as workdir_lib,
)
from sam_jax.training import parallel as parallel_lib, train_step

# Share of a device's matrix-multiplication rate that a step of convolutions
# reaches: a round figure between a CPU's and a GPU's.
_EFFICIENCY = 0.4


@ambient.pinned()
def run(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> None:
  """Prints the resolved config, layout, size, memory and time of a run.

  Args:
    config: see configs/default.py.
    workdir: run directory; read if it exists, never written.

  Raises:
    ValueError: a value of the config is not allowed, or the directory holds
      another run.
    FileNotFoundError: the data set, or `config.init_from`, is not there.
  """
  lookup.check('parallel', config.parallel, parallel_lib.names())
  validation.check_parallel(config)
  prepared = preparation.prepare(_under_shard_map(config), workdir)
  _check_sources(prepared.config, prepared.experiment, files.user_path(workdir))
  shown = prepared.config.to_dict() | {'parallel': config.parallel}
  print(json.dumps(shown, indent=2))
  print(prepared.experiment.layout.describe())
  for name, value in describe(prepared.config, prepared.experiment).items():
    print(f'{name}: {value}')


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
  config: ml_collections.ConfigDict, experiment: build.Experiment
) -> dict[str, str]:
  """Returns what a person wants to know before starting a run, by name."""
  dataset, count = experiment.dataset, experiment.task.count
  state = experiment.state_shapes()
  compiled = _compile(experiment, state)
  # Of one device's program, and so is the rate.
  flops = count_flops(compiled, experiment.fns)
  rate = matmul_rate(dtype=config.compute_dtype)
  seconds = flops / (_EFFICIENCY * rate) * experiment.num_steps
  return {
    'data': (
      f'{dataset.name}, {count(dataset.train):,} training and '
      f'{count(dataset.evaluation):,} {config.data.split} examples'
    ),
    'parameters': f'{provenance.count_parameters(state.params):,}',
    'steps': (
      f'{experiment.num_steps:,} ({experiment.steps_per_epoch:,} per epoch)'
    ),
    'memory of a step': _memory(state, peak_bytes(compiled)),
    'arithmetic of a step': f'{flops / 1e9:,.2f} GFLOP per device',
    'estimated time': (
      f'{progress_line.duration(seconds)} (h:mm:ss; if steps reach '
      f"{_EFFICIENCY:.0%} of this device's matrix-multiplication rate)"
    ),
  }


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
  size: int = 2048, repeats: int = 5, dtype: str = 'float32'
) -> float:
  """Returns the floating-point operations per second of one device.

  Args:
    size: of the square matrices that are multiplied.
    repeats: multiplications; the fastest counts.
    dtype: of the matrices.
  """
  matrix = jax.device_put(np.ones((size, size), jnp.dtype(dtype)))
  multiply = jax.jit(jnp.matmul)
  multiply(matrix, matrix).block_until_ready()
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    multiply(matrix, matrix).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 / min(seconds)
