"""CIFAR-10 and CIFAR-100, from the authors' files or TensorFlow Datasets."""

import pathlib
from collections.abc import Sequence

import numpy as np

from sam_jax.datasets import registry, tfds_arrays

_IMAGE_SHAPE = (32, 32, 3)
_IMAGE_SIZE = 32 * 32 * 3

_CLASSES = tuple(
  'airplane automobile bird cat deer dog frog horse ship truck'.split()
)
# Bird to airplane, cat to dog and back, deer to horse, truck to automobile:
# Patrini et al. 2017.
CONFUSIONS_10 = {2: 0, 3: 5, 4: 7, 5: 3, 9: 1}
# The superclasses of CIFAR-100; its classes are numbered by the alphabet.
_SUPERCLASSES = (
  'beaver dolphin otter seal whale',
  'aquarium_fish flatfish ray shark trout',
  'orchid poppy rose sunflower tulip',
  'bottle bowl can cup plate',
  'apple mushroom orange pear sweet_pepper',
  'clock keyboard lamp telephone television',
  'bed chair couch table wardrobe',
  'bee beetle butterfly caterpillar cockroach',
  'bear leopard lion tiger wolf',
  'bridge castle house road skyscraper',
  'cloud forest mountain plain sea',
  'camel cattle chimpanzee elephant kangaroo',
  'fox porcupine possum raccoon skunk',
  'crab lobster snail spider worm',
  'baby boy girl man woman',
  'crocodile dinosaur lizard snake turtle',
  'hamster mouse rabbit shrew squirrel',
  'maple_tree oak_tree palm_tree pine_tree willow_tree',
  'bicycle bus motorcycle pickup_truck train',
  'lawn_mower rocket streetcar tank tractor',
)


_FINE_CLASSES = tuple(sorted(' '.join(_SUPERCLASSES).split()))


def next_in_superclass() -> dict[int, int]:
  """Returns the class for which each of CIFAR-100 is mistaken.

  The next one of its superclass, round and round (Patrini et al. 2017).
  """
  number = {name: i for i, name in enumerate(_FINE_CLASSES)}
  return {
    number[name]: number[names[(i + 1) % len(names)]]
    for names in map(str.split, _SUPERCLASSES)
    for i, name in enumerate(names)
  }


@registry.register('cifar10')
def load_cifar10(directory: str | None, seed: int) -> registry.Source:
  """Loads the 50,000 training and 10,000 test images of 10 classes.

  The validation split is the last tenth of the training examples *in the
  order of the source*: TensorFlow Datasets, which the official release reads,
  shuffles when it prepares, so its last 5,000 are other images than those of
  the authors' files.

  Args:
    directory: `cifar-10-batches-bin` as unpacked from the authors' "binary
      version", or its parent, or a TensorFlow Datasets directory. None is the
      default directory of TensorFlow Datasets.
    seed: unused, the split is official.

  Raises:
    FileNotFoundError: there is neither; says how to get them.
    ValueError: a damaged file; says which, the bytes got and expected.

  Source: constants from the official
  sam_jax/datasets/dataset_source.py (`CifarDatasetSource`).
  """
  del seed
  train, test = _read(
    'cifar10',
    directory,
    folder='cifar-10-batches-bin',
    train_files=[f'data_batch_{i}.bin' for i in range(1, 6)],
    test_file='test_batch.bin',
    num_label_bytes=1,
    num_classes=10,
  )
  return registry.Source(
    train=train,
    test=test,
    num_classes=10,
    mean=(0.49139968, 0.48215841, 0.44653091),
    std=(0.24703223, 0.24348513, 0.26158784),
    num_validation=len(train.labels) // 10,
    confusions=CONFUSIONS_10,
    classes=_CLASSES,
  )


@registry.register('cifar100')
def load_cifar100(directory: str | None, seed: int) -> registry.Source:
  """Loads the 50,000 training and 10,000 test images of 100 fine classes.

  As `load_cifar10`, with the authors' folder `cifar-100-binary`.
  """
  del seed
  train, test = _read(
    'cifar100',
    directory,
    folder='cifar-100-binary',
    train_files=['train.bin'],
    test_file='test.bin',
    num_label_bytes=2,  # coarse, fine
    num_classes=100,
  )
  return registry.Source(
    train=train,
    test=test,
    num_classes=100,
    mean=(0.50707516, 0.48654887, 0.44091784),
    std=(0.26733429, 0.25643846, 0.27615047),
    num_validation=len(train.labels) // 10,
    confusions=next_in_superclass(),
    classes=_FINE_CLASSES,
  )


def _read(
  name: str,
  directory: str | None,
  *,
  folder: str,
  train_files: Sequence[str],
  test_file: str,
  num_label_bytes: int,
  num_classes: int,
) -> list[registry.Examples]:
  """Returns training and test examples from whichever source there is."""
  place = _find(directory, folder, [*train_files, test_file])
  if place is None:
    return tfds_arrays.load(
      name,
      ('train', 'test'),
      directory,
      alternative=(
        f', or give the directory of {folder}, the binary version from '
        f'www.cs.toronto.edu/~kriz/cifar.html (directory is {directory!r}); '
        f'synthetic images of the same shape are there without: '
        f'data.name=fake_{name}'
      ),
    )
  return [
    _read_files(place, files, num_label_bytes, num_classes)
    for files in (train_files, [test_file])
  ]


def _find(
  directory: str | None, folder: str, files: Sequence[str]
) -> pathlib.Path | None:
  """Returns the folder that holds any of the files, or None."""
  if directory is None:
    return None
  places = (pathlib.Path(directory), pathlib.Path(directory) / folder)
  return next(
    (p for p in places if any((p / f).is_file() for f in files)), None
  )


def _read_files(
  directory: pathlib.Path,
  files: Sequence[str],
  num_label_bytes: int,
  num_classes: int,
) -> registry.Examples:
  """Reads records of labels (the last counts) and a planar image."""
  records = np.concatenate(
    [_read_records(directory / f, num_label_bytes, num_classes) for f in files]
  )
  planes = records[:, num_label_bytes:].reshape(-1, *_IMAGE_SHAPE[::-1])
  return registry.Examples(
    images=np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
    labels=records[:, num_label_bytes - 1].astype(np.int32),
  )


def _read_records(
  path: pathlib.Path, num_label_bytes: int, num_classes: int
) -> np.ndarray:
  """Returns uint8 [records, size] of a file."""
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} is missing beside the others; unpack the archive again'
    )
  data = np.fromfile(path, np.uint8)
  size = num_label_bytes + _IMAGE_SIZE
  if not data.size or data.size % size:
    raise ValueError(
      f'{path} is damaged: got {data.size} bytes, expected a multiple of the '
      f'{size} bytes of a record; download it again'
    )
  records = data.reshape(-1, size)
  labels = records[:, num_label_bytes - 1]
  if (wrong := labels >= num_classes).any():
    row = int(np.argmax(wrong))
    raise ValueError(
      f'{path} is damaged: record {row} has the label {labels[row]}, expected '
      f'less than {num_classes}; download it again'
    )
  return records
