"""ImageNet and its like: found where tensorflow-datasets left them."""

import itertools
import os
import pathlib
import sys

import numpy as np
import pytest

from sam_jax import datasets
from sam_jax.datasets import decoding, large
from tests import image_files, records

_FLOWERS = 'oxford_flowers102'


def prepare(directory, sizes, *, height=24, width=32):
  """Prepares the Flowers, of `sizes` images by split; returns their bytes."""
  stored = {
    split: [
      image_files.encode(image_files.pixels(100 * k + i, height, width))
      for i in range(size)
    ]
    for k, (split, size) in enumerate(sizes.items())
  }
  examples = {
    split: [(data, label_of(split, i)) for i, data in enumerate(files)]
    for split, files in stored.items()
  }
  records.prepare(directory, _FLOWERS, examples, num_classes=102)
  return stored


def label_of(split, i):
  return (7 * i + len(split)) % 102


def _create(directory, **arguments):
  return datasets.create(_FLOWERS, directory=str(directory), **arguments)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  directory = tmp_path_factory.mktemp('tfds')
  sizes = {'train': 12, 'validation': 8, 'test': 6}
  return directory, prepare(directory, sizes)


def test_a_prepared_set_is_read_without_tensorflow(prepared):
  directory, stored = prepared
  flowers = _create(directory, image_size=16)
  assert flowers.num_classes == 102
  # Of the Flowers one trains on both.
  expected = [('train', i) for i in range(12)]
  expected += [('validation', i) for i in range(8)]
  images, labels, _ = flowers.train
  assert images.shape == (20, 16, 16, 3)
  assert [images.read(i) for i in range(20)] == [
    stored[split][i] for split, i in expected
  ]
  np.testing.assert_array_equal(labels, [label_of(*e) for e in expected])
  assert labels.dtype == np.int32
  batch = next(datasets.eval_batches(flowers.evaluation, 4))
  np.testing.assert_array_equal(
    batch['image'][3], decoding.center_crop(stored['test'][3], 16)
  )
  assert 'tensorflow' not in sys.modules


def test_labels_are_read_once_and_kept(prepared, monkeypatch):
  directory, _ = prepared
  first = _create(directory).train.labels
  kept = sorted(p.name for p in directory.rglob('sam_jax_labels-*.npy'))
  assert kept == [
    f'sam_jax_labels-{split}.npy' for split in ('test', 'train', 'validation')
  ]
  monkeypatch.setattr(large.tqdm, 'tqdm', None)  # that reads them all
  np.testing.assert_array_equal(_create(directory).train.labels, first)


def test_kept_labels_of_another_number_are_read_anew(tmp_path):
  prepare(tmp_path, {'train': 4, 'validation': 2, 'test': 2})
  expected = _create(tmp_path).train.labels
  [path] = tmp_path.rglob('sam_jax_labels-train.npy')
  np.save(path, np.zeros(3, np.int32))
  np.testing.assert_array_equal(_create(tmp_path).train.labels, expected)


def test_damaged_labels_are_read_anew(tmp_path):
  """Also if what they say could be labels."""
  prepare(tmp_path, {'train': 4, 'validation': 2, 'test': 2})
  expected = _create(tmp_path).train.labels
  [path] = tmp_path.rglob('sam_jax_labels-train.npy')
  content = path.read_bytes()
  for start in (0, len(content) // 2, len(content) - 40):
    changed = bytearray(content)
    changed[start] ^= 1
    path.write_bytes(changed)
    np.testing.assert_array_equal(_create(tmp_path).train.labels, expected)
  assert path.read_bytes() == content


def test_a_damaged_record_is_skipped_or_named(tmp_path):
  stored = prepare(tmp_path, {'train': 4, 'validation': 2, 'test': 2})
  flowers = _create(tmp_path, image_size=8)
  source = flowers.evaluation.images.storage.sources[0]
  read = type(source).__getitem__

  class Damaged(type(source)):
    def __getitem__(self, index):
      if index == 1:
        raise RuntimeError('hash of chunk')
      return read(self, index)

  source.__class__ = Damaged
  with pytest.raises(OSError, match='oxford_flowers102, record 1: hash of'):
    flowers.evaluation.images.read(1)
  with pytest.raises(datasets.UndecodableError, match='every image'):
    list(datasets.eval_batches(flowers.evaluation, 2))
  assert flowers.evaluation.images.read(0) == stored['test'][0]


def test_labels_of_a_read_only_set_are_kept_in_the_cache(tmp_path, monkeypatch):
  data, cache = tmp_path / 'data', tmp_path / 'cache'
  prepare(data, {'train': 4, 'validation': 2, 'test': 2})
  monkeypatch.setenv('XDG_CACHE_HOME', str(cache))
  rename = pathlib.Path.rename

  def refuse(self, target):
    if data in self.parents:
      raise PermissionError(self)
    return rename(self, target)

  # Permissions would not stop a test that is run as root.
  monkeypatch.setattr(pathlib.Path, 'rename', refuse)
  expected = _create(data).train.labels
  assert not list(data.rglob('sam_jax_labels-*.npy'))
  assert len(list(cache.rglob('sam_jax_labels-*.npy'))) == 3
  with monkeypatch.context() as patch:
    patch.setattr(large.tqdm, 'tqdm', None)  # that reads them all
    np.testing.assert_array_equal(_create(data).train.labels, expected)
  # Prepared anew, it may have others.
  [info] = data.rglob('dataset_info.json')
  os.utime(info, (1, 1))
  _create(data)
  assert len(list(cache.rglob('sam_jax_labels-*.npy'))) == 6


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:resource_tracker')
def test_worker_processes_read_records(prepared):
  directory, _ = prepared
  runs = []
  for workers in (0, 1):
    train = _create(directory, image_size=8, workers=workers).train
    stream = datasets.train_batches(train, 5, seed=0)
    runs.append(list(itertools.islice(stream, 3)))
    stream.close()
  for ours, other in zip(*runs, strict=True):
    np.testing.assert_array_equal(ours['image'], other['image'])
    np.testing.assert_array_equal(ours['label'], other['label'])


def test_a_validation_split_holds_out_a_tenth(prepared):
  directory, _ = prepared
  flowers = _create(directory, split='validation')
  assert len(flowers.train.labels) == 18
  assert len(flowers.evaluation.labels) == 2


@pytest.mark.parametrize('name', sorted(large.BY_NAME))
def test_a_missing_set_says_how_to_get_it(name, tmp_path):
  is_folder = large.BY_NAME[name].is_folder
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    datasets.create(name, directory=None if is_folder else str(tmp_path))
  message = str(error.value)
  assert f'python -m sam_jax.prepare_data {name}' in message
  assert '\n' not in message


def test_a_folder_with_other_classes_is_refused(tmp_path):
  image_files.folder(tmp_path, {'train': 1, 'test': 1})
  with pytest.raises(ValueError, match='4 classes; birdsnap has 500'):
    datasets.create('birdsnap', directory=str(tmp_path))


def test_the_facts_are_those_of_tensorflow_datasets():
  import tensorflow_datasets as tfds

  for name, facts in large.BY_NAME.items():
    if not facts.is_folder:
      features = tfds.builder(name, data_dir='/nowhere').info.features
      assert features['label'].num_classes == facts.num_classes
