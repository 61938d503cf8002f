r"""Measures what feeding the network costs: the host's part and the device's.

    python scripts/benchmark_input.py
    python scripts/benchmark_input.py --config=image_folder \
        --config.data.directory=DIR --recipes=basic,randaugment

For each recipe of augmentation: the rate at which the host makes batches, the
rate at which the device augments and mixes them, and the rate of the whole SAM
step on a batch that is there. Steps, device parts and batches are timed in
turn, so that what else the machine does falls on all; the device's share is the
median over the rounds.

`waiting` is the share of the time that a loop of steps, each with the next
batch, spends until it has that batch. The loop asks when a step is done, and
images that are decoded on the fly are made ahead meanwhile; training asks a
step earlier, and hides what takes less than a step.

Of images that are decoded on the fly it also measures the decoder alone, what
crops and resizing add to it, and the rate by threads and by processes.

Without --config: 10,000 random images of 32 pixels in memory, the network and
the batches of --model and --batch_size. A recipe is a name, or names joined by
'+': 'basic+cutout+mixup'.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli, _config_flag, augmentation, datasets
from sam_jax.augmentation import mixing
from sam_jax.configs import default
from sam_jax.datasets import encoded, streams
from sam_jax.runs import (
  build as build_lib,
  config_files,
  factories,
  initialization,
)
from sam_jax.training import train_step
from scripts import benchmarking

flags = _cli.Flags()
_CONFIG = _config_flag.ConfigFlag(flags, required=False)
_RECIPES = flags.DEFINE_list(
  'recipes',
  [
    'none',
    'basic',
    'basic+cutout',
    'autoaugment+cutout',
    'randaugment',
    'basic+mixup',
    'basic+cutmix',
  ],
  'Recipes to measure.',
)
_MODEL = flags.DEFINE_string(
  'model', 'WideResnet28x1', 'Name of the model, without --config.'
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 128, 'Batch size B, without --config.', lower_bound=1
)
_COMPUTE_DTYPE = flags.DEFINE_string(
  'compute_dtype', 'float32', 'Type of the activations, without --config.'
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Number of rounds.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 2, 'Steps per round.', lower_bound=1)
_JSON = flags.DEFINE_string('json', None, 'File for all figures.')

_DATA = 'benchmark_input'
_noise = functools.partial(benchmarking.noise, count=10_000, size=32)
_CUTOUT_LENGTH = 16
_NUM_DECODED = 2000
# Steps in which a loop becomes steady.
_NUM_UNTIMED = 2
_HEADER = (
  ('recipe', 22, ''),
  ('host, images/s', 16, ',.0f'),
  ('new epoch, ms', 15, ',.1f'),
  ('device, images/s', 18, ',.0f'),
  ('step, images/s', 16, ',.0f'),
  ('waiting', 10, '.2%'),
  ('device/step', 13, '.2%'),
)


def main(argv: Sequence[str]) -> None:
  _cli.refuse_arguments(argv[1:])
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
  print(''.join(f'{name:>{width}}' for name, width, _ in _HEADER))
  rows, config = [], _config('none')
  for recipe in _RECIPES.value:
    rows.append(measure(recipe))
    print(
      ''.join(f'{rows[-1][name]:>{w}{form}}' for name, w, form in _HEADER),
      flush=True,
    )
  decoded = _measure_decoding()
  for name, value in decoded.items():
    print(f'{name:>38} {value:,.2f}')
  content = {
    'network': config.model.name,
    'batch_size': config.batch_size,
    **benchmarking.describe(),
    'recipes': rows,
    'decoding': decoded,
  }
  benchmarking.write(_JSON.value, content)


def _config(recipe: str):
  """Returns the config with a recipe."""
  if not _CONFIG.is_given:
    benchmarking.register_noise(_DATA, _noise)
    config = default.get_config()
    config.model.name = _MODEL.value
    config.data.name = _DATA
    config.batch_size = _BATCH_SIZE.value
    config.compute_dtype = _COMPUTE_DTYPE.value
  else:
    config = _CONFIG.load().copy_and_resolve_references()
  config_files.load_plugins(config)
  config.augmentation.name = 'none'
  config.augmentation.cutout_length = 0
  config.mixing.name = 'none'
  for part in recipe.split('+'):
    if part == 'cutout':
      config.augmentation.cutout_length = _CUTOUT_LENGTH
    elif part in augmentation.names():
      config.augmentation.name = part
    elif part in mixing.names():
      config.mixing.name = part
    else:
      known = sorted({'cutout', *augmentation.names(), *mixing.names()})
      raise ValueError(f'recipe {recipe!r} has {part!r}; known: {known}')
  return build_lib.resolve(config, jax.device_count())


def measure(recipe: str) -> dict[str, object]:
  """Returns the figures of one recipe."""
  config = _config(recipe)
  experiment = build_lib.build(config)
  new_epoch = _epoch_start(experiment, config.seed)
  stream = _stream(experiment, config.seed, 0)
  batch = experiment.parallel.shard(next(stream))
  take_step = _train(experiment, batch)
  see = _see(experiment, batch)
  is_streamed = isinstance(
    experiment.dataset.train.images, encoded.EncodedImages
  )
  rounds = np.empty((_ROUNDS.value, 3))
  for row in rounds:
    if is_streamed:
      _drain(stream, config.batch_size)
    row[:] = (
      benchmarking.timed(lambda: next(stream), 4 * _STEPS.value),
      benchmarking.timed(see, 4 * _STEPS.value),
      benchmarking.timed(lambda: take_step(batch), _STEPS.value),
    )
  if is_streamed:
    _drain(stream, config.batch_size)
  waiting = _waiting(experiment, stream, take_step)
  stream.close()
  host, device, step = config.batch_size / np.median(rounds, axis=0)
  share = np.median(rounds[:, 1] / rounds[:, 2])
  figures = (recipe, host, new_epoch, device, step, waiting, share)
  return dict(zip((name for name, *_ in _HEADER), figures, strict=True))


def _waiting(
  experiment: build_lib.Experiment,
  stream: Iterator[datasets.Batch],
  take_step: Callable[[train_step.Batch], object],
) -> float:
  """Returns the share of a loop of steps that is spent on getting batches."""
  times = []
  for _ in range(_NUM_UNTIMED + _ROUNDS.value * _STEPS.value):
    start = time.perf_counter()
    batch = next(stream)
    waited = time.perf_counter() - start
    jax.block_until_ready(take_step(experiment.parallel.shard(batch)))
    times.append((waited, time.perf_counter() - start))
  waited, whole = np.sum(times[_NUM_UNTIMED:], axis=0)
  return waited / whole


def _drain(stream: Iterator[datasets.Batch], batch_size: int) -> None:
  """Takes the batches that were made while nobody asked."""
  # Two, or a piece for each of at most 16 threads; and what is under way.
  piece = min(streams.PIECE, batch_size)
  for _ in range(4 + -(-16 * piece // batch_size)):
    next(stream)


def _measure_decoding() -> dict[str, float]:
  """Returns the figures of decoding; none if the images are in memory."""
  config = _config('none')
  images, labels, _ = factories.load_data(config).train
  if not isinstance(images, encoded.EncodedImages):
    return {}
  from sam_jax.datasets import decoding  # its libraries may not be there

  rows = np.random.default_rng(0).permutation(len(images))[:_NUM_DECODED]
  files = [images.read(row) for row in rows]
  rng = np.random.default_rng(0)
  calls = {
    'decoding alone': decoding.decode,
    'training crop': lambda data: decoding.random_crop(data, images.size, rng),
    'evaluation crop': lambda data: decoding.center_crop(data, images.size),
  }
  # In turn for each file; what other programs do falls on all.
  times = [
    [benchmarking.timed(functools.partial(c, data), 1) for c in calls.values()]
    for data in files
  ]
  medians = np.median(times, axis=0)
  figures = {}
  for name, median in zip(calls, medians, strict=True):
    figures[f'{name}, ms on one core'] = 1e3 * median
  figures['training crop / decoding alone'] = medians[1] / medians[0]
  for workers in (0, 1, os.cpu_count() or 1):
    name = f'{workers} processes' if workers else 'threads'
    chosen = dataclasses.replace(images, workers=workers)
    examples = datasets.Examples(chosen, labels)
    figures[f'by {name}, images/s'] = _rate(examples, config.batch_size)
  return figures


def _rate(examples: datasets.Examples, batch_size: int) -> float:
  """Returns images per second of a stream on its way."""
  stream = datasets.train_batches(examples, batch_size, seed=0)
  _drain(stream, batch_size)
  count = max(_NUM_DECODED // batch_size, 4)
  seconds = benchmarking.timed(lambda: next(stream), count)
  stream.close()
  return batch_size / seconds


def _stream(
  experiment: build_lib.Experiment, seed: int, start_step: int
) -> Iterator[datasets.Batch]:
  """Returns the run's batches."""
  return datasets.train_batches(
    experiment.dataset.train,
    experiment.layout.batch_size,
    seed=seed,
    start_step=start_step,
  )


