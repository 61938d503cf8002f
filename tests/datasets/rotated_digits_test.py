"""Digits in domains, one of which is not trained on."""

import numpy as np
import pytest

from sam_jax import datasets


def _create(**options):
  return datasets.create('rotated_digits', **options)


def test_domains_divide_the_digits_and_one_is_held_out():
  found = _create(angles=(0, 30, 90), held_out=30)
  train, test = found.train, found.evaluation
  assert found.training_info['domains'] == ['0', '90']
  assert np.bincount(train.domains).tolist() == [599, 599]
  assert len(test.labels) == 599 and test.domains is None
  assert found.training_info['class_counts'] == [
    int(np.sum(train.labels == k)) for k in range(10)
  ]
  for domain in range(2):
    counts = np.bincount(train.labels[train.domains == domain])
    assert abs(counts - 59.9).max() < 2
  # Each image is there once, turned back by a right angle.
  plain = datasets.create('digits').source
  known = np.concatenate([plain.train.images, plain.test.images])
  turned = np.rot90(train.images[train.domains == 1], -1, axes=(1, 2))
  upright = train.images[train.domains == 0]
  own = {image.tobytes() for image in (*turned, *upright)}
  assert len(own) > 1190  # a few digits are written twice
  assert own <= {image.tobytes() for image in known}


def test_validation_examples_are_of_the_domains_that_are_trained_on():
  found = _create(split='validation', seed=1)
  assert len(found.evaluation.labels) == 149
  assert np.unique(found.evaluation.domains).tolist() == [0, 1, 2, 3, 4]
  assert len(found.train.domains) == len(found.train.labels) == 1349


def test_batches_have_the_domain_of_each_example():
  train = _create().train
  batch = next(datasets.train_batches(train, 16, seed=0))
  known = {
    image.tobytes(): domain
    for image, domain in zip(train.images, train.domains, strict=True)
  }
  assert batch['domain'].dtype == np.int32
  assert batch['domain'].tolist() == [
    known[i.tobytes()] for i in batch['image']
  ]
  assert 'domain' not in next(datasets.eval_batches(train, 16))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'held_out': 10.0}, 'held_out is 10; it must be one of the angles, 0, 15'),
    ({'angles': (0, 0, 75)}, 'angles are 0, 0, 75; each must be'),
    ({'angles': (0, 75)}, 'there are 2 angles; give 3 to 100'),
    ({'directory': 'here'}, 'come with scikit-learn'),
  ],
)
def test_what_makes_no_domains_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    _create(**options)
