"""Batches: a function of the seed and the step."""

import itertools

import numpy as np
import pytest

from sam_jax import datasets

_NUM, _BATCH_SIZE, _STEPS = 23, 5, 4


def _examples(num=_NUM):
  """Image i is filled with i, and so is its label."""
  labels = np.arange(num, dtype=np.int32)
  images = np.broadcast_to(
    labels.astype(np.uint8)[:, None, None, None], (num, 2, 3, 1)
  )
  return datasets.Examples(images, labels)


def _take(num_steps, **arguments):
  stream = datasets.train_batches(
    _examples(), _BATCH_SIZE, **{'seed': 0, **arguments}
  )
  return list(itertools.islice(stream, num_steps))


def _assert_equal(batches, expected):
  assert len(batches) == len(expected)
  for batch, other in zip(batches, expected, strict=True):
    assert batch.keys() == other.keys()
    for key in batch:
      np.testing.assert_array_equal(batch[key], other[key])


def test_a_batch_holds_images_with_their_labels_and_positions():
  for batch in _take(2 * _STEPS):
    assert batch['image'].shape == (_BATCH_SIZE, 2, 3, 1)
    numbers = ('label', 'position', 'example')
    assert batch['image'].dtype == np.uint8
    assert {batch[name].dtype for name in numbers} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(batch['image'][:, 1, 2, 0], batch['label'])
    np.testing.assert_array_equal(batch['position'], np.arange(_BATCH_SIZE))
    # Of these data it is the label, too.
    np.testing.assert_array_equal(batch['example'], batch['label'])


def test_an_epoch_shows_no_example_twice_and_epochs_differ():
  labels = [b['label'] for b in _take(3 * _STEPS)]
  epochs = np.concatenate(labels).reshape(3, _STEPS * _BATCH_SIZE)
  for epoch in epochs:
    assert len(np.unique(epoch)) == _STEPS * _BATCH_SIZE
  assert (epochs[0] != epochs[1]).any()
  assert (epochs[1] != epochs[2]).any()


def test_the_remainder_is_dropped_after_shuffling():
  """Else the same examples would never be seen."""
  labels = [b['label'] for b in _take(20 * _STEPS)]
  assert set(np.concatenate(labels)) == set(range(_NUM))


@pytest.mark.parametrize('start_step', range(2 * _STEPS + 1))
def test_a_restart_at_any_step_continues_the_stream(start_step):
  whole = _take(3 * _STEPS)
  rest = _take(3 * _STEPS - start_step, start_step=start_step)
  _assert_equal(rest, whole[start_step:])


def test_the_seed_decides_on_the_order():
  _assert_equal(_take(_STEPS, seed=3), _take(_STEPS, seed=3))
  first, other = (
    np.concatenate([b['label'] for b in _take(_STEPS, seed=s)]) for s in (3, 4)
  )
  assert (first != other).any()


@pytest.mark.parametrize('cuts', [(0, 5), (0, 2, 5), (0, 1, 2, 3, 4, 5)])
def test_shards_make_up_the_global_batch(cuts):
  whole = _take(2 * _STEPS)
  shards = [
    _take(2 * _STEPS, shard=shard) for shard in itertools.pairwise(cuts)
  ]
  joined = [
    {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
    for parts in zip(*shards, strict=True)
  ]
  _assert_equal(joined, whole)


def test_writing_into_a_batch_does_not_change_the_next():
  stream = datasets.train_batches(_examples(), _BATCH_SIZE, seed=0)
  for array in next(stream).values():
    array[...] = 99
  np.testing.assert_array_equal(
    next(stream)['position'], np.arange(_BATCH_SIZE)
  )


@pytest.mark.parametrize('batch_size', [1, 5, 23, 40])
def test_evaluation_shows_every_example_once_in_order(batch_size):
  batches = list(datasets.eval_batches(_examples(), batch_size))
  assert len(batches) == -(-_NUM // batch_size)
  for batch in batches:
    assert batch['image'].shape == (batch_size, 2, 3, 1)
    assert batch['mask'].dtype == np.float32
    assert set(batch['mask']) <= {0.0, 1.0}
    np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['label'])
  labels, mask = (
    np.concatenate([b[key] for b in batches]) for key in ('label', 'mask')
  )
  np.testing.assert_array_equal(labels[mask == 1], np.arange(_NUM))


def test_steps_per_epoch_counts_whole_batches():
  assert datasets.steps_per_epoch(_NUM, _BATCH_SIZE) == _STEPS
  assert datasets.steps_per_epoch(_NUM, _NUM) == 1


@pytest.mark.parametrize('batch_size', [0, -1, _NUM + 1])
def test_a_batch_size_that_gives_no_batch_is_refused_at_once(batch_size):
  with pytest.raises(ValueError, match=f'batch_size is {batch_size}'):
    datasets.train_batches(_examples(), batch_size, seed=0)
  with pytest.raises(ValueError, match=f'batch_size is {batch_size}'):
    datasets.steps_per_epoch(_NUM, batch_size)


def test_an_evaluation_batch_without_rows_is_refused_at_once():
  with pytest.raises(ValueError, match='batch_size is 0'):
    datasets.eval_batches(_examples(), 0)


@pytest.mark.parametrize('shard', [(0, 6), (3, 3), (-1, 2), (4, 2)])
def test_a_shard_outside_of_the_batch_is_refused(shard):
  with pytest.raises(ValueError, match='shard is'):
    datasets.train_batches(_examples(), _BATCH_SIZE, seed=0, shard=shard)


def test_a_negative_start_is_refused():
  with pytest.raises(ValueError, match='start_step is -1'):
    datasets.train_batches(_examples(), _BATCH_SIZE, seed=0, start_step=-1)
