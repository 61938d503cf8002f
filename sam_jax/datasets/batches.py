"""The stream of batches: a function of the seed and the step, no state.

Everything is indexing of arrays in memory: a CIFAR batch of 128 takes about
100 microseconds, so that no second process or prefetching is called for.
"""

from collections.abc import Iterator

import numpy as np

from sam_jax.datasets import registry

Batch = dict[str, np.ndarray]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Returns the number of whole batches; the remainder is dropped.

  Raises:
    ValueError: batch_size < 1, or there is not a single whole batch.

  Example:
    >>> steps_per_epoch(1000, 128)
    7
  """
  _check_batch_size(batch_size)
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
) -> Iterator[Batch]:
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
    An iterator over dicts: `image` uint8 [rows, height, width, channels],
    `label` int32 [rows], `position` int32 [rows], the row in the *global*
    batch, which random augmentation is keyed by.

  Raises:
    ValueError: batch_size not in [1, n], a negative start_step, or a shard
      that is not within the batch.

  Differs from the official release: there the shuffling has no seed, and a
  resumed run starts a new order.
  """
  steps_per_epoch(len(examples.labels), batch_size)
  start, stop = (0, batch_size) if shard is None else shard
  if not 0 <= start < stop <= batch_size:
    raise ValueError(
      f'shard is {shard}; it must be (start, stop) with '
      f'0 <= start < stop <= batch_size = {batch_size}'
    )
  if start_step < 0:
    raise ValueError(f'start_step is {start_step}; it must be at least 0')
  return _stream(examples, batch_size, seed, start_step, (start, stop))


def eval_batches(
  examples: registry.Examples, batch_size: int
) -> Iterator[Batch]:
  """Yields every example once, in order; the last batch is filled up.

  Args:
    examples: n examples.
    batch_size: rows of every batch; may exceed n.

  Returns:
    An iterator over dicts: `image` uint8 [batch_size, height, width,
    channels], `label` int32 [batch_size], `mask` float32 [batch_size], 1 for
    an example and 0 for a row that only fills up (the last example again).

  Raises:
    ValueError: batch_size < 1.

  Differs from the official release: there nothing is padded and an uneven
  last batch fails on several devices.
  """
  _check_batch_size(batch_size)
  return _eval_stream(examples, batch_size)


def _stream(
  examples: registry.Examples,
  batch_size: int,
  seed: int,
  start_step: int,
  shard: tuple[int, int],
) -> Iterator[Batch]:
  """Yields the batches of `train_batches`, whose arguments are checked."""
  num_examples = len(examples.labels)
  num_steps = num_examples // batch_size
  positions = np.arange(*shard, dtype=np.int32)
  epoch, offset = divmod(start_step, num_steps)
  while True:
    order = _permutation(num_examples, seed, epoch)
    for step in range(offset, num_steps):
      rows = order[step * batch_size + positions]
      yield {
        'image': examples.images[rows],
        'label': examples.labels[rows],
        'position': positions.copy(),
      }
    epoch, offset = epoch + 1, 0


def _eval_stream(
  examples: registry.Examples, batch_size: int
) -> Iterator[Batch]:
  """Yields the batches of `eval_batches`, whose arguments are checked."""
  num_examples = len(examples.labels)
  for start in range(0, num_examples, batch_size):
    rows = np.arange(start, start + batch_size)
    kept = np.minimum(rows, num_examples - 1)
    yield {
      'image': examples.images[kept],
      'label': examples.labels[kept],
      'mask': (rows < num_examples).astype(np.float32),
    }


def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the order of the examples in one epoch."""
  # The bytes of the name keep this stream apart from others of the seed.
  rng = np.random.default_rng([seed, epoch, *b'shuffle'])
  return rng.permutation(num_examples)


def _check_batch_size(batch_size: int) -> None:
  """Raises ValueError unless a batch has rows."""
  if batch_size < 1:
    raise ValueError(f'batch_size is {batch_size}; it must be at least 1')
