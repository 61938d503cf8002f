"""Batches of encoded images: Grain decodes them ahead of time, in parallel.

Grain is asked for piece after piece of batch after batch by number, and what a
piece is follows from its number alone. So the position of the stream is the
step, its batches are the same with any number of threads and processes, and a
stream that starts in the middle costs nothing. Pieces, as batches of thousands
of images would be too many to hold one for each thread.
"""

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any, Protocol

import numpy as np
from absl import flags

from sam_jax.datasets import encoded

Batch = dict[str, np.ndarray]

# Images that are decoded in turn.
PIECE = 64

_MAX_THREADS = 16
# Batches that are held ahead of time, if that is work for every thread.
_AHEAD = 2
# Pieces that a worker process is ahead, at least.
_BUFFER = 2
# Unreadable images in a row after which something else must be wrong.
_MAX_SKIPPED = 20
_SKIPPED = 'skipped'
# How Grain says that a worker is gone.
_DIED = re.compile(r'Worker process was terminated .* exit code (-?\d+)')
# What Python says of the memory that such a worker shared, and frees.
_LEAKS = 'ignore:resource_tracker:UserWarning'


class Make(Protocol):
  """Makes a batch, or some rows of it; a dataclass."""

  @property
  def positions(self) -> np.ndarray:
    """The rows of the batch that are made, int [rows]."""

  def __call__(self, number: int, /) -> Batch:
    """Returns these rows of batch `number`."""


def batches(
  make: Make, start: int, workers: int
) -> Generator[Batch, None, None]:
  """Yields `make(start)`, `make(start + 1)`, ... made ahead of time, no end.

  About two batches are held, or a piece for each thread if that is more.

  Args:
    make: a batch by its number, in pieces by replacing `positions`; with
      workers, it is copied to processes.
    start: the first number.
    workers: processes; 0 uses threads of this process.

  Raises:
    ChildProcessError: a worker was killed.
  """
  import grain

  pieces = _split(make)
  count = len(pieces)
  num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
  numbers = grain.MapDataset.range(start * count, sys.maxsize)
  stream = numbers.map(functools.partial(_make_piece, pieces)).to_iter_dataset(
    grain.ReadOptions(
      num_threads=1 if workers else num_threads,
      prefetch_buffer_size=1 if workers else max(num_threads, _AHEAD * count),
    )
  )
  if workers:
    _let_grain_read_its_flags()
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=workers,
        per_worker_buffer_size=max(_BUFFER, -(-_AHEAD * count // workers)),
      ),
      _end_with_parent,
    )
  iterator = iter(stream)
  try:
    with _starting_workers() if workers else contextlib.nullcontext():
      first = _next(iterator, count)
    yield first
    while True:
      yield _next(iterator, count)
  finally:
    iterator.close()


def _next(iterator: Iterator[Batch], count: int) -> Batch:
  """Returns the next batch, of that many pieces."""
  try:
    return _join(itertools.islice(iterator, count))
  except RuntimeError as error:
    if not (died := _DIED.search(str(error))):
      raise
    code = int(died[1])
    how = f'by {signal.Signals(-code).name}' if code < 0 else f'with {code}'
    memory = ' (out of memory?)' if code == -signal.SIGKILL else ''
    raise ChildProcessError(
      f'a process that decodes images (data.workers) was ended {how}{memory}'
    ) from error


@contextlib.contextmanager
def _starting_workers() -> Iterator[None]:
  """Within `with`, processes are started that leave Ctrl-C to this one."""
  with _environment('PYTHONWARNINGS', _LEAKS):
    resource_tracker.ensure_running()
  # Children inherit what is blocked. This process still gets its signals: they
  # find another thread.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
  """Sets a variable of the processes that are started within `with`."""
  before = os.environ.get(name)
  os.environ[name] = ','.join(filter(None, [before, value]))
  try:
    yield
  finally:
    os.environ.pop(name)
    if before is not None:
      os.environ[name] = before


