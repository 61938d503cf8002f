"""What a run would do and cost, without training or writing anything."""

import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sam_jax import lookup
from sam_jax.runs import (
  bootstrap,
  experiment as experiment_lib,
  preparation,
  progress_line,
  provenance,
  workdir as workdir_lib,
)
from sam_jax.training import parallel as parallel_lib, train_step

# Share of a device's matrix-multiplication rate that a step of convolutions
# reaches: a round figure between a CPU's and a GPU's.
_EFFICIENCY = 0.4


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Prints the resolved config, layout, size, memory and time of a run.

  Args:
    config: see configs/default.py.
    workdir: run directory; read if it exists, never written.

  Raises:
    ValueError: a value of the config is not allowed, or the directory holds
      another run.
    FileNotFoundError: the data set, or `config.init_from`, is not there.
  """
  experiment_lib.load_plugins(config)
  config = preparation.resolve(config, workdir.absolute())
  experiment = _build(config)
  preparation.check_init_from(config, experiment, workdir.absolute())
  if config.labels_from and not workdir_lib.has_begun(workdir):
    bootstrap.check(config)
  print(json.dumps(config.to_dict(), indent=2))
  print(experiment.layout.describe())
  for name, value in describe(config, experiment).items():
    print(f'{name}: {value}')


def _build(config: ml_collections.ConfigDict) -> experiment_lib.Experiment:
  """Builds a run under shard_map: pmap takes no shapes."""
  lookup.check('parallel', config.parallel, parallel_lib.names())
  config = config.copy_and_resolve_references()
  config.parallel = 'shard_map'
  return experiment_lib.build(config)


def describe(
  config: ml_collections.ConfigDict, experiment: experiment_lib.Experiment
) -> dict[str, str]:
  """Returns what a person wants to know before starting a run, by name."""
  dataset = experiment.dataset
  state = experiment.state_shapes()
  compiled = _compile(experiment, state)
  # Of one device's program, and so is the rate.
  flops = count_flops(compiled, experiment.fns)
  seconds = flops / (_EFFICIENCY * matmul_rate()) * experiment.num_steps
  return {
    'data': (
      f'{dataset.name}, {len(dataset.train.labels):,} training and '
      f'{len(dataset.evaluation.labels):,} {config.data.split} examples'
    ),
    'parameters': f'{provenance.count_parameters(state.params):,}',
    'steps': (
      f'{experiment.num_steps:,} ({experiment.steps_per_epoch:,} per epoch)'
    ),
    'memory of a step': f'{peak_bytes(compiled) / 2**20:,.0f} MiB per device',
    'arithmetic of a step': f'{flops / 1e9:,.2f} GFLOP per device',
    'estimated time': (
      f'{progress_line.duration(seconds)} (h:mm:ss; if steps reach '
      f"{_EFFICIENCY:.0%} of this device's matrix-multiplication rate)"
    ),
  }


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


def _compile(
  experiment: experiment_lib.Experiment, state: train_step.TrainState
) -> Any:
  """Returns the compiled training step."""
  batch_size = experiment.layout.batch_size
  images = experiment.dataset.train.images
  batch = {
    'image': jax.ShapeDtypeStruct((batch_size, *images.shape[1:]), jnp.uint8),
    'label': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    'position': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
  }
  return experiment.compile_train_step().lower(state, batch).compile()


def matmul_rate(size: int = 2048, repeats: int = 5) -> float:
  """Returns the floating-point operations per second of one device.

  Args:
    size: of the square float32 matrices that are multiplied.
    repeats: multiplications; the fastest counts.
  """
  matrix = jax.device_put(np.ones((size, size), np.float32))
  multiply = jax.jit(jnp.matmul)
  multiply(matrix, matrix).block_until_ready()
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    multiply(matrix, matrix).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 / min(seconds)
