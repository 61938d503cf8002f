"""Mixup and CutMix, against the official numbers and numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import datasets
from sam_jax.augmentation import mixing
from sam_jax.runs import build
from sam_jax.training import train_step
from tests import reference, tiny

_LABELS = jnp.array([0, 3, 1, 3, 2])
_KEYS = jax.random.split(jax.random.key(5), 400)


def _images(height=12, width=8):
  """Image i is i + 1 everywhere."""
  values = jnp.arange(1.0, 6)[:, None, None, None]
  return jnp.broadcast_to(values, (5, height, width, 2))


def _create(name, alpha=1.0, probability=1.0):
  mix = mixing.create(name, alpha=alpha, probability=probability, num_classes=4)
  return jax.jit(jax.vmap(mix, in_axes=(0, None, None)))


@functools.cache
def _weights(name, **arguments):
  """The share that an image keeps, by pixels and by labels, for each key."""
  images, targets = _create(name, **arguments)(_KEYS, _images(), _LABELS)
  # Image 0 of value 1 and label 0 meets image 4 of value 5 and label 2.
  by_pixels = 1 - (np.asarray(images)[:, 0].mean(axis=(1, 2, 3)) - 1) / 4
  return by_pixels, np.asarray(targets)[:, 0]


@pytest.mark.parametrize('weight', [0.3, 0.8])
def test_mixup_is_the_official_one(weight):
  arrays = reference.load('data_ops.npz')
  larger = max(weight, 1 - weight)
  np.testing.assert_allclose(
    mixing.mixup(jnp.asarray(arrays['cutout/in']), larger),
    arrays[f'mixup/image/w{weight}'],
    atol=1e-6,
  )
  labels = arrays['mixup/label_in'].argmax(axis=-1)
  np.testing.assert_allclose(
    mixing.mix_labels(jnp.asarray(labels), larger, 10),
    arrays[f'mixup/label/w{weight}'],
    atol=1e-6,
  )


@pytest.mark.parametrize('weight', [0.0, 0.13, 0.5, 0.99, 1.0])
@pytest.mark.parametrize('center', [(0, 0), (5, 7), (11, 3)])
def test_cutmix_equals_numpy(weight, center):
  images = np.asarray(_images())
  half = [int(size * np.sqrt(1 - weight)) // 2 for size in (12, 8)]
  rows, columns = (
    slice(max(c - h, 0), c + h) for c, h in zip(center, half, strict=True)
  )
  expected = images.copy()
  expected[:, rows, columns] = images[::-1, rows, columns]
  ours, kept = mixing.cutmix(
    jnp.asarray(images), jnp.float32(weight), jnp.array(center)
  )
  np.testing.assert_array_equal(ours, expected)
  share = (expected[0] == images[0]).mean()
  np.testing.assert_allclose(kept, share, rtol=1e-6)


@pytest.mark.parametrize('name', ['mixup', 'cutmix'])
def test_labels_are_mixed_as_pixels_are(name):
  by_pixels, targets = _weights(name)
  np.testing.assert_allclose(targets[:, 0], by_pixels, atol=1e-5)
  np.testing.assert_allclose(targets[:, 2], 1 - by_pixels, atol=1e-5)
  np.testing.assert_allclose(targets.sum(axis=-1), 1, atol=1e-6)
  assert len(np.unique(by_pixels)) > 20


def test_mixup_keeps_the_larger_share_of_a_beta_distribution():
  # Of Beta(1, 1), the larger share is uniform over [1/2, 1]: mean 3/4, standard
  # deviation 1 / sqrt(48), of 400 draws .0072; four of them.
  uniform, _ = _weights('mixup')
  assert abs(uniform.mean() - 0.75) < 0.029
  assert uniform.min() >= 0.5
  # Of Beta(32, 32), standard deviation 1/16, the mean is .5 + .05.
  narrow, _ = _weights('mixup', alpha=32.0)
  assert abs(narrow.mean() - 0.55) < 0.01


def test_the_weight_is_the_steps_and_the_partners_are_the_microbatchs():
  mix = mixing.create('mixup', alpha=1.0, probability=1.0, num_classes=4)
  images = jnp.stack([_images(), 10 * _images()])
  labels = jnp.stack([_LABELS, _LABELS])
  mix = jax.jit(jax.vmap(mix, in_axes=(None, 0, 0)))
  mixed, targets = mix(_KEYS[0], images, labels)
  np.testing.assert_allclose(mixed[1], 10 * mixed[0], rtol=1e-6)
  np.testing.assert_array_equal(targets[0], targets[1])


@pytest.mark.slow
def test_mixup_with_cutout_equals_numpy(monkeypatch):
  tiny.use_devices(monkeypatch, 1)
  fields = {'batch_size': 8, 'm': 8, 'microbatch_size': 4}
  fields |= {'mixing.name': 'mixup', 'augmentation.name': 'none'}
  built = build.build(
    tiny.config(**fields, **{'augmentation.cutout_length': 4})
  )
  dataset = built.dataset
  batch = next(datasets.train_batches(dataset.train, 8, seed=0))
  prepare = functools.partial(train_step.prepare, fns=built.fns)
  seen = jax.device_get(jax.jit(prepare)(batch, 3))
  normalized = (batch['image'] / 255 - dataset.mean) / dataset.std
  normalized = normalized.reshape(2, 4, *batch['image'].shape[1:])
  weight = seen['label'][0].max(axis=-1).min()
  assert 0.5 < weight < 0.99
  mixed = weight * normalized + (1 - weight) * normalized[:, ::-1]
  # One square for all, so that it is cut out of mixed images as of whole ones.
  erased = (seen['image'] == 0).all(axis=(0, 1, 4))
  rows, columns = (np.flatnonzero(erased.any(axis=axis)) for axis in (1, 0))
  assert 2 <= len(rows) <= 4
  assert 2 <= len(columns) <= 4
  assert erased[np.ix_(rows, columns)].all()
  expected = np.where(erased[:, :, None], 0, mixed)
  np.testing.assert_allclose(seen['image'], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mixup', 'cutmix'])
def test_probability_is_the_share_of_steps(name):
  # At least one pixel moves in a mixed step, but for boxes that are empty.
  always, _ = _weights(name)
  sometimes, _ = _weights(name, probability=0.25)
  always, sometimes = (always < 1).mean(), (sometimes < 1).mean()
  # Binomial: standard deviation .022, four of them.
  assert abs(sometimes / always - 0.25) < 0.09
  assert always > 0.9


def test_none_leaves_images_and_labels():
  mix = mixing.create('none', alpha=1.0, probability=1.0, num_classes=4)
  images = _images()
  mixed, labels = mix(_KEYS[0], images, _LABELS)
  assert mixed is images
  assert labels is _LABELS


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (dict(name='mixupp'), ['mixupp', "did you mean 'mixup'"]),
    (dict(alpha=0.0), ['alpha=0.0', 'positive']),
    (dict(alpha=float('nan')), ['alpha=nan', 'positive']),
    (dict(probability=1.5), ['probability=1.5', '[0, 1]']),
  ],
)
def test_bad_arguments_are_refused(arguments, words):
  with pytest.raises(ValueError) as error:
    _create(**{'name': 'mixup', **arguments})
  for word in words:
    assert word in str(error.value)
