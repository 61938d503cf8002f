"""Every parser of files that others have written, fed with damaged ones.

A parser may take a damaged input, or refuse it by a ValueError of one line. It
never raises anything else, never hangs, and never takes much more memory than
the file is long.
"""

import dataclasses
import functools
import gzip
import pathlib
import signal
import struct
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from sam_jax import datasets
from sam_jax.datasets import decoding, fashion_mnist
from sam_jax.runs import legacy
from tests import image_files, legacy_files
from tests.faults import attempts, mutations

# A parser that takes longer hangs. Far above what the slowest machine needs.
_HANGS = 60  # seconds


@dataclasses.dataclass(frozen=True)
class Parser:
  """What is attacked.

  Attributes:
    name: for people.
    samples: makes valid inputs.
    parse: takes a file that has one of them, or what is left of it.
    file: name of the file.
  """

  name: str
  samples: Callable[[], list[bytes]]
  parse: Callable[[pathlib.Path], object]
  file: str = 'input'


def attack(
  parser: Parser, directory: pathlib.Path, *, count: int, seed: int = 0
) -> Iterator[attempts.Attempt]:
  """Feeds a parser with damaged inputs.

  Args:
    parser: one of `PARSERS`.
    directory: to write the inputs to.
    count: how many.
    seed: of the damages; input i is the same for every count.
  """
  directory.mkdir(parents=True, exist_ok=True)
  path = directory / parser.file
  for i, content in enumerate(_inputs(parser, count, seed)):
    path.write_bytes(content)
    start = time.perf_counter()
    outcome, fault = _parse(parser, path)
    seconds = time.perf_counter() - start
    if fault:
      fault = f'{parser.name}: input {i} of seed {seed}: {fault}'
    yield attempts.Attempt(outcome, fault, seconds)


def _inputs(parser: Parser, count: int, seed: int) -> Iterator[bytes]:
  """Yields damaged inputs."""
  samples = parser.samples()
  for i in range(count):
    rng = np.random.default_rng([seed, i])
    yield mutations.damaged(samples[i % len(samples)], rng)


def _parse(parser: Parser, path: pathlib.Path) -> tuple[str, str]:
  """Returns what came of an input, and what was wrong with that."""
  try:
    with _alarm(), warnings.catch_warnings():
      warnings.simplefilter('error')
      parser.parse(path)
  except ValueError as error:
    text = str(error)
    if '\n' in text:
      return 'refused', f'several lines: {text!r}'
    return 'refused', '' if len(text) > 10 else f'no message: {error!r}'
  except Exception as error:
    return 'raised', f'{type(error).__name__}: {str(error)[:200]!r}'
  return 'read', ''


class _alarm:  # noqa: N801  (used as a function)
  """Raises TimeoutError in what hangs."""

  def __enter__(self):
    self._old = signal.signal(signal.SIGALRM, self._ring)
    signal.alarm(_HANGS)

  def __exit__(self, *error):
    signal.alarm(0)
    signal.signal(signal.SIGALRM, self._old)

  def _ring(self, *args):
    raise TimeoutError(f'no answer after {_HANGS} seconds')


def _idx(num_dimensions, shape):
  content = np.random.default_rng(0).integers(0, 10, shape, np.uint8)
  header = struct.pack(f'>4B{num_dimensions}I', 0, 0, 8, num_dimensions, *shape)
  return [header + content.tobytes()]


def _zipped_idx():
  return [gzip.compress(x, mtime=0) for x in _idx(3, (20, 28, 28))]


def _cifar():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 10, (3, 1), np.uint8)
  images = rng.integers(0, 256, (3, 3072), np.uint8)
  return [np.concatenate([labels, images], axis=1).tobytes()]


def _read_cifar(path):
  """Reads a set of which one file is damaged."""
  for name in [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']:
    other = path.with_name(f'{name}.bin')
    if not other.exists():
      other.write_bytes(_cifar()[0])
  return datasets.load_source('cifar10', directory=str(path.parent))


def _legacy():
  made = legacy_files.variables(0)
  return [legacy_files.pack(f(made)) for f in legacy_files.LAYOUTS.values()]


def _images():
  picture = image_files.pixels(0)
  kinds = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM', 'JPEG2000')
  made = [image_files.encode(picture, kind) for kind in kinds]
  grey = picture[..., 0]
  made += [
    image_files.encode(picture, progressive=True),
    image_files.encode(grey),
    image_files.encode(grey.astype(np.uint16) * 257, 'PNG'),
  ]
  return made


def _decode(path):
  content = path.read_bytes()
  rng = np.random.default_rng(0)
  decoding.random_crop(content, 16, rng)
  decoding.center_crop(content, 16)


PARSERS = {
  parser.name: parser
  for parser in (
    Parser(
      'idx_images',
      functools.partial(_idx, 3, (20, 28, 28)),
      lambda path: fashion_mnist.read_idx(path, 3),
    ),
    Parser(
      'idx_labels',
      functools.partial(_idx, 1, (20,)),
      lambda path: fashion_mnist.read_idx(path, 1),
    ),
    Parser(
      'idx_zipped',
      _zipped_idx,
      lambda path: fashion_mnist.read_idx(path, 3),
      'input.gz',
    ),
    Parser('cifar', _cifar, _read_cifar, 'data_batch_3.bin'),
    Parser('official_checkpoint', _legacy, legacy.read),
    Parser('image', _images, _decode),
  )
}
