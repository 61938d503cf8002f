r"""Measures a training step: compilation, time, rate, memory, ratio to SGD.

    python scripts/benchmark_step.py --model=WideResnet28x1 --batch_size=128 \
        --methods='sgd,sam,looksam(every=5)' --json=out.json
    python scripts/benchmark_step.py --model=gpt2 --context_length=1024 \
        --vocabulary_size=50257 --batch_size=64 --microbatch_size=16 \
        --compute_dtype=bfloat16 --methods=sgd,sam,quarter_sam

With a context length, the model is a language model, an example is a window of
text, and all methods, 'sgd' too, have AdamW.

The methods are timed in turn, A B A B, so that what else the machine does falls
on all of them; a ratio is the median over the rounds of a method's step to
SGD's in the same round. Warm-up steps are left out. Memory is what the compiler
plans for one step: arguments, results and temporaries.

On a GPU the floating-point rate of the step, from the compiler's count of
operations, is compared with a matrix multiplication's.
"""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli, datasets
from sam_jax.configs import default, text
from sam_jax.runs import (
  build as build_lib,
  dry_run,
  files,
  initialization,
  provenance,
)
from sam_jax.sweeps import method_list
from sam_jax.training import train_step

flags = _cli.Flags()
_MODEL = flags.DEFINE_string('model', 'WideResnet28x1', 'Name of the model.')
_METHODS = flags.DEFINE_string(
  'methods', 'sgd,sam', 'Methods to compare, with fields: sam(p=1),looksam.'
)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'B.', lower_bound=1)
_M = flags.DEFINE_integer('m', None, 'm; default B / devices.')
_MICROBATCH = flags.DEFINE_integer(
  'microbatch_size', None, 'b; default the smaller of m and B / devices.'
)
_LOOP = flags.DEFINE_string('microbatch_loop', 'scan', 'scan, unroll, vmap.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 32, 'Height and width.')
_CHANNELS = flags.DEFINE_integer('channels', 3, 'Channels.')
_CONTEXT_LENGTH = flags.DEFINE_integer(
  'context_length', None, 'Tokens of a window, for a language model.'
)
_VOCABULARY_SIZE = flags.DEFINE_integer(
  'vocabulary_size', 256, 'Tokens that a language model knows.', lower_bound=256
)
_COMPUTE_DTYPE = flags.DEFINE_string(
  'compute_dtype', 'float32', 'Of activations: float32, bfloat16.'
)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Rounds.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 3, 'Steps per round.', lower_bound=1)
_JSON = flags.DEFINE_string('json', None, 'File for all figures.')

_NUM_CLASSES = 10
_DOMAINS = tuple('abcde')  # for the methods that need examples of several


@dataclasses.dataclass
class Candidate:
  """A method, compiled, and where its training stands."""

  method: str
  step: object
  state: train_step.TrainState
  batch: dict
  compile_seconds: float
  memory_bytes: int
  flops: float
  seconds: list[float] = dataclasses.field(default_factory=list)

  def run(self, num_steps: int) -> float:
    """Returns seconds per step; waits for the last."""
    start = time.perf_counter()
    for _ in range(num_steps):
      self.state, metrics = self.step(self.state, self.batch)
    jax.block_until_ready((self.state, metrics))
    return (time.perf_counter() - start) / num_steps


def _noise(directory: str | None, seed: int) -> datasets.Source:
  """Random images, as many as a batch."""
  del directory
  rng = np.random.default_rng(seed)
  n, size, channels = _BATCH_SIZE.value, _IMAGE_SIZE.value, _CHANNELS.value
  images = rng.integers(0, 256, (n, size, size, channels), np.uint8)
  labels, domains = (
    rng.integers(0, count, n).astype(np.int32)
    for count in (_NUM_CLASSES, len(_DOMAINS))
  )
  train = datasets.Examples(images, labels, domains)
  half = (0.5,) * channels
  return datasets.Source(
    train=train,
    test=train._replace(domains=None),
    num_classes=_NUM_CLASSES,
    mean=half,
    std=half,
    domains=_DOMAINS,
  )


def main(argv: Sequence[str]) -> None:
  _cli.refuse_arguments(argv[1:])
  if _CONTEXT_LENGTH.value is None:
    datasets.register('benchmark_step')(_noise)
  candidates = list(map(_prepare, method_list.parse(_METHODS.value)))
  for candidate in candidates:
    candidate.run(2)  # the first step after a compilation is not typical
  for done in range(_ROUNDS.value):
    for candidate in candidates:
      candidate.seconds.append(candidate.run(_STEPS.value))
    print(f'round {done + 1}/{_ROUNDS.value}', file=sys.stderr, flush=True)
  _report(candidates)