def _end_with_parent(index: int, count: int) -> None:
  """Has a worker process end when the process that started it is gone."""
  del index, count
  parent = multiprocessing.parent_process()

  def wait() -> None:
    if parent is not None:
      parent.join()
      os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def _split(make: Any) -> list[Make]:
  """Returns what makes the pieces of a batch, of about the same size."""
  count = -(-len(make.positions) // PIECE)
  return [
    dataclasses.replace(make, positions=positions)
    for positions in np.array_split(make.positions, count)
  ]


def _make_piece(pieces: Sequence[Make], number: int) -> Batch:
  """Returns piece `number`, counted over all batches."""
  batch, piece = divmod(number, len(pieces))
  return pieces[piece](batch)


def _join(pieces: Iterable[Batch]) -> Batch:
  """Returns the batch of these pieces."""
  first, *rest = pieces
  if not rest:
    return first
  return {
    name: np.concatenate([part[name] for part in (first, *rest)])
    for name in first
  }


def _let_grain_read_its_flags() -> None:
  """Grain's processes have flags, which only a command line parses."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


def training_images(
  images: encoded.EncodedImages, rows: np.ndarray, keys: np.ndarray
) -> Batch:
  """Decodes random crops.

  An image that cannot be decoded is replaced by the next one that can, in the
  order of `images`, which is the same for every process.

  Args:
    images: all that are trained on.
    rows: int [n], which of them.
    keys: uint32 [n, k], what the crop of each is keyed by.

  Returns:
    `image` uint8 [n, size, size, 3]; `row` int64 [n], whose image it is;
    `skipped` int64 [n], the row that it replaces if it was to be another, or
    -1.

  Raises:
    UndecodableError: twenty images in a row cannot be decoded.
  """
  batch = np.empty((len(rows), *images.shape[1:]), np.uint8)
  used = np.array(rows, np.int64)
  for i, key in enumerate(keys):
    rng = np.random.default_rng(key)
    batch[i], used[i] = _readable(images, int(rows[i]), rng)
  skipped = np.where(used == rows, -1, rows)
  return {'image': batch, 'row': used, _SKIPPED: skipped}


def evaluation_images(
  images: encoded.EncodedImages, rows: np.ndarray
) -> np.ndarray:
  """Decodes the crops of evaluation, uint8 [len(rows), size, size, 3].

  Raises:
    UndecodableError: one of them cannot be; evaluation is exact or not at all.
  """
  # What fills up the last batch is one image many times.
  unique, inverse = np.unique(rows, return_inverse=True)
  decoded = [_evaluation_image(images, int(row)) for row in unique]
  return np.stack(decoded)[inverse]


def warn_of_skipped(
  stream: Iterator[Batch], images: encoded.EncodedImages
) -> Iterator[Batch]:
  """Takes what was skipped out of the batches, and warns once of each image."""
  seen: set[int] = set()
  for batch in stream:
    skipped = batch.pop(_SKIPPED, np.empty(0))
    new = set(skipped[skipped >= 0].tolist()) - seen
    seen |= new
    if new:
      names = ', '.join(images.name(row) for row in sorted(new)[:3])
      warnings.warn(
        f'{len(seen)} of {len(images)} training images cannot be decoded and '
        f'are skipped (the next one is taken), now {names}',
        stacklevel=1,
      )
    yield batch


def _readable(
  images: encoded.EncodedImages, row: int, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
  """Returns a crop of the first image from `row` on that can be decoded."""
  # Imported here because only these data sets need its libraries.
  from sam_jax.datasets import decoding

  for offset in range(_MAX_SKIPPED):
    candidate = (row + offset) % len(images)
    try:
      data = images.read(candidate)
      return decoding.random_crop(data, images.size, rng), candidate
    except (encoded.UndecodableError, OSError) as error:
      last: Any = error
  raise encoded.UndecodableError(
    f'{_MAX_SKIPPED} training images in a row cannot be decoded, from '
    f'{images.name(row)} on ({last}); are they images?'
  )


def _evaluation_image(images: encoded.EncodedImages, row: int) -> np.ndarray:
  """Returns the crop of one image."""
  from sam_jax.datasets import decoding

  try:
    return decoding.center_crop(images.read(row), images.size)
  except (encoded.UndecodableError, OSError) as error:
    raise encoded.UndecodableError(
      f'{images.name(row)} cannot be decoded ({error}) and evaluation needs '
      'every image; repair or remove it'
    ) from error
