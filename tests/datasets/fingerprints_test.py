"""Fingerprints: the same wherever the data lie, another for other data."""

import os
import shutil
import unicodedata

import numpy as np
import pytest

from sam_jax import datasets
from sam_jax.datasets import fingerprints
from tests import image_files, originals


def _of_folder(root, **arguments):
  data = datasets.create('image_folder', directory=str(root), **arguments)
  splits = data.source.splits
  return {name: fingerprints.of(*splits[name]) for name in splits}


@pytest.fixture(scope='module')
def original(tmp_path_factory):
  root = tmp_path_factory.mktemp('fingerprints') / 'data'
  image_files.folder(root, {'train': 30, 'test': 2, 'val': 1})
  (root / 'train' / 'red' / 'é.jpg').write_bytes(
    (root / 'train' / 'red' / '000.jpg').read_bytes()
  )
  return root


@pytest.fixture
def root(original, tmp_path):
  """A copy elsewhere, whose files lie on the disk in another order."""
  copy = tmp_path / 'elsewhere'
  names = [path for path in original.rglob('*') if path.is_file()]
  for path in reversed(sorted(names)):
    target = copy / path.relative_to(original)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    os.utime(target, (1, 1))
  return copy


def _differing(root, original):
  """Which fields of the training split differ; all others have to agree."""
  new, old = _of_folder(root), _of_folder(original)
  assert new.keys() == old.keys() == {'train', 'test', 'validation'}
  assert new['test'] == old['test']
  assert new['validation'] == old['validation']
  return {
    key for key, value in new['train'].items() if value != old['train'][key]
  }


def test_a_copy_is_the_same_for_every_seed_size_and_split(root, original):
  (root / 'val').rename(root / 'validation')
  path = root / 'train' / 'red' / unicodedata.normalize('NFC', 'é.jpg')
  path.rename(path.with_name(unicodedata.normalize('NFD', path.name)))
  (root / 'train' / '@eaDir').mkdir()
  assert not _differing(root, original)
  assert _of_folder(original) == _of_folder(
    root, seed=5, image_size=8, split='validation', label_noise=0.4
  )
  assert _of_folder(original)['train']['count'] == 121


def test_a_file_that_was_added_counts(root, original):
  image = (root / 'train' / 'red' / '000.jpg').read_bytes()
  (root / 'train' / 'red' / 'zz.jpg').write_bytes(image)
  assert _differing(root, original) >= {'count', 'names', 'labels'}


def test_a_file_of_another_class_has_another_label(root, original):
  """Names of files alone would not tell."""
  (root / 'train' / 'red').rename(root / 'train' / 'x')
  (root / 'train' / 'blue').rename(root / 'train' / 'red')
  (root / 'train' / 'x').rename(root / 'train' / 'blue')
  assert _differing(root, original) >= {'names', 'labels'}


def test_another_content_counts_by_its_size(root, original, monkeypatch):
  monkeypatch.setattr(fingerprints, 'SAMPLED', 1)  # another one
  with (root / 'train' / 'red' / '001.jpg').open('ab') as stream:
    stream.write(b'x')
  assert _differing(root, original) == {'contents'}


def test_another_content_of_the_same_size_counts_where_all_are_read(
  root, original, monkeypatch
):
  monkeypatch.setattr(fingerprints, 'SAMPLED', 121)
  path = root / 'train' / 'red' / '001.jpg'
  content = path.read_bytes()
  path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
  assert _differing(root, original) == {'contents'}


def test_a_file_that_cannot_be_read_is_another_one(root, original, monkeypatch):
  monkeypatch.setattr(fingerprints, 'SAMPLED', 121)
  before = _of_folder(root)

  def read(self, index):
    raise PermissionError(13, 'no')

  monkeypatch.setattr(datasets.registry.encoded.Files, 'read', read)
  after = _of_folder(root)
  assert before['train']['names'] == after['train']['names']
  assert before['train']['contents'] != after['train']['contents']


def test_arrays_are_hashed_whole():
  images, labels, _ = originals.examples(40)
  first = fingerprints.of(images, labels)
  assert fingerprints.of(images.copy(order='F'), labels.copy()) == first
  other = images.copy()
  other[-1, -1, -1, -1] ^= 1
  assert fingerprints.of(other, labels) == first | {
    'contents': fingerprints.of_array(other)
  }
  other = labels.copy()
  other[-1] ^= 1
  changed = fingerprints.of(images, other)
  assert changed['labels'] != first['labels']
  assert changed['contents'] == first['contents']


def test_a_digest_covers_type_shape_and_the_order_of_chunks(monkeypatch):
  monkeypatch.setattr(fingerprints, '_CHUNK', 8)
  values = np.arange(40, dtype=np.uint8)
  digests = {
    fingerprints.of_array(array)
    for array in (
      values,
      values.astype(np.int8),
      values.reshape(4, 10),
      values[::-1],
      np.roll(values, 8),
      values[:39],
    )
  }
  assert len(digests) == 6


def test_of_an_array_that_is_too_large_some_rows_are_hashed(monkeypatch):
  monkeypatch.setattr(fingerprints, '_MAX_BYTES', 2000)
  rows = np.arange(5000, dtype=np.uint8).reshape(2500, 2)
  first = fingerprints.of_array(rows)
  assert fingerprints.of_array(rows[:2499]) != first
  for row in (0, 2499):
    changed = rows.copy()
    changed[row] ^= 1
    assert fingerprints.of_array(changed) != first
  # It need not fit into memory.
  huge = np.broadcast_to(np.uint8(0), (10**6, 10**6))
  assert fingerprints.of_array(huge[:, :10]) != first
