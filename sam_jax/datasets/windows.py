"""Windows of a text: batches of tokens, a function of the seed and the step.

A window is T tokens and the one after each of them. In an evaluation the
windows follow each other from the first token on, so that every token but the
first is predicted once; the last window may be shorter, and is filled up. An
epoch of training has as many windows, all of them whole. They are moved by a
random number of tokens, so that a token is not always predicted from the same
ones, and come in random order.
"""

import dataclasses
import itertools
from collections.abc import Generator

import numpy as np

from sam_jax.datasets import batches as batches_lib, fingerprints

Batch = batches_lib.Batch


@dataclasses.dataclass(frozen=True)
class Windows:
  """The windows of one split of a text.

  Attributes:
    tokens: ids [n], unsigned integers, perhaps of a memory map; n > 1.
    context_length: T, tokens of a window that are predicted.
    bytes_per_token: bytes of text for each token that is predicted, the mean
      over the split; None if it is not known.
    rows: int64, numbers of the windows in the split; None is all.
  """

  tokens: np.ndarray
  context_length: int
  bytes_per_token: float | None = None
  rows: np.ndarray | None = None

  def __len__(self) -> int:
    """The number of windows."""
    return self._total if self.rows is None else len(self.rows)

  def select(self, key: slice | np.ndarray) -> 'Windows':
    """Returns the windows of a slice or of an array of indices."""
    return dataclasses.replace(self, rows=self.numbers()[key])

  def whole(self) -> 'Windows':
    """Returns the windows without one that is not whole."""
    size = self.context_length
    return self.select(self.numbers() < (len(self.tokens) - 1) // size)

  def numbers(self, index: np.ndarray | None = None) -> np.ndarray:
    """Returns the number in the split of each window, or of some of them."""
    if index is None:
      return np.arange(self._total) if self.rows is None else self.rows
    return index if self.rows is None else self.rows[index]

  @property
  def fingerprint(self) -> fingerprints.Fingerprint:
    """What tells the split from others."""
    # Of more than can be hashed whole, windows are taken and not tokens.
    count = len(self.tokens) // self.context_length
    end = count * self.context_length
    parts = (self.tokens[:end].reshape(count, -1), self.tokens[end:])
    return {
      'count': self._total,
      'labels': None,
      'names': None,
      'contents': ' '.join(map(fingerprints.of_array, parts)),
    }

  @property
  def _total(self) -> int:
    """Windows of the whole split, an incomplete one included."""
    return -(-(len(self.tokens) - 1) // self.context_length)

  def at(self, starts: np.ndarray) -> Batch:
    """Returns the windows that begin at some tokens of the split.

    Args:
      starts: int [rows], in [0, n - 1).

    Returns:
      `tokens` int32 [rows, T + 1]; `length` int32 [rows], how many of them are
      predicted, T but where the split ends: there its last token is repeated;
      `bytes_per_token` float32 [rows], if it is known.
    """
    last = len(self.tokens) - 1
    places = starts[:, None] + np.arange(self.context_length + 1)
    batch = {
      'tokens': np.asarray(self.tokens[np.minimum(places, last)], np.int32),
      'length': np.minimum(self.context_length, last - starts, dtype=np.int32),
    }
    if self.bytes_per_token is not None:
      mean = np.full(len(starts), self.bytes_per_token, np.float32)
      batch['bytes_per_token'] = mean
    return batch


def train_batches(
  windows: Windows,
  batch_size: int,
  *,
  seed: int,
  start_step: int = 0,
  shard: tuple[int, int] | None = None,
) -> Generator[Batch, None, None]:
  """Yields shuffled training batches without end.

  The batch of step t is a function of (seed, t) alone, on any number of
  processes and devices. In an epoch every token is predicted once, but for
  at most T at either end of the text: some of these may be predicted twice, or
  left out at the end.

  Args:
    windows: of the training split, of more than T tokens.
    batch_size: windows per step over all processes, at most as many as there
      are.
    seed: of the order and of where the windows begin.
    start_step: the step of the first batch.
    shard: (start, stop), the rows of the global batch that this process
      wants; None for all.

  Returns:
    A generator of dicts: see `Windows.at`, all whole, and `position` int32
    [rows], the row in the global batch.

  Raises:
    ValueError: batch_size is not in [1, windows], a negative start_step, or a
      shard that is not within the batch.
  """
  per_epoch = batches_lib.steps_per_epoch(len(windows), batch_size)
  if start_step < 0:
    raise ValueError(f'start_step is {start_step}; it must be at least 0')
  positions = batches_lib.shard_positions(batch_size, shard)

  def make(step: int) -> Batch:
    epoch, offset = divmod(step, per_epoch)
    order = batches_lib.permutation(len(windows), seed, epoch)
    numbers = windows.numbers(order[offset * batch_size + positions])
    starts = _moved(windows, numbers, seed, epoch)
    return {**windows.at(starts), 'position': positions.copy()}

  return (make(step) for step in itertools.count(start_step))


def eval_batches(
  windows: Windows,
  batch_size: int,
  *,
  shard: tuple[int, int] | None = None,
) -> Generator[Batch, None, None]:
  """Yields every window once, in order; the last batch is filled up.

  Args:
    windows: of a split.
    batch_size: rows of every batch over all processes; may exceed the number
      of windows.
    shard: (start, stop), the rows of each batch that this process wants; None
      for all.

  Returns:
    A generator of dicts: see `Windows.at`; `position` int32 [rows], the row in
    the batch; `mask` float32 [rows], 1 for a window and 0 for a row that only
    fills up.

  Raises:
    ValueError: batch_size < 1, or a shard that is not within the batch.
  """
  batches_lib.check_batch_size(batch_size)
  positions = batches_lib.shard_positions(batch_size, shard)
  count = len(windows)

  def make(number: int) -> Batch:
    rows = number * batch_size + positions
    numbers = windows.numbers(np.minimum(rows, count - 1))
    batch = windows.at(numbers * windows.context_length)
    mask = (rows < count).astype(np.float32)
    return {**batch, 'position': positions.copy(), 'mask': mask}

  return (make(number) for number in range(-(-count // batch_size)))


def _moved(
  windows: Windows, numbers: np.ndarray, seed: int, epoch: int
) -> np.ndarray:
  """Returns where windows begin in an epoch: moved to the left, all whole."""
  size = windows.context_length
  # The bytes of the name keep this stream apart from others of the seed.
  offset = np.random.default_rng([seed, epoch, *b'windows']).integers(size)
  largest = len(windows.tokens) - 1 - size
  return np.clip(numbers * size - offset, 0, largest)
