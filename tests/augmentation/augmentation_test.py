"""Augmentation: the official operations, keyed by position."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from sam_jax import augmentation, datasets
from tests import reference

_MEAN, _STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
_KEY = jax.random.key(11)
_NUM = 24
_POSITIONS = jnp.arange(_NUM)


def _images(num=_NUM, size=32):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.integers(0, 256, (num, size, size, 3), np.uint8))


def _create(name='basic', **arguments):
  return jax.jit(augmentation.create(name, mean=_MEAN, std=_STD, **arguments))


def _erased(images):
  """Where an image is zero in all channels: cut out, as none is by chance."""
  return np.asarray((images == 0).all(axis=-1))


# The deterministic operations against the official numbers.


def test_cutout_masks_are_the_official_ones():
  arrays = reference.load('data_ops.npz')
  masks = reference.select(arrays, 'cutout/mask')
  assert len(masks) == 16 + 2
  for tag, mask in masks.items():
    length, row, column = map(int, re.findall(r'\d+', tag))
    kept = augmentation.cutout_mask(jnp.array([row, column]), length, 32, 32)
    np.testing.assert_array_equal(kept, mask == 1, err_msg=tag)


def test_cutout_masks_of_many_centers_are_those_of_each():
  centers = jnp.array([[[0, 0], [5, 31]], [[16, 3], [31, 31]]])
  masks = augmentation.cutout_mask(centers, 16, 32, 20)
  assert masks.shape == (2, 2, 32, 20)
  for index in np.ndindex(2, 2):
    alone = augmentation.cutout_mask(centers[index], 16, 32, 20)
    np.testing.assert_array_equal(masks[index], alone)


def test_flip_and_crop_is_the_official_weak_augmentation():
  arrays = reference.load('data_ops.npz')
  outputs = reference.select(arrays, 'weak/out')
  assert len(outputs) == 8
  numbers = [list(map(int, re.findall(r'\d+', tag))) for tag in outputs]
  flips = jnp.array([flip == 1 for flip, _, _ in numbers])
  offsets = jnp.array([offset for _, *offset in numbers])
  images = jnp.repeat(jnp.asarray(arrays['weak/in'])[None], 8, axis=0)
  ours = augmentation.flip_and_crop(images, flips, offsets)
  assert ours.dtype == jnp.uint8
  np.testing.assert_array_equal(ours, np.stack(list(outputs.values())))


@pytest.mark.parametrize('padding', [0, 2])
def test_flip_and_crop_equals_numpy_on_a_rectangle(padding):
  images = np.asarray(_images(9, 12))[:, :, :8]
  rng = np.random.default_rng(1)
  flips = rng.random(9) < 0.5
  offsets = rng.integers(0, 2 * padding + 1, (9, 2))
  expected = []
  for image, flip, (row, column) in zip(images, flips, offsets, strict=True):
    image = image[:, ::-1] if flip else image
    pads = ((padding, padding), (padding, padding), (0, 0))
    padded = np.pad(image, pads, 'reflect')
    expected.append(padded[row : row + 12, column : column + 8])
  flip_and_crop = jax.jit(augmentation.flip_and_crop, static_argnames='padding')
  ours = flip_and_crop(images, flips, offsets, padding=padding)
  np.testing.assert_array_equal(ours, np.stack(expected))


@pytest.mark.parametrize(
  ('name', 'ours'),
  [('cifar10', 'cifar10'), ('cifar100', 'cifar100'), ('svhn', 'svhn_cropped')],
)
def test_normalize_gives_the_official_batches(name, ours, monkeypatch):
  arrays = reference.load('data_preprocess.npz')
  raw = arrays[f'{name}/raw']
  examples = datasets.Examples(
    np.repeat(raw, 5, axis=0), np.zeros(20, np.int32)
  )
  monkeypatch.setattr(
    'sam_jax.datasets.tfds_arrays.load',
    lambda name, splits, directory, alternative='': [examples] * len(splits),
  )
  dataset = datasets.create(ours)
  images = augmentation.normalize(jnp.asarray(raw), dataset.mean, dataset.std)
  # Values up to 3; float32 with the same three operations.
  np.testing.assert_allclose(
    images, arrays[f'{name}/preprocessed'], rtol=0, atol=1e-6
  )


def test_normalize_gives_the_official_fashion_mnist_batch():
  arrays = reference.load('data_preprocess.npz')
  images = augmentation.normalize(
    jnp.asarray(arrays['fashion_mnist/raw']), (0.1307,), (0.3081,)
  )
  np.testing.assert_allclose(
    images, arrays['fashion_mnist/preprocessed'], rtol=0, atol=1e-6
  )
  assert images.dtype == jnp.float32


def test_normalize_gives_the_same_bits_in_every_program():
  # A fused multiply and add would round once less here and there.
  images = _images()
  shift = np.float32(255 * np.asarray(_MEAN))
  scale = np.float32(1 / (255 * np.asarray(_STD)))
  expected = (np.asarray(images).astype(np.float32) - shift) * scale
  normalize = functools.partial(augmentation.normalize, mean=_MEAN, std=_STD)
  for run in (normalize, jax.jit(normalize), jax.jit(jax.vmap(normalize))):
    np.testing.assert_array_equal(run(images), expected)


# Resizing.


@pytest.mark.parametrize('size', [48, 21])
def test_resize_is_the_official_one(size):
  arrays = reference.load('data_ops.npz')
  images = jnp.asarray(arrays['resize/in'])
  expected = arrays[f'resize/out{size}']
  resized = jax.jit(augmentation.resize, static_argnums=1)(images, size)
  assert resized.dtype == jnp.float32
  # A weight from a table of 1,024 steps may be its neighbour.
  scale = np.abs(expected).max()
  np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize('resolution', [None, 12])
def test_resize_leaves_images_that_have_the_size(resolution):
  images = jnp.float32(_images(3, 12))
  assert augmentation.resize(images, resolution) is images


@pytest.mark.parametrize(('size', 'channels'), [(5, 3), (31, 1)])
def test_resize_makes_squares_of_constant_rectangles(size, channels):
  """Each image and channel keeps its own value, up to the border."""
  values = jnp.arange(1.0, 1 + 2 * channels).reshape(2, 1, 1, channels)
  images = jnp.broadcast_to(values, (2, 12, 9, channels))
  expected = jnp.broadcast_to(values, (2, size, size, channels))
  # Four weights a side that sum to one, in float32.
  np.testing.assert_allclose(
    augmentation.resize(images, size), expected, rtol=1e-6
  )


def test_resize_treats_rows_and_columns_apart():
  """An image that varies along one axis only still does so, and alike."""
  ramp = jnp.float32(np.random.default_rng(3).normal(size=10))
  upright = jnp.broadcast_to(ramp[None, :, None, None], (1, 10, 7, 1))
  lying = jnp.broadcast_to(ramp[None, None, :, None], (1, 7, 10, 1))
  rows, columns = (
    np.asarray(augmentation.resize(images, 16))[0, :, :, 0]
    for images in (upright, lying)
  )
  np.testing.assert_allclose(rows, columns.T, rtol=0, atol=1e-5)
  np.testing.assert_allclose(
    rows, np.repeat(rows[:, :1], 16, axis=1), rtol=0, atol=1e-5
  )
  assert np.ptp(rows[:, 0]) > 1


def test_resize_aligns_the_upper_left_corners_of_the_pixels():
  # Twice as large: every other pixel is an old one, the first one too.
  images = jnp.float32(_images(2, 8))
  resized = augmentation.resize(images, 16)
  np.testing.assert_allclose(resized[:, ::2, ::2], images, rtol=1e-6)


# The random part.


def test_none_only_normalizes():
  images = _images()
  np.testing.assert_array_equal(
    _create('none')(_KEY, images, _POSITIONS),
    augmentation.normalize(images, _MEAN, _STD),
  )


def test_every_flip_and_offset_occurs_as_often_as_it_should():
  """Image pixels spell their place, so one pixel tells flip and offset."""
  num, size = 20000, 16
  place = np.arange(size * size, dtype=np.uint8).reshape(1, size, size, 1)
  images = jnp.asarray(np.broadcast_to(place, (num, size, size, 1)))
  augment = jax.jit(augmentation.create('basic', mean=(0.0,), std=(1.0,)))
  out = np.asarray(augment(_KEY, images, jnp.arange(num)))[..., 0]
  middle = np.round(out * 255).astype(int)[:, 8, 7:9]
  flipped = middle[:, 0] > middle[:, 1]
  # 16 x 16 places, so 16 to a row; the pixel at (8, 8) is (8, 8) unmoved.
  rows, columns = np.divmod(middle[:, 1], size)
  offsets = np.stack([rows, np.where(flipped, 15 - columns, columns)]) - 4
  assert flipped.dtype == bool
  # Binomial: standard deviation 71, five of them.
  assert abs(flipped.sum() - num / 2) < 355
  counts = np.zeros((2, 9, 9))
  np.add.at(counts, (flipped.astype(int), *offsets), 1)
  # 162 equally likely outcomes, 123 each, standard deviation 11: 5.5 of them.
  assert np.abs(counts - num / 162).max() < 61


@pytest.mark.parametrize(
  ('name', 'cutout_per'),
  [
    ('basic', 'batch'),
    ('basic', 'example'),
    pytest.param('autoaugment', 'batch', marks=pytest.mark.slow),
    pytest.param('randaugment', 'example', marks=pytest.mark.slow),
  ],
)
def test_the_result_does_not_depend_on_how_the_batch_is_cut(name, cutout_per):
  augment = _create(name, cutout_length=16, cutout_per=cutout_per)
  images = _images()
  whole = augment(_KEY, images, _POSITIONS)
  pieces = jax.jit(jax.vmap(augment, in_axes=(None, 0, 0)))(
    _KEY, images.reshape(3, 8, 32, 32, 3), _POSITIONS.reshape(3, 8)
  )
  np.testing.assert_array_equal(pieces.reshape(whole.shape), whole)


def test_the_result_is_the_same_under_shard_map():
  augment = _create(cutout_length=16, cutout_per='example')
  mesh = jax.make_mesh(
    (8,), ('device',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  rows = PartitionSpec('device')
  sharded = jax.jit(
    jax.shard_map(
      augment,
      mesh=mesh,
      in_specs=(PartitionSpec(), rows, rows),
      out_specs=rows,
    )
  )
  images = _images()
  np.testing.assert_array_equal(
    sharded(_KEY, images, _POSITIONS),
    augment(_KEY, images, _POSITIONS),
  )


def test_an_image_is_keyed_by_its_position_and_not_by_its_row():
  augment = _create(cutout_length=16, cutout_per='example')
  images, order = (
    _images(),
    jnp.asarray(np.random.default_rng(2).permutation(24)),
  )
  whole = augment(_KEY, images, _POSITIONS)
  np.testing.assert_array_equal(
    augment(_KEY, images[order], _POSITIONS[order]), whole[order]
  )


def test_another_key_gives_another_augmentation():
  images = _images()
  augment = _create(cutout_length=16)
  first, again, other = (
    augment(jax.random.key(seed), images, _POSITIONS) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any(axis=(1, 2, 3)).all()
  assert (_erased(first) != _erased(other)).any()


def test_cutout_per_batch_erases_one_square_for_all():
  images = _images()
  plain = _create()(_KEY, images, _POSITIONS)
  cut = _create(cutout_length=16)(_KEY, images, _POSITIONS)
  erased = _erased(cut)
  assert 64 <= erased[0].sum() <= 256
  assert (erased == erased[:1]).all()
  # And nothing else changes: flips and crops are drawn from another stream.
  np.testing.assert_array_equal(
    cut, jnp.where(erased[..., None], jnp.float32(0), plain)
  )


def test_cutout_per_example_erases_a_square_of_each_image():
  images = _images()
  cut = _create(cutout_length=16, cutout_per='example')(
    _KEY, images, _POSITIONS
  )
  erased = _erased(cut)
  areas = erased.sum(axis=(1, 2))
  assert ((64 <= areas) & (areas <= 256)).all()
  # 24 of 1024 centres; masks of different centres differ.
  assert len(np.unique(erased.reshape(_NUM, -1), axis=0)) >= _NUM - 3


@pytest.mark.parametrize('cutout_per', ['batch', 'example'])
def test_cutout_centers_reach_every_row_and_column(cutout_per):
  augment = _create('none', cutout_length=2, cutout_per=cutout_per)
  images = _images(8, 6)[:, :, :5]
  run = jax.jit(jax.vmap(augment, in_axes=(0, None, None)))
  keys = jax.random.split(_KEY, 100)
  erased = _erased(run(keys, images, jnp.arange(8)))[:, 0]
  # A centre (r, c) erases rows r-1, r and columns c-1, c, so (0, 0) alone
  # leaves one pixel; all 30 places in 100 draws: missing one has odds of 3 %
  # each, so ask for most.
  places = {tuple(np.argwhere(mask).max(axis=0)) for mask in erased}
  assert {row for row, _ in places} == set(range(6))
  assert {column for _, column in places} == set(range(5))
  assert len(places) > 24


def test_the_place_of_the_cutout_tells_nothing_about_flip_and_crop():
  num, size = 2000, 16
  place = np.arange(size * size, dtype=np.uint8).reshape(1, size, size, 1)
  images = jnp.asarray(np.broadcast_to(place, (num, size, size, 1)))
  plain, cut = (
    np.asarray(
      jax.jit(
        augmentation.create(
          'basic',
          mean=(-1.0,),  # so that no pixel is zero before the cutout
          std=(1.0,),
          cutout_length=length,
          cutout_per='example',
        )
      )(_KEY, images, jnp.arange(num))
    )[..., 0]
    for length in (0, 2)
  )
  flipped = plain[:, 8, 7] > plain[:, 8, 8]
  # The last erased row is that of the centre.
  row = size - 1 - (cut == 0).any(axis=2)[:, ::-1].argmax(axis=1)
  # One word of random bits for both would give a correlation of 1. If they
  # are independent, its standard deviation is 1 / sqrt(2000): five of them.
  assert abs(np.corrcoef(row % 2, flipped)[0, 1]) < 0.11


# What is refused.


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (dict(name='autoagment'), ['autoagment', 'basic', 'none']),
    (dict(cutout_length=-1), ['cutout_length is -1']),
    (dict(cutout_per='image'), ["'image'", 'batch', 'example']),
  ],
)
def test_bad_arguments_are_refused_with_what_is_allowed(arguments, words):
  with pytest.raises(ValueError) as error:
    _create(**arguments)
  for word in words:
    assert word in str(error.value)


@pytest.mark.parametrize('std', [(0.5, 0.5), (0.0,)])
def test_constants_that_do_not_fit_are_refused(std):
  with pytest.raises(ValueError, match='std > 0'):
    augmentation.create('none', mean=(0.5,), std=std)


def test_images_too_small_to_reflect_are_refused():
  augment = _create()
  with pytest.raises(ValueError, match='4x4 pixels cannot be padded'):
    augment(_KEY, _images(2, 4), jnp.arange(2))
