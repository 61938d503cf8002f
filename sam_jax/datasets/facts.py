"""What is known of each data set without its files.

What it is, how large, where it comes from, and whether it is there.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from sam_jax.datasets import (
  fashion_mnist,
  large,
  registry,
  text,
  texts,
)

BUILT_IN = 'built in'
YOURS = 'yours'
_TFDS = 'tensorflow-datasets'
_VALIDATION = 10  # one training example of so many is held out


class Facts(NamedTuple):
  """What is known of a data set.

  Attributes:
    what: it is.
    home: where it comes from: `BUILT_IN`, `YOURS`, or an address or a package.
    train: number of training examples; None if it is not known.
    test: likewise of the test set.
    num_classes: of its labels.
    shape: of an image; None if images are decoded to a size that is chosen.
    places: paths one of which is there if the data are; a set that
      tensorflow-datasets prepares has another one.
    is_prepared: whether tensorflow-datasets prepares it.
  """

  what: str
  home: str
  train: int | None = None
  test: int | None = None
  num_classes: int | None = None
  shape: tuple[int, ...] | None = None
  places: tuple[pathlib.Path, ...] = ()
  is_prepared: bool = False


_CIFAR = 'https://www.cs.toronto.edu/~kriz/cifar.html'
_FAKE = 'synthetic images in the shape of'
_KNOWN = {
  'digits': Facts('handwritten digits', BUILT_IN, 1_000, 797, 10, (8, 8, 1)),
  'rotated_digits': Facts(
    'the digits in several rotations, a domain each', BUILT_IN, num_classes=10
  ),
  'fake_cifar10': Facts(
    f'{_FAKE} CIFAR-10', BUILT_IN, 50_000, 10_000, 10, (32, 32, 3)
  ),
  'fake_cifar100': Facts(
    f'{_FAKE} CIFAR-100', BUILT_IN, 50_000, 10_000, 100, (32, 32, 3)
  ),
  'fake_imagenet': Facts(
    f'{_FAKE} ImageNet', BUILT_IN, 1_281_167, 50_000, 1000
  ),
  'fashion_mnist': Facts(
    'grey images of clothes',
    'Debian dataset-fashion-mnist',
    *(60_000, 10_000, 10, (28, 28, 1)),
    places=(fashion_mnist.DEBIAN_DIRECTORY,),
    is_prepared=True,
  ),
  'cifar10': Facts(
    'small photographs of animals and vehicles',
    _CIFAR,
    *(50_000, 10_000, 10, (32, 32, 3)),
    is_prepared=True,
  ),
  'cifar100': Facts(
    'small photographs of animals, plants and things',
    _CIFAR,
    *(50_000, 10_000, 100, (32, 32, 3)),
    is_prepared=True,
  ),
  'svhn_cropped': Facts(
    'photographs of digits of house numbers',
    'http://ufldl.stanford.edu/housenumbers',
    *(604_388, 26_032, 10, (32, 32, 3)),
    is_prepared=True,
  ),
  'image_folder': Facts('images in folders, one for each class', YOURS),
  'python_manual': Facts('text: the reference manual of Python', BUILT_IN),
  'bible': Facts(
    'text: the King James Bible',
    'Debian bible-kjv-text',
    places=(texts.BIBLE,),
  ),
  'text': Facts('text: a file, or the files of a folder', YOURS),
  'tokens': Facts("text: token files as nanoGPT's prepare.py writes", YOURS),
}
_WHAT = {
  'imagenet2012': 'photographs (ILSVRC 2012)',
  'oxford_flowers102': 'photographs of flowers',
  'oxford_iiit_pet': 'photographs of cats and dogs',
  'cars196': 'photographs of cars',
  'food101': 'photographs of dishes',
  'fgvc_aircraft': 'photographs of aeroplanes',
  'birdsnap': 'photographs of birds',
}
_LARGE = {
  name: Facts(
    _WHAT[name],
    known.home,
    sum(known.train.values()),
    sum(known.test.values()),
    known.num_classes,
    is_prepared=not known.is_folder,
  )
  for name, known in large.BY_NAME.items()
}


def find(name: str) -> Facts:
  """Returns what is known of a data set; of one of a plug-in that is little."""
  return (_KNOWN | _LARGE).get(name) or Facts('', 'a plug-in')


def names() -> list[str]:
  """Returns the names of all data sets, those of images first."""
  return [*registry.names(), *text.names()]


def is_present(name: str, directory: str | None = None) -> bool | None:
  """Returns whether the files of a data set are there; reads none of them.

  Args:
    name: of the data set.
    directory: that the user names; None looks in the usual places.

  Returns:
    None if only the user can know, because no directory is named.
  """
  facts = find(name)
  if facts.home == BUILT_IN:
    return True
  if directory is not None:
    return _has_files(name, pathlib.Path(directory))
  if facts.is_prepared:
    place = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
    is_prepared = _is_prepared(name, pathlib.Path(place).expanduser())
    return is_prepared or any(map(os.path.exists, facts.places))
  return any(map(os.path.exists, facts.places)) if facts.places else None


def _has_files(name: str, directory: pathlib.Path) -> bool:
  """Returns whether a directory has the files of a data set, by their names."""
  if _is_prepared(name, directory):
    return True
  patterns = {
    'bible': [texts.BIBLE.name],
    'fashion_mnist': ['train-images-idx3-ubyte*'],
    'cifar10': ['data_batch_1.bin', '*/data_batch_1.bin'],
    'cifar100': ['train.bin', '*/train.bin'],
    'text': ['*'],
    'tokens': ['train.bin'],
  }.get(name, [] if find(name).is_prepared else ['train/*/*'])
  return any(next(directory.glob(p), None) is not None for p in patterns)


def _is_prepared(name: str, directory: pathlib.Path) -> bool:
  """Returns whether tensorflow-datasets has written a data set."""
  return next(directory.glob(f'{name}/**/dataset_info.json'), None) is not None


def stand_in(
  name: str,
  split: str,
  *,
  image_size: int | None = None,
  train_size: int | None = None,
) -> registry.Dataset | None:
  """Returns a data set of black images with the sizes of a known one.

  It has as many examples, of the same shape, and takes no memory.

  Args:
    name: of a data set of images.
    split: to evaluate on.
    image_size: to which images are decoded, if their size is chosen.
    train_size: number of training examples; None is all.

  Returns:
    None if the sizes of that data set are not known.
  """
  facts = find(name)
  shape = facts.shape or (image_size and (image_size, image_size, 3))
  if not (shape and facts.train and facts.test and facts.num_classes):
    return None
  total, channels = train_size or facts.train, shape[-1]
  held_out = total // _VALIDATION if split == 'validation' else 0
  train, evaluation = (
    _blank(count, shape, facts.num_classes)
    for count in (total - held_out, held_out or facts.test)
  )
  return registry.Dataset(
    name,
    train,
    evaluation,
    facts.num_classes,
    (0.5,) * channels,
    (0.25,) * channels,
  )


def text_stand_in(
  name: str, *, context_length: int, vocabulary_size: int, count: int
) -> text.TextDataset:
  """Returns a text that takes no memory, in place of one that is not there.

  Args:
    name: of the text.
    context_length: tokens of a window.
    vocabulary_size: ids that a model has outputs for.
    count: number of windows, since that of the text is not known.
  """
  tokens = np.broadcast_to(np.zeros((), np.uint16), count * context_length + 1)
  part = text.Windows(tokens, context_length)
  return text.TextDataset(
    name=name,
    train=part,
    evaluation=part,
    splits={'train': part},
    vocabulary_size=vocabulary_size,
    tokenizer=None,
    origin=f'no text, in place of {name}',
  )


def _blank(
  count: int, shape: tuple[int, ...], num_classes: int
) -> registry.Examples:
  """Returns black images of all classes in turn."""
  images = np.broadcast_to(np.zeros((), np.uint8), (count, *shape))
  labels = np.arange(count, dtype=np.int32) % num_classes
  return registry.Examples(images, labels.astype(np.int32))
