"""Synthetic images in the shape of CIFAR-10, CIFAR-100 and ImageNet.

With `config.data.name = 'fake_cifar10'` a config of CIFAR-10 runs without a
download: 50,000 training and 10,000 test images of 32 x 32 pixels in 10
classes. `fake_imagenet` has JPEG files of many sizes in 1,000 classes, which
are made when a batch asks for them. What a model reaches on these data says
nothing about the data that they stand in for.

Each class has a coarse pattern of colours. An image shows the pattern of its
class, moved to a random place, under another contrast and light, and mixed with
a pattern of its own that no other image has. A small network learns the classes
in a few hundred steps, and recognises them in images that it has not seen.

An image is a function of the split and of its position there. A smaller
`train_size` has the first images of a larger one.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sam_jax import extras
from sam_jax.datasets import cifar, encoded, registry

PREFIX = 'fake_'  # of the names

# Of images scaled to [0, 1], rounded.
MEAN = (0.5, 0.5, 0.5)
STD = (0.15, 0.15, 0.15)

_GRID = 8  # cells of a pattern along a side
# Largest deviation from grey, of 255 levels: of a class's colour, of the cells
# of its pattern, of those of an image alone, and of the light.
_COLOUR, _CELLS, _OWN, _LIGHT = 40, 50, 50, 10
_BLOCK = 1000  # images that are drawn together, a multiple of all class counts
_CIFAR_SIDE = 32
_CIFAR_TRAIN = 50_000
_IMAGENET_TRAIN, _IMAGENET_TEST = 1_281_167, 50_000
_SIDES = (160, 400)  # least and largest side of an image of ImageNet's kind
_QUALITY = 90  # of a JPEG
_SPLITS = {'train': 0, 'test': 1}


def is_fake(name: str) -> bool:
  """Returns whether the images of a data set are synthetic, by its name."""
  return name.startswith(PREFIX)


def remarks(names: Iterable[str]) -> Iterator[str]:
  """Yields what a reader of results must know of synthetic images.

  Args:
    names: of the data sets of the results.
  """
  for name in filter(is_fake, dict.fromkeys(names)):
    yield (
      f'{name} has synthetic images: these numbers say nothing about '
      f'{name.removeprefix(PREFIX)}'
    )


@registry.register('fake_cifar10')
def load_cifar10(
  directory: str | None, seed: int, *, train_size: int = _CIFAR_TRAIN
) -> registry.Source:
  """Makes images of 10 classes in the shape of CIFAR-10.

  Args:
    directory: must be None, there are no files.
    seed: unused, the splits are fixed.
    train_size: training examples. There is a test example for every five of
      them.

  Raises:
    ValueError: a directory is given, or train_size is out of range.
  """
  del seed
  return _cifar('fake_cifar10', 10, directory, train_size)


@registry.register('fake_cifar100')
def load_cifar100(
  directory: str | None, seed: int, *, train_size: int = _CIFAR_TRAIN
) -> registry.Source:
  """Makes images of 100 classes in the shape of CIFAR-100; see above."""
  del seed
  return _cifar('fake_cifar100', 100, directory, train_size)


@registry.register('fake_imagenet')
def load_imagenet(
  directory: str | None,
  seed: int,
  *,
  train_size: int = _IMAGENET_TRAIN,
  image_size: int = 224,
  workers: int = 0,
) -> registry.Source:
  """Finds images of 1,000 classes in the shape of ImageNet; makes none.

  Args:
    directory: must be None, there are no files.
    seed: unused, the splits are fixed.
    train_size: training examples. There is a test example for every five of
      them, and 50,000 at most.
    image_size: height and width in pixels of what the images are decoded to.
    workers: processes that make and decode images; 0 uses threads of this one.

  Raises:
    ValueError: see `load_cifar10`.
  """
  del seed
  _check('fake_imagenet', directory, train_size, _IMAGENET_TRAIN)

  def examples(split: str, count: int) -> registry.Examples:
    labels = _labels(split, count, 1000)
    files = Jpegs(split, labels, 1000)
    rows = np.arange(count)
    images = encoded.EncodedImages(files, rows, image_size, workers)
    return registry.Examples(images, labels)

  test_size = min(_test_size(train_size), _IMAGENET_TEST)
  return _source(
    examples('train', train_size), examples('test', test_size), 1000
  )


@dataclasses.dataclass(frozen=True)
class Jpegs:
  """JPEG files that are made whenever one is read.

  Attributes:
    split: 'train' or 'test'.
    labels: int32 [n].
    num_classes: labels lie in [0, num_classes).
  """

  split: str
  labels: np.ndarray
  num_classes: int

  def __len__(self) -> int:
    """Returns the number of images."""
    return len(self.labels)

  def read(self, index: int) -> bytes:
    """Returns the content of an image file."""
    # Imported here because only these data sets need it.
    import simplejpeg

    rng = np.random.default_rng([*_key(self.split), index, *b'jpeg'])
    width, height = rng.integers(*_SIDES, 2).tolist()
    labels = self.labels[index : index + 1]
    (pattern,) = _patterns(rng, labels, self.num_classes)
    pixels = _enlarged(pattern, width, height)
    return simplejpeg.encode_jpeg(pixels, quality=_QUALITY, fastdct=False)

  def name(self, index: int) -> str:
    """Returns what a message calls that image."""
    return f'fake_imagenet, {self.split} image {index}'

  def file(self, index: int) -> None:
    """Returns None: the images are in no files."""

  def num_bytes(self, index: int) -> None:
    """Returns None: it is not known unread."""


def _cifar(
  name: str, num_classes: int, directory: str | None, train_size: int
) -> registry.Source:
  """Returns a data set of arrays."""
  _check(name, directory, train_size, _CIFAR_TRAIN)
  train, test = (
    _arrays(split, count, num_classes)
    for split, count in (
      ('train', train_size),
      ('test', _test_size(train_size)),
    )
  )
  # For asymmetric label noise, which has its classes by number.
  original = {10: cifar.CONFUSIONS_10, 100: cifar.next_in_superclass()}
  source = _source(train, test, num_classes)
  return dataclasses.replace(source, confusions=original[num_classes])


def _source(
  train: registry.Examples, test: registry.Examples, num_classes: int
) -> registry.Source:
  """Returns the data set of these examples."""
  return registry.Source(
    train=train,
    test=test,
    num_classes=num_classes,
    mean=MEAN,
    std=STD,
    num_validation=len(train.labels) // 10,
    classes=tuple(f'fake {i}' for i in range(num_classes)),
  )


def _check(
  name: str, directory: str | None, train_size: int, most: int
) -> None:
  """Refuses a directory, and sizes that there are not.

  Raises:
    ValueError: the message says what is allowed.
  """
  if directory is not None:
    raise ValueError(
      f'{name} has no files, its images are synthetic; directory is '
      f'{directory!r}, it must be None'
    )
  if not 10 <= train_size <= most:
    raise ValueError(
      f'train_size is {train_size}; of {name} it must be in [10, {most}]'
    )


def _test_size(train_size: int) -> int:
  """Returns the number of test examples: CIFAR has one for five."""
  return train_size // 5


def _key(split: str) -> tuple[int, ...]:
  """Returns what sets the draws of a split apart from others."""
  return (*b'fake', _SPLITS[split])


def _labels(split: str, count: int, num_classes: int) -> np.ndarray:
  """Returns int32 labels, of which every block has the same number of each."""
  blocks = range(-(-count // _BLOCK))
  labels = [_block_labels(split, block, num_classes) for block in blocks]
  return np.concatenate(labels)[:count]


def _block_labels(split: str, block: int, num_classes: int) -> np.ndarray:
  """Returns the labels of one block."""
  rng = np.random.default_rng([*_key(split), block, *b'labels'])
  return (rng.permutation(_BLOCK) % num_classes).astype(np.int32)


def _arrays(split: str, count: int, num_classes: int) -> registry.Examples:
  """Returns the first images of a split of CIFAR's kind."""
  images = np.empty((count, _CIFAR_SIDE, _CIFAR_SIDE, 3), np.uint8)
  for start in range(0, count, _BLOCK):
    block = start // _BLOCK
    rng = np.random.default_rng([*_key(split), block, *b'images'])
    labels = _block_labels(split, block, num_classes)
    patterns = _patterns(rng, labels, num_classes)
    for image, pattern in zip(images[start:], patterns, strict=False):
      image[:] = _enlarged(pattern, _CIFAR_SIDE, _CIFAR_SIDE)
  return registry.Examples(images, _labels(split, count, num_classes))


