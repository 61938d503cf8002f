"""scikit-learn's handwritten digits: real images that need no download."""

import importlib.util
import os

import numpy as np

from sam_jax import extras
from sam_jax.datasets import registry

_NUM_EXAMPLES = 1797
_MAX_VALUE = 16  # of the stored intensities

# Of all 1,797 images, rounded as those of Fashion-MNIST are: one constant for
# every seed and split.
MEAN = (0.3053,)
STD = (0.3759,)

# As for MNIST in Patrini et al. 2017.
_CONFUSIONS = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}


@registry.register('digits')
def load(
  directory: str | None, seed: int, *, train_size: int = 1000
) -> registry.Source:
  """Loads the 1,797 8x8 grey images of the digits 0 to 9.

  There is no official split. The seed decides on one in which the training,
  the validation (the last tenth of the training examples) and the test
  examples each contain the classes in the proportions of the whole.

  Args:
    directory: must be None, the images come with scikit-learn.
    seed: of the split.
    train_size: training examples; the rest are test examples.

  Returns:
    Intensities 0..16 become 0..255.

  Raises:
    ValueError: a directory is given, or train_size leaves a split empty.
  """
  if directory is not None:
    raise ValueError(
      f'digits come with scikit-learn; directory is {directory!r}, it must be '
      f'None'
    )
  if not 10 <= train_size < _NUM_EXAMPLES:
    raise ValueError(
      f'train_size is {train_size}; it must be in [10, {_NUM_EXAMPLES})'
    )
  images, labels = read()
  images = np.round(images).astype(np.uint8)[..., None]
  order = stratified_order(labels, seed)
  train, test = order[:train_size], order[train_size:]
  return registry.Source(
    train=registry.Examples(images[train], labels[train]),
    test=registry.Examples(images[test], labels[test]),
    num_classes=10,
    mean=MEAN,
    std=STD,
    num_validation=train_size // 10,
    confusions=_CONFUSIONS,
    classes=tuple('0123456789'),
  )


def read() -> tuple[np.ndarray, np.ndarray]:
  """Returns all images, float [n, 8, 8] in [0, 255], and labels, int32 [n]."""
  table = _table()
  images, labels = table[:, :-1], table[:, -1]
  images = (images * 255 / _MAX_VALUE).reshape(-1, 8, 8)
  return images, labels.astype(np.int32)


def _table() -> np.ndarray:
  """Returns intensities and labels as scikit-learn stores them, `[n, 65]`.

  Its file is read without its reader, whose import alone takes longer than
  everything else that precedes the first step of a small run.
  """
  spec = importlib.util.find_spec('sklearn')
  folders = None if spec is None else spec.submodule_search_locations
  for folder in folders or ():
    path = os.path.join(folder, 'datasets', 'data', 'digits.csv.gz')
    if os.path.exists(path):
      return np.loadtxt(path, delimiter=',')
  # scikit-learn is missing (the import says so), or keeps its file elsewhere.
  with extras.required():
    from sklearn import datasets as sklearn_datasets
  columns = sklearn_datasets.load_digits(return_X_y=True)
  return np.column_stack(columns)


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
  """Returns a random order of which every stretch is stratified.

  Each class is shuffled and spread evenly over [0, 1): its k-th of n members
  lies at (k + 1/2) / n. Sorting by that place mixes the classes in proportion
  everywhere, so that one order serves every split.
  """
  rng = np.random.default_rng([seed, *b'split'])
  places = np.empty(len(labels))
  for label in np.unique(labels):
    members = rng.permutation(np.flatnonzero(labels == label))
    places[members] = (np.arange(len(members)) + 0.5) / len(members)
  return np.argsort(places, kind='stable')
