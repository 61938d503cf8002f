"""Bootstrap: training on the labels that an earlier run predicts.

What the paper means by it (section 3.3): a model is trained as usual, on noisy
labels, and another one is then trained from scratch on what the first predicts
for the training images. There is no special loss.

The labels are predicted once, by the last checkpoint of the finished first run
in evaluation mode, and kept in the directory of the second run. The second run
is resumed with the same labels anywhere, whatever becomes of the first.
"""

import dataclasses
import pathlib

import ml_collections
import numpy as np

from sam_jax import datasets
from sam_jax.runs import factories, files, loading, workdir as workdir_lib
from sam_jax.training import parallel

_FILE = 'labels.npy'
# Fields that say neither which images are trained on, nor their labels.
_FREE = ('data.image_size',)


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a `config.labels_from` that labels other images.

  Raises:
    ValueError: it is no run directory, its run is not finished, or it was
      trained on other data.
  """
  directory = pathlib.Path(config.labels_from)
  first = workdir_lib.read_config(directory)
  if first is None:
    raise ValueError(
      f'labels_from is {config.labels_from!r}, which is no run directory; '
      'train the first model there'
    )
  if workdir_lib.read_result(directory) is None:
    raise ValueError(
      f'the run in labels_from={config.labels_from!r} is not finished; finish '
      'it first'
    )
  ours, theirs = map(_data_fields, (config, first))
  differing = [
    f'{name} is {ours.get(name)!r}, there {theirs.get(name)!r}'
    for name in sorted(ours.keys() | theirs.keys())
    if ours.get(name) != theirs.get(name)
  ]
  if differing:
    raise ValueError(
      f'the run in labels_from={config.labels_from!r} was trained on other '
      f'data: {"; ".join(differing)}; they must agree'
    )


def _data_fields(config: ml_collections.ConfigDict) -> dict[str, object]:
  """Returns the fields that say which images there are and their labels."""
  return {
    name: value
    for name, value in workdir_lib.flatten(config).items()
    if name.startswith(('data.', 'task.name'))
    and name not in _FREE
    and not workdir_lib.is_operational(name)
  }


def relabel(
  dataset: datasets.Dataset,
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
) -> datasets.Dataset:
  """Returns a data set with the training labels that a run is trained on.

  Args:
    dataset: of the config.
    config: of the run.
    workdir: of the run; once the run has begun, it holds the labels.

  Returns:
    The data set as it is unless `config.labels_from` is set.

  Raises:
    ValueError: see `check`, the labels in the directory are damaged, or the
      task has no labels that can be predicted.
  """
  if not config.labels_from:
    return dataset
  if workdir_lib.has_begun(workdir):
    labels = _read(workdir / _FILE, dataset.train.labels)
  else:
    check(config)
    labels = _predict(config.labels_from, dataset)
  train = dataset.train._replace(labels=labels)
  return dataclasses.replace(dataset, train=train)


def examples(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, split: str
) -> datasets.Examples:
  """Returns the examples of a split, to measure a run on.

  Args:
    config: of the run.
    workdir: of the run.
    split: 'train', what it was trained on with the labels that it had,
      'validation' or 'test'.

  Raises:
    ValueError: the run was trained on the validation examples too, or see
      `relabel`.
    FileNotFoundError: the data set is not there.
  """
  if split == 'validation' and config.data.split != 'validation':
    raise ValueError(
      'the run was trained on the validation examples too (its data.split is '
      f'{config.data.split!r}); use split train or test'
    )
  if split == 'train':
    return relabel(factories.load_data(config), config, workdir).train
  return factories.load_data(config, split=split).evaluation


def _predict(source: str, dataset: datasets.Dataset) -> np.ndarray:
  """Returns the label that a run predicts for each training example."""
  labels = np.zeros_like(dataset.train.labels)
  # Every process loads the run, because Orbax waits for all of them.
  first = loading.restore(source)
  if parallel.is_first_process():
    parts = [
      first.task.predicted_labels(part.outputs)
      for part in first.predict(dataset.train)
    ]
    labels[:] = np.concatenate(parts)
    changed = np.mean(labels != dataset.train.labels)
    print(f'labels from {source}, step {first.step}: {changed:.2%} changed')
  # The other processes might round a tie another way.
  return parallel.from_first_process(labels)


def _read(path: pathlib.Path, own: np.ndarray) -> np.ndarray:
  """Returns the labels of a run that has begun, in place of the data set's."""
  try:
    labels = np.load(path)
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(
      f'{path}, the labels that the run is trained on, cannot be read: {error}'
    ) from error
  if labels.shape != own.shape:
    raise ValueError(
      f'{path} has {labels.shape} labels for {len(own)} training images; the '
      'data are other ones'
    )
  return labels


def write(labels: np.ndarray, workdir: pathlib.Path) -> None:
  """Writes the labels of a run beside its config.json.

  Args:
    labels: int32 [n].
    workdir: of the run, which exists.
  """
  files.write_atomically(
    workdir / _FILE, lambda stream: np.save(stream, labels)
  )
