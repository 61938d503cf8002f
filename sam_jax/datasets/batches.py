"""The stream of batches: a function of the seed and the step, no state.

Arrays in memory are indexed on the spot, a CIFAR batch of 128 in about 100
microseconds; encoded images are decoded ahead of time (`streams`). Whoever asks
for batches does not know which it is.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Generator

import numpy as np

from sam_jax.datasets import encoded, registry, streams

Batch = dict[str, np.ndarray]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Returns the number of whole batches; the remainder is dropped.

  Raises:
    ValueError: batch_size < 1, or there is not a single whole batch.

  Example:
    >>> steps_per_epoch(1000, 128)
    7
  """
  check_batch_size(batch_size)
  if batch_size > num_examples:
    raise ValueError(
      f'batch_size is {batch_size} but there are only {num_examples} training '
      f'examples; it must be at most that'
    )
  return num_examples // batch_size


def train_batches(
  examples: registry.Examples,
  batch_size: int,
  *,
  seed: int,
  start_step: int = 0,
  shard: tuple[int, int] | None = None,
) -> Generator[Batch, None, None]:
  """Yields shuffled training batches without end.

  The batch of step t is a function of (seed, t) alone: the rows at offset
  t mod steps_per_epoch of the permutation of epoch t // steps_per_epoch. So a
  run that starts at any step sees what the uninterrupted run sees.

  Args:
    examples: n training examples.
    batch_size: examples per step over all processes, at most n.
    seed: of the shuffling.
    start_step: the step of the first batch.
    shard: (start, stop), the rows of the global batch that this process
      wants; None for all.

  Returns:
    A generator, to be closed when no more is needed, of dicts: `image` uint8
    [rows, height, width, channels], `label` int32 [rows], `position` int32
    [rows], the row in the *global* batch, by which random augmentation is
    keyed, and the crop of an encoded image too, with seed and step; `example`
    int32 [rows], the row of `examples`, also where the image in it cannot be
    decoded and the next one is taken; and `domain` int32 [rows], if the
    examples have domains.

  Raises:
    ValueError: batch_size not in [1, n], a negative start_step, or a shard
      that is not within the batch.
    UndecodableError: while iterating; many encoded images are damaged.

  Differs from the official release: there the shuffling has no seed, and a
  resumed run starts a new order.
  """
  steps_per_epoch(len(examples.labels), batch_size)
  if start_step < 0:
    raise ValueError(f'start_step is {start_step}; it must be at least 0')
  positions = shard_positions(batch_size, shard)
  make = _TrainingBatches(examples, batch_size, seed, positions)
  return _iterate(make, examples.images, start_step, None)


def eval_batches(
  examples: registry.Examples,
  batch_size: int,
  *,
  shard: tuple[int, int] | None = None,
) -> Generator[Batch, None, None]:
  """Yields every example once, in order; the last batch is filled up.

  Args:
    examples: n examples.
    batch_size: rows of every batch over all processes; may exceed n.
    shard: (start, stop), the rows of each batch that this process wants; None
      for all.

  Returns:
    An iterator over dicts: `image` uint8 [rows, height, width, channels],
    `label` int32 [rows], `mask` float32 [rows], 1 for an example and 0 for a
    row that only fills up (the last example again).

  Raises:
    ValueError: batch_size < 1, or a shard that is not within the batch.
    UndecodableError: while iterating; an encoded image is damaged.

  Differs from the official release: there nothing is padded, an uneven last
  batch fails on several devices, and every host evaluates all examples.
  """
  check_batch_size(batch_size)
  positions = shard_positions(batch_size, shard)
  make = _EvaluationBatches(examples, batch_size, positions)
  num_batches = -(-len(examples.labels) // batch_size)
  return _iterate(make, examples.images, 0, num_batches)


@dataclasses.dataclass(frozen=True)
class _TrainingBatches:
  """`train_batches` by the number of the step."""

  examples: registry.Examples
  batch_size: int
  seed: int
  positions: np.ndarray

  def __call__(self, step: int) -> Batch:
    images, labels, domains = self.examples
    epoch, offset = divmod(step, len(labels) // self.batch_size)
    order = permutation(len(labels), self.seed, epoch)
    rows = order[offset * self.batch_size + self.positions]
    batch = {
      'position': self.positions.copy(),
      'example': rows.astype(np.int32),
    }
    if isinstance(images, np.ndarray):
      batch |= {'image': images[rows], 'label': labels[rows]}
      return batch if domains is None else batch | {'domain': domains[rows]}
    # The bytes of the name keep this stream apart from others of the seed.
    keys = np.array(
      [[self.seed, step, position, *b'crop'] for position in self.positions]
    )
    batch |= streams.training_images(images, rows, keys)
    used = batch.pop('row')
    batch |= {'label': labels[used]}
    return batch if domains is None else batch | {'domain': domains[used]}


@dataclasses.dataclass(frozen=True)
class _EvaluationBatches:
  """`eval_batches` by the number of the batch."""

  examples: registry.Examples
  batch_size: int
  positions: np.ndarray

  def __call__(self, number: int) -> Batch:
    images, labels, _ = self.examples
    rows = number * self.batch_size + self.positions
    kept = np.minimum(rows, len(labels) - 1)
    if isinstance(images, np.ndarray):
      chosen = images[kept]
    else:
      chosen = streams.evaluation_images(images, kept)
    mask = (rows < len(labels)).astype(np.float32)
    return {'image': chosen, 'label': labels[kept], 'mask': mask}


def _iterate(
  make: streams.Make,
  images: np.ndarray | encoded.EncodedImages,
  start: int,
  count: int | None,
) -> Generator[Batch, None, None]:
  """Yields `count` batches from number `start` on, or without end."""
  if isinstance(images, np.ndarray):
    yield from itertools.islice(map(make, itertools.count(start)), count)
    return
  with contextlib.closing(streams.batches(make, start, images.workers)) as made:
    stream = streams.warn_of_skipped(made, images)
    yield from itertools.islice(stream, count)


def shard_positions(
  batch_size: int, shard: tuple[int, int] | None
) -> np.ndarray:
  """Returns the rows of a batch that are wanted; refuses others."""
  start, stop = (0, batch_size) if shard is None else shard
  if not 0 <= start < stop <= batch_size:
    raise ValueError(
      f'shard is {shard}; it must be (start, stop) with '
      f'0 <= start < stop <= batch_size = {batch_size}'
    )
  return np.arange(start, stop, dtype=np.int32)


@functools.lru_cache(maxsize=2)
def permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the order of the examples in one epoch."""
  # The bytes of the name keep this stream apart from others of the seed.
  rng = np.random.default_rng([seed, epoch, *b'shuffle'])
  return rng.permutation(num_examples)


def check_batch_size(batch_size: int) -> None:
  """Raises ValueError unless a batch has rows."""
  if batch_size < 1:
    raise ValueError(f'batch_size is {batch_size}; it must be at least 1')
