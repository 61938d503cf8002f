"""Any folder of class folders of images."""

import pathlib
from collections.abc import Sequence

import numpy as np

from sam_jax.datasets import encoded, folders, registry

# Of ImageNet, for images scaled to [0, 1]; as in the official release.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

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
  domains: bool = False,
  mean: Sequence[float] = MEAN,
  std: Sequence[float] = STD,
) -> registry.Source:
  """Finds the images of `directory`/train/CLASS/... and of test and val.

  The classes are the folders of `train`, sorted by name. Images may lie deeper.
  Whatever can be decoded is an image (`decoding.suffixes`); what else there is,
  is left out and named in one line, see `folders`.

  Args:
    directory: has `train`, and `test` or `val` (or `validation`, `valid`); of
      both, `test` is what split 'test' evaluates on, and `val` what split
      'validation' does. Without `val`, 'validation' holds out a tenth of
      `train`, chosen by the seed.
    seed: of that choice.
    image_size: height and width in pixels of what the images are decoded to.
    workers: processes that decode; 0 uses threads of this one.
    domains: whether the images are in train/DOMAIN/CLASS/... and
      test/DOMAIN/CLASS/..., for methods such as `disam`. All domains have the
      same classes. Those of `test` and `val` may be others than those of
      `train`: one that is not trained on tells how well a model works on a
      domain that it has never seen.
    mean: of each channel, for images scaled to [0, 1].
    std: likewise.

  Raises:
    FileNotFoundError: a folder is missing; says which are expected.
    ValueError: a class has no images, the folders have different classes, or
      there is only one; or there are no folders of domains.
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
  levels = _domains(train_folder) if domains else {'': train_folder}
  first = next(iter(levels.values()))
  found = folders.classes(first)
  classes = list(found)
  if len(classes) == 1:
    raise _one_class(first, found[classes[0]][0])
  order = np.random.default_rng([seed, *b'image_folder'])

  def read(folder: pathlib.Path) -> registry.Examples:
    places = list(_domains(folder).values()) if domains else [folder]
    parts = [folders.find(root, place, classes, first) for place in places]
    files = encoded.joined([files for files, _ in parts])
    images = encoded.EncodedImages(
      files, np.arange(len(files)), image_size, workers
    )
    counts = [len(labels) for _, labels in parts]
    numbers = np.repeat(np.arange(len(parts)), counts).astype(np.int32)
    labels = np.concatenate([labels for _, labels in parts])
    return registry.Examples(images, labels, numbers if domains else None)

  def read_first(names: tuple[str, ...]) -> registry.Examples | None:
    folder = _first(root, names)
    if folder is None:
      return None
    return read(folder)._replace(domains=None)  # they may be others

  train = read(train_folder)
  test, validation = read_first(_TEST_NAMES), read_first(_VALIDATION_NAMES)
  # Files are sorted by class, and what is held out are the last ones.
  train = train.select(order.permutation(len(train.labels)))
  return registry.Source(
    train=train,
    test=validation if test is None else test,
    num_classes=len(classes),
    classes=tuple(classes),
    mean=tuple(mean),
    std=tuple(std),
    num_validation=int(_VALIDATION_SHARE * len(train.labels)),
    validation=validation,
    domains=tuple(levels) if domains else None,
  )


def _domains(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the folders of the domains in that of a split, by name.

  Raises:
    ValueError: there are none, or two of one name.
    OSError: the folder cannot be read.
  """
  try:
    found = folders.classes(folder)
  except ValueError as error:
    raise ValueError(
      f'{folder} has no folders; with data.domains it must have one for each '
      'domain, with a folder of images for each class'
    ) from error
  for name, places in found.items():
    if len(places) > 1:
      raise ValueError(
        f'{folder} has {len(places)} folders of the domain {name!r}, whose '
        'names differ by Unicode normalisation only; put them together'
      )
  return {name: places[0] for name, places in found.items()}


def _first(root: pathlib.Path, names: Sequence[str]) -> pathlib.Path | None:
  """Returns the first of the folders that exists."""
  return next((root / name for name in names if (root / name).is_dir()), None)


def _one_class(folder: pathlib.Path, only: pathlib.Path) -> ValueError:
  """Returns the error for a split of a single class."""
  deeper = folders.num_folders(only)
  looks = (
    f'; the {deeper} folders in it look like the classes' if deeper else ''
  )
  return ValueError(
    f'{folder} has a folder of one class only, {only.name!r}, and there is '
    f'nothing to learn; usually there is one folder level too many{looks}. Put '
    f'the folders of the classes into {folder}'
  )