def _config(method: method_list.Entry):
  """Returns the config of a method.

  The recipe is that of the paper's CIFAR runs, or that of language models.
  """
  config = default.get_config()
  with config.unlocked():
    config.method.name = method.name
    for field, values in method.values.items():
      if len(values) > 1:
        raise ValueError(f'{field} has {len(values)} values; give one of them')
      config.method[field] = values[0]
  config.model.name = _MODEL.value
  if _CONTEXT_LENGTH.value is not None:
    text.adamw(config)
    config.data.name = 'python_manual'
    config.data.context_length = _CONTEXT_LENGTH.value
    config.data.vocabulary_size = _VOCABULARY_SIZE.value
  else:
    config.data.name = 'benchmark_step'
    config.augmentation.name = 'basic'
  config.compute_dtype = _COMPUTE_DTYPE.value
  config.batch_size = _BATCH_SIZE.value
  config.m = _M.value
  config.microbatch_size = _MICROBATCH.value
  config.microbatch_loop = _LOOP.value
  return build_lib.resolve(config, jax.device_count())


def _prepare(method: method_list.Entry) -> Candidate:
  """Compiles a method's step and initialises its training."""
  config = _config(method)
  experiment = build_lib.build(config)
  state = experiment.parallel.replicate(
    initialization.initial_state(experiment, seed=0)
  )
  stream = experiment.task.train_batches(
    experiment.dataset.train, config.batch_size, seed=0
  )
  batch = experiment.parallel.shard(next(stream))
  start = time.perf_counter()
  compiled = experiment.compile_train_step().lower(state, batch).compile()
  seconds = time.perf_counter() - start
  return Candidate(
    method=method.label,
    step=compiled,
    state=state,
    batch=batch,
    compile_seconds=seconds,
    memory_bytes=dry_run.peak_bytes(compiled),
    flops=dry_run.count_flops(compiled, experiment.fns),
  )


def _report(candidates: Sequence[Candidate]) -> None:
  """Prints the table; writes the figures if asked to."""
  base = next((c for c in candidates if c.method == 'sgd'), candidates[0])
  rows = [_figures(candidate, base) for candidate in candidates]
  parameters = provenance.count_parameters(base.state.params)
  width = max(len(row['method']) for row in [*rows, {'method': 'method'}]) + 1
  print(
    f'{_MODEL.value}, {parameters:,} parameters, batch {_BATCH_SIZE.value}, '
    f'{_ROUNDS.value} rounds of {_STEPS.value} steps, '
    f'{jax.device_count()} x {jax.devices()[0].device_kind}, '
    f'jax {jax.__version__}'
  )
  print(
    f'{"method":{width}}{"compile, s":>12}{"step, ms":>11}{"[min-max]":>20}'
    f'{"examples/s":>11}{"memory, MiB":>13}{"/ " + base.method:>9}'
    f'{"[min-max]":>16}'
  )
  for row in rows:
    step, ratio = row['step_ms'], row['ratio']
    print(
      f'{row["method"]:{width}}{row["compile_s"]:>12.1f}{step["median"]:>11.2f}'
      f'{"[{min:.2f}-{max:.2f}]".format(**step):>20}'
      f'{row["examples_per_second"]:>11.1f}{row["memory_mib"]:>13.0f}'
      f'{ratio["median"]:>9.2f}{"[{min:.2f}-{max:.2f}]".format(**ratio):>16}'
    )
  copies = [
    (c.memory_bytes - base.memory_bytes) / (4 * parameters) for c in candidates
  ]
  for candidate, extra in zip(candidates, copies, strict=True):
    if candidate is not base:
      print(
        f'{candidate.method}: {extra:.1f} copies of the parameters more memory '
        f'than {base.method}'
      )
  if jax.default_backend() != 'cpu':
    _print_utilization(rows)
  if _JSON.value:
    content = {
      'model': _MODEL.value,
      'parameters': parameters,
      'batch_size': _BATCH_SIZE.value,
      **provenance.describe(),
      'methods': rows,
    }
    with open(files.user_path(_JSON.value), 'w', encoding='utf-8') as stream:
      json.dump(content, stream, indent=2)


def _figures(candidate: Candidate, base: Candidate) -> dict:
  """Returns the figures of one method."""
  seconds = np.array(candidate.seconds)
  return {
    'method': candidate.method,
    'compile_s': candidate.compile_seconds,
    'step_ms': _spread(1e3 * seconds),
    'examples_per_second': _BATCH_SIZE.value / float(np.median(seconds)),
    'memory_mib': candidate.memory_bytes / 2**20,
    'flops': candidate.flops,
    'ratio': _spread(seconds / np.array(base.seconds)),
  }


def _spread(values: np.ndarray) -> dict[str, float]:
  """Returns median, minimum and maximum."""
  return {
    'median': float(np.median(values)),
    'min': float(values.min()),
    'max': float(values.max()),
  }


def _print_utilization(rows: Sequence[dict]) -> None:
  """Prints the share of the matrix-multiplication rate that a step reaches."""
  peak = dry_run.matmul_rate(8192, dtype=_COMPUTE_DTYPE.value)
  for row in rows:
    rate = row['flops'] / (row['step_ms']['median'] / 1e3)
    row['matmul_share'] = rate / peak
    print(
      f'{row["method"]}: {rate / 1e12:.1f} TFLOP/s of {peak / 1e12:.1f} '
      f'({rate / peak:.0%} of a {_COMPUTE_DTYPE.value} matrix multiplication)'
    )


def cli() -> None:
  _cli.run(main, 'benchmark_step', flags)


if __name__ == '__main__':
  cli()