def _epoch_start(experiment: build_lib.Experiment, seed: int) -> float:
  """Returns the milliseconds until the first batch of the second epoch."""
  last = experiment.steps_per_epoch - 1
  stream = _stream(experiment, seed, last)
  next(stream)
  return 1e3 * benchmarking.timed(lambda: next(stream), 1)


def _train(
  experiment: build_lib.Experiment, batch: train_step.Batch
) -> Callable[[train_step.Batch], object]:
  """Returns what takes a training step, compiled and warm after this batch."""
  state = experiment.parallel.replicate(
    initialization.initial_state(experiment, seed=0)
  )
  step = experiment.compile_train_step()
  states = [state]

  def take(batch: train_step.Batch) -> object:
    state, metrics = step(states.pop(), batch)
    states.append(state)
    return metrics

  for _ in range(2):  # the first step after a compilation is not typical
    jax.block_until_ready(take(batch))
  return take


def _see(
  experiment: build_lib.Experiment, batch: train_step.Batch
) -> Callable[[], object]:
  """Returns what makes the network's inputs, compiled and warm."""

  def see(step: jax.Array, batch: train_step.Batch) -> object:
    groups = experiment.layout.device_groups
    pieces = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)
    inputs = functools.partial(
      train_step.prepare, fns=experiment.fns, step=step
    )
    # What comes out has to be the same on all devices.
    sums = jax.tree.map(jnp.sum, jax.vmap(inputs)(pieces))
    return experiment.fns.collectives.global_sum(sums)

  compiled = experiment.parallel.compile(see, num_replicated=1, num_donated=0)
  steps = itertools.count()
  jax.block_until_ready(compiled(np.int32(next(steps)), batch))
  return lambda: compiled(np.int32(next(steps)), batch)


def cli() -> None:
  _cli.run(main, 'benchmark_input', flags)


if __name__ == '__main__':
  cli()
