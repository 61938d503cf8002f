"""AutoAugment and RandAugment: the official policies, fairly drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.augmentation import auto, operations, policies
from tests import reference

_KEY = jax.random.key(3)


def _images(n, size=32):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.integers(0, 256, (n, size, size, 3), np.uint8))


def _autoaugment(images, policy='cifar', constants='official', key=_KEY):
  augment = functools.partial(
    auto.autoaugment, policy=policy, constants=constants
  )
  return np.asarray(jax.jit(augment)(key, images, jnp.arange(len(images))))


def _randaugment(images, num_layers, magnitude=9, constants='official'):
  augment = functools.partial(
    auto.randaugment,
    num_layers=num_layers,
    magnitude=magnitude,
    constants=constants,
  )
  return np.asarray(jax.jit(augment)(_KEY, images, jnp.arange(len(images))))


@pytest.fixture
def use_policy(monkeypatch):
  """Makes a policy known as 'cifar'."""

  def use(*sub_policies):
    monkeypatch.setitem(policies.BY_NAME, 'cifar', sub_policies)

  return use


def test_policies_are_the_official_ones():
  official = reference.load_json('policies.json')
  assert sorted(official['policies']) == sorted(policies.BY_NAME)
  for name, policy in policies.BY_NAME.items():
    ours = [[list(operation) for operation in sub] for sub in policy]
    assert ours == official['policies'][name]
    assert len(ours) == official['num_sub_policies'][name]
  assert list(operations.NAMES) == official['randaugment_ops']


# The share of images of which nothing is left was computed from the official
# policy tables and hyper-parameters: a translation by 50 pixels or more, or a
# cutout of 60 or more, on 32.
@pytest.mark.slow
def test_official_constants_leave_nothing_of_some_small_images():
  images = _images(1500)
  for constants, expected in (('official', 0.123), ('cifar', 0)):
    augmented = _autoaugment(images, 'cifar', constants)
    # Later operations turn the constant into another one.
    is_blank = np.ptp(augmented.reshape(1500, -1, 3), axis=1).max(axis=1) == 0
    # Binomial: standard deviation .0085, three of them; three cutouts in four
    # of level 2 leave a rim.
    assert abs(is_blank.mean() - expected) < 0.026


def test_operations_are_done_with_their_probabilities(use_policy):
  use_policy((('Invert', 0.3, 0), ('Solarize', 0.6, 0)))
  # Both invert: what is left is whether one of the two was done, not both.
  images = _images(5000, 2)
  is_changed = (_autoaugment(images) != images).any(axis=(1, 2, 3))
  expected = 0.3 * 0.4 + 0.7 * 0.6
  # Binomial: standard deviation .007, four of them.
  assert abs(is_changed.mean() - expected) < 0.028


def test_never_and_always_are_meant(use_policy):
  # Solarizing at level 0 inverts as well, and would undo it.
  use_policy((('Invert', 1.0, 0), ('Solarize', 0.0, 0)))
  images = _images(5000, 2)
  np.testing.assert_array_equal(_autoaugment(images), 255 - images)


def test_sub_policies_are_equally_likely(use_policy):
  # Level 10 of each brightens all the same, so the level tells which it was.
  levels = (0, 2, 4, 6, 8)
  use_policy(*((('Brightness', 1.0, level),) for level in levels))
  images = jnp.full((20_000, 1, 1, 1), 100, jnp.uint8)
  values = _autoaugment(images).ravel()
  counts = np.array([(values == 10 + 18 * k).sum() for k in levels])
  assert counts.sum() == 20_000
  # Binomial: standard deviation 57, four of them.
  assert np.abs(counts - 4000).max() < 228


@pytest.mark.slow
def test_signs_are_equally_likely_and_where_they_belong(use_policy):
  use_policy((('TranslateX', 1.0, 5),))
  images = jnp.broadcast_to(
    jnp.arange(32, dtype=jnp.uint8)[None, None, :, None], (10_000, 32, 32, 1)
  )
  # 5 of 32 pixels to either side; a positive one moves the image to the left.
  moved = _autoaugment(images, constants='cifar')[:, 0, 16, 0].astype(int) - 16
  assert set(moved) == {-5, 5}
  # Binomial: standard deviation .005, four of them.
  assert abs((moved == 5).mean() - 0.5) < 0.02


@pytest.mark.slow
def test_cutouts_fall_everywhere(use_policy):
  images = jnp.zeros((20_000, 8, 8, 1), jnp.uint8)
  # 10/32 of 8 pixels at level 10, so level 4 is the first to cut.
  use_policy((('Cutout', 1.0, 4),))
  cut = _autoaugment(images, constants='cifar')[..., 0] == operations.FILL
  assert set(cut.sum(axis=(1, 2))) == {1, 2, 4}
  corners = {tuple(np.argwhere(c).max(axis=0)) for c in cut[:2000]}
  assert corners == {(y, x) for y in range(8) for x in range(8)}


@pytest.mark.slow
def test_randaugment_draws_all_operations_alike():
  images = _images(1600, 16)
  augmented = _randaugment(images, num_layers=1)
  is_result = {}
  for name in operations.NAMES:
    size = auto.argument(name, 9, auto.Reach(translate=100, cutout=40))
    sizes = (size, -size) if name in operations.SIGNED else (size,)
    is_result[name] = np.any(
      [
        (_single(images, name, x) == augmented).all(axis=(1, 2, 3))
        for x in sizes
      ],
      axis=0,
    )
  assert np.any(list(is_result.values()), axis=0).all()
  # A cutout of 72 pixels leaves nothing, and so do the translations.
  blanks = ('Cutout', 'TranslateX', 'TranslateY')
  for name, found in is_result.items():
    # Binomial: standard deviations 10 and 16, four of them.
    expected, slack = (300, 64) if name in blanks else (100, 40)
    assert abs(found.sum() - expected) < slack, name


def _single(images, name, argument):
  """One operation on all images."""
  instruction = operations.encode(name, argument, *images.shape[1:3])
  n = len(images)
  instructions = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (n, *np.shape(x))), instruction
  )
  centers = jnp.full((n, 2), images.shape[1] // 2)
  return np.asarray(jax.jit(operations.apply)(images, instructions, centers))


@pytest.mark.slow
def test_randaugment_does_its_layers_one_after_the_other(monkeypatch):
  # Every operation inverts, so an even number of layers changes nothing.
  monkeypatch.setattr(auto, 'RANDAUGMENT', ('Invert', 'Equalize'))
  images = _images(4000, 4)  # too few pixels to be equalized
  shares = [
    (_randaugment(images, layers) != images).any(axis=(1, 2, 3)).mean()
    for layers in (1, 2)
  ]
  # Each layer inverts every other image, independently of the other layer.
  assert shares == pytest.approx([0.5, 0.5], abs=0.04)


@pytest.mark.slow
def test_randaugment_takes_magnitudes_beyond_ten():
  images = _images(64, 16)
  augmented = _randaugment(images, 2, 30, 'cifar')
  assert augmented.dtype == np.uint8
  assert (augmented != images).any()
