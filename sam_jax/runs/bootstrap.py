"""Bootstrap: training on the labels that an earlier run predicts.

What the paper means by it (section 3.3): a model is trained as usual, on noisy
labels, and another one is then trained from scratch on what the first predicts
for the training images. There is no special loss.

The labels are predicted once, by the last checkpoint of the finished first run
in evaluation mode, and kept in the directory of the second run. The second run
is resumed with the same labels anywhere, whatever becomes of the first.
"""

import dataclasses
import hashlib
import io
import pathlib

import ml_collections
import numpy as np

from sam_jax import datasets, tasks
from sam_jax.runs import (
  factories,
  files,
  identity,
  loading,
  workdir as workdir_lib,
)
from sam_jax.training import parallel

_FILE = 'labels.npy'
# Fields that say neither which images are trained on, nor their labels.
_FREE = ('data.image_size',)


def check(config: ml_collections.ConfigDict, info: identity.Info) -> None:
  """Refuses a `config.labels_from` that labels other images.

  Args:
    config: of the run to be made.
    info: of its data set.

  Raises:
    ValueError: the task has no labels that can be predicted, it is no run
      directory, its run is not finished, or it was trained on other data.
  """
  task = tasks.get(config.task.name)
  if task.predicted_labels is tasks.Task.predicted_labels:
    raise ValueError(
      f'labels_from needs a task that predicts labels, and {task.__name__} '
      'does not; leave it out'
    )
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
  identity.check_same_training(
    info, identity.read(directory), config.labels_from, _examples(config)
  )


def _examples(config: ml_collections.ConfigDict) -> str:
  """Returns the word for several examples of a config's task."""
  return tasks.get(config.task.name).examples


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
  info: identity.Info,
) -> datasets.Dataset:
  """Returns a data set with the training labels that a run is trained on.

  Args:
    dataset: of the config.
    config: of the run.
    workdir: of the run; once the run has begun, it holds the labels.
    info: of the data set.

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
    check(config, info)
    labels = _predict(config.labels_from, dataset)
  train = dataset.train._replace(labels=labels)
  return dataclasses.replace(dataset, train=train)


def examples(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  split: str,
  info: identity.Info,
) -> datasets.Examples:
  """Returns the examples of a split, to measure a run on.

  Args:
    config: of the run.
    workdir: of the run.
    split: 'train', what it was trained on with the labels that it had,
      'validation' or 'test'.
    info: of the run's data set, from a checkpoint.

  Raises:
    ValueError: the run was trained on the validation examples too, the data
      are no longer those of the run, or see `relabel`.
    FileNotFoundError: the data set is not there.
  """
  own_split = config.data.split
  if split == 'validation' != own_split and not identity.is_apart(info, split):
    raise ValueError(
      'the run was trained on the validation examples too (its data.split is '
      f'{config.data.split!r}); use split train or test'
    )
  dataset = factories.load_data(
    config, split=own_split if split == 'train' else split
  )
  new = identity.describe(dataset)
  identity.check_evaluated(new, info, split, own_split, _examples(config))
  if split == 'train':
    return relabel(dataset, config, workdir, new).train
  return dataset.evaluation


def other_examples(
  config: ml_collections.ConfigDict,
  directory: str,
  split: str,
  info: identity.Info,
) -> datasets.Examples:
  """Returns the examples of a split of another data set of the same classes.

  Args:
    config: of a run.
    directory: of the other data set.
    split: 'train', 'validation' or 'test'.
    info: of the run's data set, from a checkpoint.

  Raises:
    ValueError: its classes or its shape are others, or the data set is not
      what it should be.
    FileNotFoundError: it is not there.
  """
  dataset = factories.load_data(
    config,
    directory=directory,
    split=config.data.split if split == 'train' else split,
    label_noise=0.0,
  )
  if found := identity.difference(dataset.info, info, ()):
    raise ValueError(
      f'{directory} has data of another kind than the run: {found}; a model '
      'is evaluated on the classes that it was trained on'
    )
  return dataset.train if split == 'train' else dataset.evaluation


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
    content = path.read_bytes()
    stream = io.BytesIO(content)
    labels = np.load(stream)
    digest = content[stream.tell() :]
    written = content[: len(content) - len(digest)]
    if digest and digest != hashlib.sha256(written).digest():
      raise ValueError('its checksum is of other labels')
  except (OSError, ValueError, EOFError, MemoryError) as error:
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
  """Writes the labels of a run, and their checksum, beside its config.json.

  Args:
    labels: int32 [n].
    workdir: of the run, which exists.
  """
  stream = io.BytesIO()
  np.save(stream, labels)
  digest = hashlib.sha256(stream.getbuffer()).digest()
  # What follows the array is not read by NumPy.
  files.write_atomically(
    workdir / _FILE, lambda file: file.write(stream.getvalue() + digest)
  )