def _patterns(
  rng: np.random.Generator, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """Draws coarse images, uint8 [n, _GRID, _GRID, 3].

  Whole numbers are drawn, and products are rounded one by one, so that the
  images, and the fingerprint of the data, are the same on every machine.
  """
  count = len(labels)
  moves = rng.integers(_GRID, size=(2, count, 1))
  rows, columns = (np.arange(_GRID) + moves) % _GRID
  patterns = _class_patterns(num_classes)
  shown = patterns[labels[:, None, None], rows[:, :, None], columns[:, None, :]]
  own = rng.integers(-_OWN, _OWN + 1, (count, _GRID, _GRID, 3))
  contrast = rng.uniform(0.6, 1.4, (count, 1, 1, 1))
  light = rng.integers(-_LIGHT, _LIGHT + 1, (count, 1, 1, 3))
  pixels = 128 + light + np.rint(contrast * (shown + own))
  return np.clip(pixels, 0, 255).astype(np.uint8)


@functools.cache
def _class_patterns(num_classes: int) -> np.ndarray:
  """Returns the pattern of each class, [n, _GRID, _GRID, 3], about 0.

  A class has a colour of its own, about which the cells of its pattern vary.
  """
  rng = np.random.default_rng([*b'fake', num_classes, *b'classes'])
  colour = rng.integers(-_COLOUR, _COLOUR + 1, (num_classes, 1, 1, 3))
  coarse = (num_classes, _GRID // 2, _GRID // 2, 3)
  cells = rng.integers(-_CELLS, _CELLS + 1, coarse)
  return colour + cells.repeat(2, axis=1).repeat(2, axis=2)


def _enlarged(pattern: np.ndarray, width: int, height: int) -> np.ndarray:
  """Returns a coarse image in its size, exact to the bit everywhere."""
  cv2, size = _opencv(), (width, height)
  return cv2.resize(pattern, size, interpolation=cv2.INTER_LINEAR_EXACT)


@functools.cache
def _opencv() -> Any:
  """Returns OpenCV, imported here because only these data sets need it."""
  with extras.required():
    import cv2
  cv2.setNumThreads(0)  # Grain has its own threads and processes
  return cv2
