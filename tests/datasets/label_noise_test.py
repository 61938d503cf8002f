"""Label noise: how many, which, and to what."""

import numpy as np
import pytest

from sam_jax.datasets import label_noise


def _labels(num=2000, num_classes=10):
  return np.random.default_rng(5).integers(
    num_classes, size=num, dtype=np.int32
  )


CONFUSIONS = {1: 4, 2: 1, 4: 1}


def _corrupt(labels, fraction, kind='symmetric', num_classes=10, seed=0):
  return label_noise.corrupt(
    labels,
    fraction,
    kind=kind,
    num_classes=num_classes,
    seed=seed,
    confusions=CONFUSIONS,
  )


@pytest.mark.parametrize('num_classes', [2, 10])
@pytest.mark.parametrize('fraction', [0.0, 0.1, 0.333, 0.8, 1.0])
def test_symmetric_noise_makes_exactly_that_fraction_wrong(
  fraction, num_classes
):
  labels = _labels(997, num_classes)
  noisy = _corrupt(labels, fraction, num_classes=num_classes)
  assert (noisy != labels).sum() == round(fraction * 997)
  assert noisy.dtype == np.int32
  assert set(np.unique(noisy)) <= set(range(num_classes))


def test_symmetric_noise_is_uniform_over_the_other_classes():
  labels = np.full(9000, 3, np.int32)
  counts = np.bincount(_corrupt(labels, 1.0), minlength=10)
  assert counts[3] == 0
  # 1000 each with a standard deviation of 30: five of them.
  assert np.abs(np.delete(counts, 3) - 1000).max() < 150


def test_uniform_noise_redraws_over_all_classes():
  labels = np.full(10000, 3, np.int32)
  counts = np.bincount(_corrupt(labels, 1.0, 'uniform'), minlength=10)
  # The true class included. 1000 each, standard deviation 30: five of them.
  assert np.abs(counts - 1000).max() < 150


def test_uniform_noise_leaves_a_tenth_of_the_redrawn_right():
  labels = _labels(10000)
  wrong = (_corrupt(labels, 0.4, 'uniform') != labels).sum()
  # 3600 expected, standard deviation sqrt(4000 * .9 * .1) = 19: five of them.
  assert abs(wrong - 3600) < 95


def test_asymmetric_noise_mistakes_some_classes_for_one_each():
  labels = _labels(30000)
  noisy = _corrupt(labels, 0.4, 'asymmetric')
  assert noisy.dtype == np.int32
  for label in range(10):
    counts = np.bincount(noisy[labels == label], minlength=10)
    share = counts / counts.sum()
    expected = np.zeros(10)
    wrong = 0.4 if label in CONFUSIONS else 0
    expected[CONFUSIONS.get(label, label)] += wrong
    expected[label] += 1 - wrong
    # 3000 of each class: five standard deviations of .009.
    np.testing.assert_allclose(share, expected, atol=0.045 if wrong else 0)


def test_asymmetric_noise_needs_classes_that_look_alike():
  with pytest.raises(ValueError, match='this data set does not say'):
    label_noise.corrupt(
      _labels(), 0.4, kind='asymmetric', num_classes=10, seed=0
    )


@pytest.mark.parametrize('kind', ['symmetric', 'uniform', 'asymmetric'])
def test_more_noise_contains_less_noise(kind):
  labels = _labels()
  little, much = (_corrupt(labels, f, kind) for f in (0.2, 0.6))
  changed = little != labels
  assert changed.any()
  np.testing.assert_array_equal(much[changed], little[changed])


def test_the_seed_decides_and_the_argument_is_left_alone():
  labels = _labels()
  before = labels.copy()
  first, again, other = (_corrupt(labels, 0.4, seed=s) for s in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert (first != other).mean() > 0.3
  np.testing.assert_array_equal(labels, before)


def test_wrong_labels_are_spread_over_the_whole_set():
  labels = _labels()
  wrong = (_corrupt(labels, 0.4) != labels).reshape(10, 200).sum(axis=1)
  # 80 per tenth, standard deviation below 7: five of them.
  assert np.abs(wrong - 80).max() < 35


@pytest.mark.parametrize('fraction', [-0.1, 1.1, float('nan')])
def test_a_fraction_outside_of_0_and_1_is_refused(fraction):
  with pytest.raises(ValueError, match=r'in \[0, 1\]'):
    _corrupt(_labels(), fraction)


def test_an_unknown_kind_is_refused_with_the_known_ones():
  with pytest.raises(
    ValueError, match="'pair'.*asymmetric, symmetric, uniform"
  ):
    _corrupt(_labels(), 0.1, 'pair')


def test_symmetric_noise_needs_two_classes():
  with pytest.raises(ValueError, match='at least 2 classes'):
    _corrupt(np.zeros(10, np.int32), 0.1, num_classes=1)
