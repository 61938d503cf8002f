"""Fashion-MNIST, from its authors' IDX files or TensorFlow Datasets."""

import math
import pathlib
import sys
import zlib

import numpy as np

from sam_jax.datasets import registry, tfds_arrays

DEBIAN_DIRECTORY = pathlib.Path('/usr/share/datasets/fashion-mnist')
_FILES = {
  'train': ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte'),
  'test': ('t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte'),
}
# Pullover to shirt, coat to dress and back, sneaker to sandal, boot to sneaker:
# Zhang and Sabuncu 2018.
_CONFUSIONS = {2: 6, 3: 4, 4: 3, 7: 5, 9: 7}
_UINT8 = 8  # the type code of the IDX format
_CLASSES = (
  'T-shirt/top',
  'Trouser',
  'Pullover',
  'Dress',
  'Coat',
  'Sandal',
  'Shirt',
  'Sneaker',
  'Bag',
  'Ankle boot',
)


@registry.register('fashion_mnist')
def load(
  directory: str | None, seed: int, *, train_size: int | None = None
) -> registry.Source:
  """Loads the 60,000 training and 10,000 test images, 28x28, grey.

  The validation split is the last tenth of the training examples *in the
  order of the source*: TensorFlow Datasets, which the official release reads,
  shuffles when it prepares, so its last 6,000 are other images than those of
  the IDX files.

  Args:
    directory: holds the four IDX files, gzipped or not (any data set in this
      form will do, MNIST too), or is a TensorFlow Datasets directory. None
      looks for the Debian package `dataset-fashion-mnist`, then in the
      default directory of TensorFlow Datasets.
    seed: unused, the split is official.
    train_size: training examples, the first ones; None for all.

  Raises:
    FileNotFoundError: there is neither; says how to get them.
    ValueError: a damaged file; says which, the bytes got and expected. Or
      there are not so many training examples.

  Source: constants from the official
  sam_jax/datasets/dataset_source.py (`FashionMnist`).
  """
  del seed
  place = DEBIAN_DIRECTORY if directory is None else pathlib.Path(directory)
  has_files = any(
    _find(place, name) for names in _FILES.values() for name in names
  )
  if has_files:
    train, test = (_read_examples(place, *names) for names in _FILES.values())
  else:
    train, test = tfds_arrays.load(
      'fashion_mnist',
      ('train', 'test'),
      directory,
      alternative=(
        f', or "apt-get install dataset-fashion-mnist", or give the directory '
        f'of the four IDX files ({_FILES["train"][0]}[.gz] and so on); there '
        f'are none in {place}'
      ),
    )
  if train_size is not None:
    if not 10 <= train_size <= len(train.labels):
      raise ValueError(
        f'train_size is {train_size}; it must be in [10, {len(train.labels)}]'
      )
    train = train.select(slice(train_size))
  return registry.Source(
    train=train,
    test=test,
    num_classes=10,
    mean=(0.1307,),
    std=(0.3081,),
    num_validation=len(train.labels) // 10,
    confusions=_CONFUSIONS,
    # The files of a user may be of MNIST, whose classes are others.
    classes=None if has_files and directory is not None else _CLASSES,
  )


def read_idx(path: pathlib.Path, num_dimensions: int) -> np.ndarray:
  """Reads one IDX file of bytes.

  Args:
    path: the file, gzipped if it ends in `.gz`.
    num_dimensions: 1 for labels, 3 for images.

  Returns:
    uint8, with the shape that the file states.

  Raises:
    ValueError: not such a file, or its length is not what its header says.
  """
  header_size = 4 + 4 * num_dimensions
  header, _ = _read_bytes(path, header_size)
  magic = bytes([0, 0, _UINT8, num_dimensions])
  if header[:4] != magic or len(header) < header_size:
    raise ValueError(
      f'{path} is not an IDX file of {num_dimensions}-dimensional bytes: got '
      f'{len(header)} bytes that start with {header[:4].hex() or "nothing"}, '
      f'expected at least {header_size} that start with {magic.hex()}'
    )
  shape = np.frombuffer(header, '>u4', num_dimensions, 4).tolist()
  if 0 in shape:
    raise ValueError(
      f'{path} is damaged: its header has the shape {shape}, and no number of '
      'it can be 0; download it again'
    )
  expected = header_size + math.prod(shape)
  # One more, to see whether the file ends there.
  data, complete = _read_bytes(path, expected + 1)
  if len(data) != expected or not complete:
    got = f'{len(data)} bytes'
    if len(data) > expected:
      got = f'more than {expected} bytes'
    elif not complete:
      got += ' from a gzip stream that breaks off'
    raise ValueError(
      f'{path} is damaged: got {got}, expected {expected} for shape {shape}; '
      'download it again'
    )
  return np.frombuffer(data, np.uint8, offset=header_size).reshape(shape)


def _read_examples(
  directory: pathlib.Path, images_name: str, labels_name: str
) -> registry.Examples:
  """Reads a pair of IDX files."""
  images_path = _find(directory, images_name)
  labels_path = _find(directory, labels_name)
  if images_path is None or labels_path is None:
    missing = images_name if images_path is None else labels_name
    raise FileNotFoundError(
      f'{directory} has no {missing}[.gz]; it must hold all four IDX files'
    )
  images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
  if len(images) != len(labels):
    raise ValueError(
      f'{images_path} has {len(images)} images but {labels_path} has '
      f'{len(labels)} labels; they must be of one data set'
    )
  if labels.max(initial=0) >= len(_CLASSES):
    raise ValueError(
      f'{labels_path} has the label {labels.max()}; there are '
      f'{len(_CLASSES)} classes, from 0'
    )
  return registry.Examples(images[..., None], labels.astype(np.int32))


def _find(directory: pathlib.Path, name: str) -> pathlib.Path | None:
  """Returns the path of a file, gzipped or not, or None."""
  candidates = (directory / name, directory / f'{name}.gz')
  return next((path for path in candidates if path.is_file()), None)


def _read_bytes(path: pathlib.Path, count: int) -> tuple[bytes, bool]:
  """Returns the first bytes of a file, unpacked, and whether it then ends.

  No more memory is taken than there are bytes, whatever a header claims.
  """
  data = path.read_bytes()
  if path.suffix != '.gz':
    return data[:count], len(data) <= count
  # Unlike the gzip module this gives what there is of a file cut short.
  stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
  try:
    return stream.decompress(data, min(count, sys.maxsize)), stream.eof
  except zlib.error as error:
    raise ValueError(
      f'{path} is damaged: {len(data)} bytes that are no gzip stream '
      f'({error}); download it again'
    ) from error
