"""Arrays from TensorFlow Datasets, without TensorFlow.

*Preparing* a data set needs TensorFlow, so that belongs in an environment of
its own. One that was prepared as array_record is read by the small package
`tensorflow_datasets` alone.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sam_jax.datasets import registry


class Opened(NamedTuple):
  """Splits of a prepared set.

  Attributes:
    place: directory of its files.
    sources: of its splits, for random access.
    classes: names of its classes, None if it says none.
  """

  place: pathlib.Path
  sources: Sequence[Any]
  classes: tuple[str, ...] | None


def load(
  name: str,
  splits: Sequence[str],
  directory: str | None,
  *,
  alternative: str = '',
) -> list[registry.Examples]:
  """Decodes splits of a prepared image classification set into arrays.

  Args:
    name: of the data set in TensorFlow Datasets.
    splits: names of its splits.
    directory: where it was prepared; None for `$TFDS_DATA_DIR`, else
      `~/tensorflow_datasets`.
    alternative: another way to get the data; ends the error message.

  Returns:
    The examples of each split, in stored order.

  Raises:
    FileNotFoundError: it is not prepared there, or not as array_record.
    ValueError: it is damaged.
  """
  opened = open_splits(name, splits, directory, alternative=alternative)
  return [
    _decode(source, f'{opened.place}, split {split!r}')
    for source, split in zip(opened.sources, splits, strict=True)
  ]


def open_splits(
  name: str,
  splits: Sequence[str],
  directory: str | None,
  *,
  decoders: Mapping[str, Any] | None = None,
  alternative: str = '',
) -> Opened:
  """Opens splits of a prepared set for random access.

  Args:
    name: see `load`.
    splits: see `load`.
    directory: see `load`.
    decoders: of TensorFlow Datasets, by feature; None decodes all.
    alternative: see `load`.

  Raises:
    FileNotFoundError: see `load`.
    ValueError: what describes the set is damaged.
  """
  import tensorflow_datasets as tfds

  with named_if_damaged(f'{name} of {directory or "tensorflow-datasets"}'):
    builder = tfds.builder(name, data_dir=directory)
  try:
    sources = builder.as_data_source(split=list(splits), decoders=decoders)
  # How tfds says that there are no such files, and no such split in them.
  except (NotImplementedError, ValueError) as error:
    raise FileNotFoundError(
      f'{name} with splits {", ".join(splits)} is not prepared as '
      f'array_record in {builder.data_dir}; run "python -m '
      f'sam_jax.prepare_data {name}" (--directory for another place)'
      f'{alternative}'
    ) from error
  names = getattr(builder.info.features['label'], 'names', None)
  place = pathlib.Path(builder.data_dir)
  return Opened(place, sources, tuple(names) if names else None)


@contextlib.contextmanager
def named_if_damaged(what: str) -> Iterator[None]:
  """Turns whatever reading raises into a ValueError that names the data."""
  try:
    yield
  except ImportError:
    raise
  except Exception as error:  # of array_record, protobuf, zlib, OpenCV, ...
    cause = ' '.join(str(error).split())
    raise ValueError(
      f'{what} cannot be read ({cause}); prepare it again'
    ) from error


def _decode(
  source: Sequence[Mapping[str, np.ndarray]], what: str
) -> registry.Examples:
  """Returns all examples of a data source, stacked."""
  with named_if_damaged(what):
    shape = source[0]['image'].shape
  images = np.empty((len(source), *shape), np.uint8)
  labels = np.empty(len(source), np.int32)
  for i in range(len(source)):
    with named_if_damaged(f'{what}, record {i}'):
      example = source[i]
      images[i], labels[i] = example['image'], example['label']
  return registry.Examples(images, labels)
