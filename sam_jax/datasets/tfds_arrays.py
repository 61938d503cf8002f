"""Arrays from TensorFlow Datasets, without TensorFlow.

*Preparing* a data set needs TensorFlow, so that belongs in an environment of
its own. One that was prepared as array_record is read by the small package
`tensorflow_datasets` alone.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sam_jax.datasets import registry


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
  """
  _, sources = open_splits(name, splits, directory, alternative=alternative)
  return [_decode(source) for source in sources]


def open_splits(
  name: str,
  splits: Sequence[str],
  directory: str | None,
  *,
  decoders: Mapping[str, Any] | None = None,
  alternative: str = '',
) -> tuple[pathlib.Path, Sequence[Any]]:
  """Opens splits of a prepared set for random access.

  Args:
    name: see `load`.
    splits: see `load`.
    directory: see `load`.
    decoders: of TensorFlow Datasets, by feature; None decodes all.
    alternative: see `load`.

  Returns:
    Where the files are, and a data source for each split.

  Raises:
    FileNotFoundError: see `load`.
  """
  import tensorflow_datasets as tfds

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
  return pathlib.Path(builder.data_dir), sources


def _decode(source: Sequence[Mapping[str, np.ndarray]]) -> registry.Examples:
  """Returns all examples of a data source, stacked."""
  images = np.empty((len(source), *source[0]['image'].shape), np.uint8)
  labels = np.empty(len(source), np.int32)
  for i, example in enumerate(source):
    images[i], labels[i] = example['image'], example['label']
  return registry.Examples(images, labels)
