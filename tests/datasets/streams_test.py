"""Batches of encoded images: those of the step, however they are made."""

import collections
import itertools
import multiprocessing
import os
import signal
import time
import warnings

import numpy as np
import pytest

from sam_jax import datasets
from sam_jax.datasets import decoding, encoded, streams
from tests import image_files

_NUM, _BATCH_SIZE, _SIZE = 22, 6, 8


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  folder = tmp_path_factory.mktemp('images')
  paths = [str(folder / f'{i}.jpg') for i in range(_NUM)]
  for i, path in enumerate(paths):
    with open(path, 'wb') as stream:
      stream.write(image_files.encode(image_files.pixels(i)))
  return paths


def _examples(paths, workers=0):
  images = encoded.EncodedImages(
    encoded.Files(paths), np.arange(len(paths)), _SIZE, workers
  )
  return datasets.Examples(images, np.arange(len(paths), dtype=np.int32))


def _train(paths, num_steps, workers=0, **arguments):
  stream = datasets.train_batches(
    _examples(paths, workers), _BATCH_SIZE, **{'seed': 3, **arguments}
  )
  batches = list(itertools.islice(stream, num_steps))
  stream.close()
  return batches


def _assert_equal(batches, expected):
  assert len(batches) == len(expected)
  for ours, other in zip(batches, expected, strict=True):
    assert ours.keys() == other.keys()
    for name, value in ours.items():
      assert value.dtype == other[name].dtype
      np.testing.assert_array_equal(value, other[name])


def test_labels_and_positions_are_those_of_images_in_memory(paths):
  images = np.zeros((_NUM, _SIZE, _SIZE, 3), np.uint8)
  in_memory = datasets.Examples(images, np.arange(_NUM, dtype=np.int32))
  expected = itertools.islice(
    datasets.train_batches(in_memory, _BATCH_SIZE, seed=3), 8
  )
  for ours, other in zip(_train(paths, 8), expected, strict=True):
    assert ours.keys() == other.keys()
    assert ours['image'].shape == other['image'].shape
    for name in ('label', 'position', 'example'):
      assert ours[name].dtype == other[name].dtype
      np.testing.assert_array_equal(ours[name], other[name])


def test_an_image_is_the_crop_of_its_seed_step_and_position(paths):
  batch = _train(paths, 5)[4]
  for i in range(_BATCH_SIZE):
    with open(paths[batch['label'][i]], 'rb') as stream:
      data = stream.read()
    rng = np.random.default_rng([3, 4, i, *b'crop'])
    np.testing.assert_array_equal(
      batch['image'][i], decoding.random_crop(data, _SIZE, rng)
    )


@pytest.mark.parametrize('start_step', [2, 5, 300])
def test_a_stream_that_starts_later_goes_on_with_the_same_batches(
  paths, start_step
):
  # 300 is far beyond what is held in advance.
  if start_step < 100:
    expected = _train(paths, start_step + 3)[start_step:]
  else:
    expected = _train(paths, 4, start_step=start_step - 1)[1:]
  _assert_equal(_train(paths, 3, start_step=start_step), expected)


@pytest.mark.parametrize('shard', [(0, 2), (2, 6)])
def test_a_shard_has_the_rows_of_the_whole_batch(paths, shard):
  rows = slice(*shard)
  expected = [
    {name: value[rows] for name, value in batch.items()}
    for batch in _train(paths, 4)
  ]
  _assert_equal(_train(paths, 4, shard=shard), expected)


# Six images, which are one piece by default, in pieces of 3 and 3, or 2, 2, 2.
# Processes of Grain that are stopped on their way leave a buffer to Python.
@pytest.mark.filterwarnings('ignore:resource_tracker')
@pytest.mark.parametrize(
  ('piece', 'workers'),
  [(4, 0), (2, 0), pytest.param(2, 2, marks=pytest.mark.slow)],
)
def test_batches_are_the_same_in_pieces(paths, monkeypatch, piece, workers):
  expected = _train(paths, 4, start_step=2)
  evaluated = list(datasets.eval_batches(_examples(paths), 6))
  monkeypatch.setattr(streams, 'PIECE', piece)
  _assert_equal(_train(paths, 4, workers, start_step=2), expected)
  batches = datasets.eval_batches(_examples(paths, workers), 6)
  _assert_equal(list(batches), evaluated)


def test_a_worker_that_is_killed_is_told_and_ctrl_c_is_not_for_workers(paths):
  stream = datasets.train_batches(_examples(paths, 1), _BATCH_SIZE, seed=3)
  next(stream)
  (worker,) = multiprocessing.active_children()
  os.kill(worker.pid, signal.SIGINT)
  for _ in range(3):
    next(stream)
  os.kill(worker.pid, signal.SIGKILL)
  with pytest.raises(ChildProcessError, match='ended by SIGKILL .out of mem'):
    collections.deque(stream, maxlen=0)
  assert not multiprocessing.active_children()


def test_few_batches_are_held_however_many_threads(paths, monkeypatch):
  monkeypatch.setattr(streams, 'PIECE', 1)
  monkeypatch.setattr(streams.os, 'cpu_count', lambda: 3)
  read = []
  count = encoded.Files.read
  monkeypatch.setattr(
    encoded.Files, 'read', lambda self, i: read.append(i) or count(self, i)
  )
  stream = datasets.train_batches(_examples(paths), _BATCH_SIZE, seed=0)
  next(stream)
  while len(read) <= 2 * _BATCH_SIZE:  # the threads read on
    time.sleep(0.01)
  time.sleep(0.1)  # would be long enough to read everything
  stream.close()
  # The one that was asked for, and two more.
  assert len(read) <= 3 * _BATCH_SIZE + 1


