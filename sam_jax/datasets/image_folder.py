"""Any folder of class folders of images."""

import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from sam_jax.datasets import encoded, registry

# Of ImageNet, for images scaled to [0, 1]; as in the official release.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_SUFFIXES = frozenset(
  ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
)
_TEST_NAMES = ('test',)
_VALIDATION_NAMES = ('val', 'validation', 'valid')
_VALIDATION_SHARE = 0.1


@registry.register('image_folder')
def load(
  directory: str | None,
  seed: int,
  *,
  image_size: int = 224,
  workers: int = 0,
  mean: Sequence[float] = MEAN,
  std: Sequence[float] = STD,
) -> registry.Source:
  """Finds the images of `directory`/train/CLASS/... and of test and val.

  The classes are the folders of `train`, sorted by name. Images may lie deeper;
  files without the suffix of an image, and hidden ones, are left out.

  Args:
    directory: has `train`, and `test` or `val` (or `validation`, `valid`); of
      both, `test` is what split 'test' evaluates on, and `val` what split
      'validation' does. Without `val`, 'validation' holds out a tenth of
      `train`, chosen by the seed.
    seed: of that choice.
    image_size: height and width in pixels of what the images are decoded to.
    workers: processes that decode; 0 uses threads of this one.
    mean: of each channel, for images scaled to [0, 1].
    std: likewise.

  Raises:
    FileNotFoundError: a folder is missing; says which are expected.
    ValueError: a class has no images, or the folders have different classes.
    OSError: a folder cannot be read.
  """
  if directory is None:
    raise ValueError(
      'data.name="image_folder" needs data.directory, with folders train and '
      'test (or val) that have a folder of images for each class'
    )
  root = pathlib.Path(directory)
  train_folder = root / 'train'
  if not train_folder.is_dir():
    raise FileNotFoundError(
      f'{root} has no folder train; put the images into train/CLASS/ and '
      'test/CLASS/ (or val/CLASS/) there'
    )
  classes = _classes(train_folder)
  order = np.random.default_rng([seed, *b'image_folder'])

  def read(folder: pathlib.Path) -> registry.Examples:
    paths, labels = _scan(folder, classes)
    images = encoded.EncodedImages(
      encoded.Files(paths), np.arange(len(paths)), image_size, workers
    )
    return registry.Examples(images, labels)

  def read_first(names: tuple[str, ...]) -> registry.Examples | None:
    folder = _first(root, names)
    return None if folder is None else read(folder)

  train = read(train_folder)
  test, validation = read_first(_TEST_NAMES), read_first(_VALIDATION_NAMES)
  # Files are sorted by class, and what is held out are the last ones.
  train = train.select(order.permutation(len(train.labels)))
  return registry.Source(
    train=train,
    test=validation if test is None else test,
    num_classes=len(classes),
    mean=tuple(mean),
    std=tuple(std),
    num_validation=int(_VALIDATION_SHARE * len(train.labels)),
    validation=validation,
  )


def _first(root: pathlib.Path, names: Sequence[str]) -> pathlib.Path | None:
  """Returns the first of the folders that exists."""
  return next((root / name for name in names if (root / name).is_dir()), None)


def _classes(folder: pathlib.Path) -> list[str]:
  """Returns the names of the class folders, sorted."""
  with os.scandir(folder) as entries:
    names = sorted(
      entry.name
      for entry in entries
      if entry.is_dir() and not entry.name.startswith('.')
    )
  if not names:
    raise ValueError(
      f'{folder} has no folders; it must have one for each class, with its '
      'images'
    )
  return names


def _scan(
  folder: pathlib.Path, classes: Sequence[str]
) -> tuple[list[str], np.ndarray]:
  """Returns the paths of all images of a split, and their labels."""
  if (found := _classes(folder)) != list(classes):
    odd = sorted(set(found) ^ set(classes))
    raise ValueError(
      f'{folder} does not have the classes of {folder.parent / "train"}: '
      f'{odd[0]!r} is in one of them only, {len(odd)} such in all'
    )
  paths: list[str] = []
  counts, ignored = [], 0
  for name in classes:
    files = sorted(_files(folder / name))
    images = [f for f in files if pathlib.Path(f).suffix.lower() in _SUFFIXES]
    if not images:
      raise ValueError(
        f'{folder / name} has no images; add some, or remove the folder, and '
        f'that of the other splits ({", ".join(sorted(_SUFFIXES))} are known)'
      )
    paths += images
    counts.append(len(images))
    ignored += len(files) - len(images)
  if ignored:
    logging.warning('%s: %d files are no images; ignored', folder, ignored)
  return paths, np.repeat(np.arange(len(classes)), counts).astype(np.int32)


def _files(
  folder: pathlib.Path, above: frozenset[pathlib.Path] = frozenset()
) -> Iterator[str]:
  """Yields the paths of all files in a folder, hidden ones left out.

  A link to a folder that it lies in, one of `above`, is not followed.
  """
  real = folder.resolve()
  if real in above:
    return
  above = above | {real, *real.parents}
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.name.startswith('.'):
        continue
      if entry.is_dir():
        yield from _files(pathlib.Path(entry.path), above)
      else:
        yield entry.path
