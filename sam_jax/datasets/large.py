"""ImageNet and the data sets of the paper's fine-tuning, decoded on the fly.

Those that TensorFlow Datasets has are read as it prepared them, in array_record
files and without TensorFlow; the others from folders (`image_folder`).
"""

import dataclasses
import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm

from sam_jax.datasets import encoded, image_folder, registry, tfds_arrays

_VALIDATION_SHARE = 0.1
_DIGEST_SIZE = hashlib.sha256().digest_size  # ends a file of labels


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of a data set.

  Attributes:
    num_classes: of its labels.
    train: number of training examples of each of the splits that make up the
      training set, by name; of folders, of `train`.
    test: likewise of the test set.
    home: where it comes from.
    is_folder: whether it is read from folders.
  """

  num_classes: int
  train: dict[str, int]
  test: dict[str, int]
  home: str
  is_folder: bool = False


# Test sets are those of the literature: of ImageNet and Food-101 TensorFlow
# Datasets calls them 'validation'. Of the Flowers one trains on train and
# validation, as the works do that the paper compares with.
BY_NAME = {
  'imagenet2012': Facts(
    1000,
    {'train': 1_281_167},
    {'validation': 50_000},
    'https://image-net.org',
  ),
  'oxford_flowers102': Facts(
    102,
    {'train': 1_020, 'validation': 1_020},
    {'test': 6_149},
    'https://www.robots.ox.ac.uk/~vgg/data/flowers/102/',
  ),
  'oxford_iiit_pet': Facts(
    37,
    {'train': 3_680},
    {'test': 3_669},
    'https://www.robots.ox.ac.uk/~vgg/data/pets/',
  ),
  'cars196': Facts(
    196,
    {'train': 8_144},
    {'test': 8_041},
    'https://ai.stanford.edu/~jkrause/cars/car_dataset.html',
  ),
  'food101': Facts(
    101,
    {'train': 75_750},
    {'validation': 25_250},
    'https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/',
  ),
  'fgvc_aircraft': Facts(
    100,
    {'train': 6_667},
    {'test': 3_333},
    'https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/',
    is_folder=True,
  ),
  'birdsnap': Facts(
    500,
    {'train': 47_386},
    {'test': 2_443},
    'https://thomasberg.org',
    is_folder=True,
  ),
}


def load(
  name: str,
  directory: str | None,
  seed: int,
  *,
  image_size: int = 224,
  workers: int = 0,
) -> registry.Source:
  """Finds the examples of a prepared data set; decodes none.

  Args:
    name: one of `BY_NAME` that is not read from folders.
    directory: of TensorFlow Datasets; None for its default.
    seed: unused: the splits are official, and the files' order is random.
    image_size: height and width in pixels of what the images are decoded to.
    workers: processes that decode; 0 uses threads of this one.

  Raises:
    FileNotFoundError: not prepared; says how to.
    ValueError: a record or a label is damaged.
  """
  del seed
  facts = BY_NAME[name]
  (train, classes), (test, _) = (
    _examples(name, list(splits), directory, image_size, workers)
    for splits in (facts.train, facts.test)
  )
  return registry.Source(
    train=train,
    test=test,
    classes=classes,
    num_classes=facts.num_classes,
    mean=image_folder.MEAN,
    std=image_folder.STD,
    num_validation=int(_VALIDATION_SHARE * len(train.labels)),
  )


def load_folder(
  name: str,
  directory: str | None,
  seed: int,
  *,
  image_size: int = 224,
  workers: int = 0,
) -> registry.Source:
  """Finds the examples of a data set that TensorFlow Datasets does not have.

  Args:
    name: one of `BY_NAME` that is read from folders.
    directory: with train/CLASS/ and test/CLASS/, see `image_folder.load`.
    seed: of what 'validation' holds out.
    image_size: see `load`.
    workers: see `load`.

  Raises:
    ValueError: no directory, or another number of classes in it.
    FileNotFoundError: a folder is missing.
  """
  facts = BY_NAME[name]
  if directory is None:
    raise ValueError(
      f'data.name={name!r} needs data.directory: tensorflow-datasets does not '
      f'have it; sort the images of {facts.home} into train/CLASS/ and '
      'test/CLASS/ ("python -m sam_jax.prepare_data '
      f'{name}" says more)'
    )
  source = image_folder.load(
    directory, seed, image_size=image_size, workers=workers
  )
  if source.num_classes != facts.num_classes:
    raise ValueError(
      f'{directory} has {source.num_classes} classes; {name} has '
      f'{facts.num_classes}'
    )
  return source


for _name, _facts in BY_NAME.items():
  registry.register(_name)(
    functools.partial(load_folder if _facts.is_folder else load, _name)
  )


def _examples(
  name: str,
  splits: Sequence[str],
  directory: str | None,
  image_size: int,
  workers: int,
) -> tuple[registry.Examples, tuple[str, ...] | None]:
  """Returns the examples of some splits in turn, and the names of classes."""
  import tensorflow_datasets as tfds

  place, sources, classes = tfds_arrays.open_splits(
    name,
    splits,
    directory,
    decoders={'image': tfds.decode.SkipDecoding()},
    alternative=(
      '; synthetic images of many sizes are there without: '
      'data.name=fake_imagenet'
    ),
  )
  labels = [
    _labels(source, place, split)
    for source, split in zip(sources, splits, strict=True)
  ]
  storage = encoded.Records(tuple(sources), name)
  rows = np.arange(len(storage))
  images = encoded.EncodedImages(storage, rows, image_size, workers)
  return registry.Examples(images, np.concatenate(labels)), classes


def _labels(
  source: Sequence[Any], directory: pathlib.Path, split: str
) -> np.ndarray:
  """Returns all labels of a split, int32; kept in a file once they are read.

  To get at them every record has to be read, images and all: 56 us each, and
  ImageNet's 140 GB from the disk.
  """
  places = _label_files(directory, split)
  for path in places:
    labels = _read_labels(path)
    if labels is not None and len(labels) == len(source):
      return labels
  progress = tqdm.tqdm(
    source, desc=f'labels of {directory.parent.name}, {split}', disable=None
  )
  with tfds_arrays.named_if_damaged(f'{directory}, split {split!r}'):
    labels = np.array([example['label'] for example in progress], np.int32)
  any(_is_saved(path, labels) for path in places)  # up to the first that is
  return labels


def _read_labels(path: pathlib.Path) -> np.ndarray | None:
  """Returns the labels of a file, None if there is none or it is damaged."""
  try:
    content = path.read_bytes()
  except OSError:
    return None
  body, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
  if hashlib.sha256(body).digest() != digest:
    return None
  return np.load(io.BytesIO(body))


def _label_files(directory: pathlib.Path, split: str) -> list[pathlib.Path]:
  """Returns where labels are kept: beside the data, or in the user's cache."""
  name = f'sam_jax_labels-{split}.npy'
  # A data set that was prepared anew is another one.
  age = (directory / 'dataset_info.json').stat().st_mtime_ns
  key = hashlib.sha256(f'{directory.resolve()} {age}'.encode()).hexdigest()
  cache = pathlib.Path(
    os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  )
  return [directory / name, cache / 'sam_jax' / 'labels' / key[:16] / name]


def _is_saved(path: pathlib.Path, labels: np.ndarray) -> bool:
  """Saves labels; returns whether that was possible."""
  partial = path.with_suffix(f'.{os.getpid()}.tmp')
  stream = io.BytesIO()
  np.save(stream, labels)
  body = stream.getvalue()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(body + hashlib.sha256(body).digest())
    partial.rename(path)
  except OSError:
    return False
  return True