def test_another_seed_gives_other_crops(paths):
  first, other = (_train(paths[:6], 1, seed=seed)[0] for seed in (1, 2))
  order, other_order = np.argsort(first['label']), np.argsort(other['label'])
  same = first['image'][order] == other['image'][other_order]
  assert not same.all(axis=(1, 2, 3)).any()


def test_evaluation_has_every_image_once(paths):
  batches = list(datasets.eval_batches(_examples(paths), 8))
  assert len(batches) == 3
  mask = np.concatenate([b['mask'] for b in batches])
  images = np.concatenate([b['image'] for b in batches])
  labels = np.concatenate([b['label'] for b in batches])
  np.testing.assert_array_equal(mask, [1] * _NUM + [0] * 2)
  np.testing.assert_array_equal(labels[:_NUM], np.arange(_NUM))
  for image, path in zip(images, paths, strict=False):
    with open(path, 'rb') as stream:
      data = stream.read()
    np.testing.assert_array_equal(image, decoding.center_crop(data, _SIZE))
  shards = [
    list(datasets.eval_batches(_examples(paths), 8, shard=shard))
    for shard in ((0, 4), (4, 8))
  ]
  for batch, *parts in zip(batches, *shards, strict=True):
    for name, value in batch.items():
      together = np.concatenate([part[name] for part in parts])
      np.testing.assert_array_equal(together, value)


@pytest.fixture
def damaged(paths, tmp_path):
  """The same images, but 4 and 5 cut off."""
  broken = list(paths)
  for i in (4, 5):
    with open(paths[i], 'rb') as stream:
      data = stream.read()
    broken[i] = str(tmp_path / f'broken{i}.jpg')
    with open(broken[i], 'wb') as stream:
      stream.write(data[: len(data) // 2])
  return broken


def test_a_damaged_training_image_is_replaced_by_the_next(paths, damaged):
  steps = 3 * (_NUM // _BATCH_SIZE)
  with pytest.warns(UserWarning) as warned:
    batches = _train(damaged, steps)
  # Once for each image, not for each epoch; perhaps both at once.
  messages = [str(w.message) for w in warned]
  assert len(messages) <= 2
  assert '2 of 22 training images cannot be decoded' in messages[-1]
  for i in (4, 5):
    assert sum(f'broken{i}.jpg' in message for message in messages) == 1
  labels, examples = (
    np.concatenate([b[name] for b in batches]) for name in ('label', 'example')
  )
  # An epoch has no number twice, although it has an image twice.
  for epoch in np.split(examples, 3):
    assert len(np.unique(epoch)) == len(epoch)
  assert not np.isin([4, 5], labels).any()
  for batch, intact in zip(batches, _train(paths, steps), strict=True):
    is_replaced = np.isin(intact['label'], [4, 5])
    np.testing.assert_array_equal(
      batch['label'], np.where(is_replaced, 6, intact['label'])
    )
    kept = ~is_replaced
    np.testing.assert_array_equal(batch['image'][kept], intact['image'][kept])
    # What takes its place is a real image.
    assert (batch['image'].max(axis=(1, 2, 3)) > 50).all()


def test_shards_replace_the_same_images(damaged):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    whole = _train(damaged, 4)
    parts = [_train(damaged, 4, shard=shard) for shard in ((0, 3), (3, 6))]
  for batch, *pieces in zip(whole, *parts, strict=True):
    for name, value in batch.items():
      together = np.concatenate([piece[name] for piece in pieces])
      np.testing.assert_array_equal(together, value)


def test_a_damaged_image_stops_evaluation_by_its_name(damaged):
  with pytest.raises(ValueError, match=r'broken4\.jpg cannot be decoded'):
    list(datasets.eval_batches(_examples(damaged), 8))


def test_files_none_of_which_is_an_image_are_refused(tmp_path):
  paths = [str(tmp_path / f'{i}.jpg') for i in range(25)]
  for path in paths:
    with open(path, 'wb') as stream:
      stream.write(b'not an image')
  with pytest.raises(ValueError, match='20 training images in a row.*jpg'):
    _train(paths, 1)


def test_encoded_images_look_like_an_array(paths):
  images = _examples(paths).images
  assert images.shape == (_NUM, _SIZE, _SIZE, 3)
  assert images.dtype == np.uint8
  assert images.ndim == 4
  part = images[10:][np.array([3, 0])]
  assert len(part) == 2
  assert [part.name(i) for i in range(2)] == [paths[13], paths[10]]
  with open(paths[13], 'rb') as stream:
    assert part.read(0) == stream.read()


def test_a_file_that_has_gone_is_like_a_damaged_one(paths, tmp_path):
  gone = [*paths[:-1], str(tmp_path / 'gone.jpg')]
  with pytest.warns(UserWarning, match=r'1 of 22 training images.*gone\.jpg'):
    batches = _train(gone, 2 * (_NUM // _BATCH_SIZE))
  assert not any(_NUM - 1 in b['label'] for b in batches)
  with pytest.raises(datasets.UndecodableError, match=r'gone\.jpg cannot be'):
    list(datasets.eval_batches(_examples(gone), 8))


@pytest.mark.parametrize(
  ('numbers', 'message'),
  [
    ({'size': 0}, 'image_size is 0; it must be at least 1'),
    ({'workers': -1}, 'workers is -1; it must be at least 0'),
  ],
)
def test_numbers_that_make_no_sense_are_refused(paths, numbers, message):
  arguments = {'size': _SIZE, 'workers': 0} | numbers
  with pytest.raises(ValueError, match=message):
    encoded.EncodedImages(encoded.Files(paths), np.arange(_NUM), **arguments)
