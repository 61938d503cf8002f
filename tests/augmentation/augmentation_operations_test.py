"""The operations of AutoAugment, against the official ones."""

import collections
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.augmentation import auto, operations
from tests import reference

_apply = jax.jit(operations.apply)
_REACH = {
  'aa': auto.Reach(translate=250, cutout=100),
  'ra': auto.Reach(translate=100, cutout=40),
}
# Largest share of pixels that may differ, and by how many levels. Official
# results are one less where rounded products fall short of a whole number, and
# a shear of .3 rounds eight middles between two pixels the other way.
_TOLERANCE = collections.defaultdict(lambda: (0, 0)) | {
  'Sharpness': (0.02, 1),
  'ShearX': (0.008, 255),
  'ShearY': (0.008, 255),
}


def _images(n=6, height=24, width=20, channels=3):
  rng = np.random.default_rng(0)
  shape = (n, height, width, channels)
  return jnp.asarray(rng.integers(0, 256, shape, np.uint8))


def _stack(instructions):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *instructions)


def _run(images, arguments, centers=None):
  """Applies (name, argument) to each image, at centres or in the middle."""
  height, width = images.shape[1:3]
  instructions = _stack(
    [operations.encode(*pair, height, width) for pair in arguments]
  )
  if centers is None:
    centers = [[height // 2, width // 2]] * len(images)
  return np.asarray(
    _apply(images, instructions, jnp.asarray(centers, jnp.int32))
  )


def _cases():
  return reference.load_json('aug_ops.json')['cases']


def _argument(case):
  """The case's argument without the rounding of its binary fraction."""
  numbers = [a for a in case['args'] if not isinstance(a, list)]
  return Fraction(str(round(numbers[0], 6))) if numbers else 0


def _official(name):
  """Our and the official result of each case of an operation."""
  arrays = reference.load('aug_ops.npz')
  for case in _cases():
    if case['op'] == name:
      image = jnp.asarray(arrays[f'in/{case["image"]}'])[None]
      center = [case['center_hw'] or (0, 0)]
      ours = _run(image, [(name, _argument(case))], center)[0]
      yield case, ours.astype(int), arrays[case['key']].astype(int)


@pytest.mark.parametrize('name', operations.NAMES)
def test_operations_are_the_official_ones(name):
  share, levels = _TOLERANCE[name]
  count = 0
  for case, ours, official in _official(name):
    if (name, _argument(case)) == ('Solarize', 256):
      continue  # see below
    count += 1
    difference = np.abs(ours - official)
    assert difference.max() <= levels, case['key']
    assert (difference > 0).any(axis=-1).mean() <= share, case['key']
  assert count >= 3


def test_solarizing_at_256_changes_nothing_and_officially_all():
  """256 does not fit the official uint8: it becomes 0, which inverts."""
  cases = [c for c in _official('Solarize') if _argument(c[0]) == 256]
  assert len(cases) == 5
  arrays = reference.load('aug_ops.npz')
  for case, ours, official in cases:
    np.testing.assert_array_equal(ours, arrays[f'in/{case["image"]}'])
    np.testing.assert_array_equal(official, 255 - ours)


@pytest.mark.parametrize('hparams', ['aa', 'ra'])
def test_levels_mean_what_they_do_officially(hparams):
  table = reference.load_json('aug_ops.json')
  rows = table['level_to_arg'][hparams]
  assert sorted(rows) == sorted(operations.NAMES)
  for name, levels in rows.items():
    for level, arguments in enumerate(levels):
      ours = auto.argument(name, level, _REACH[hparams])
      expected = arguments[0] if arguments else 0
      assert float(ours) == pytest.approx(expected, abs=1e-12), (name, level)


def test_each_image_follows_its_own_instruction():
  arguments = [
    ('Rotate', 20),
    ('Equalize', 0),
    ('Sharpness', 1.5),
    ('Cutout', 2),
    ('Color', 0.3),
    ('AutoContrast', 0),
  ]
  images = _images()
  together = _run(images, arguments)
  for i, pair in enumerate(arguments):
    alone = _run(images[i : i + 1], [pair])
    np.testing.assert_array_equal(together[i], alone[0])
  assert not (together == images).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize('name', operations.NAMES)
def test_one_channel_is_treated_like_each_of_three(name):
  images = _images()
  argument = auto.argument(name, 7, auto.Reach(3, 2))
  colored, grey = (
    _run(x, [(name, argument)] * 6) for x in (images, images[..., :1])
  )
  if name == 'Color':
    np.testing.assert_array_equal(grey, images[..., :1])
  else:
    np.testing.assert_array_equal(grey, colored[..., :1])
    assert (grey != images[..., :1]).any()


@pytest.mark.parametrize('height', [1, 2])
def test_tiny_images_go_through_all_operations(height):
  images = _images(len(operations.NAMES), height, 1)
  arguments = [
    (name, auto.argument(name, 5, auto.Reach(1, 1)))
    for name in operations.NAMES
  ]
  assert _run(images, arguments).shape == images.shape


@pytest.mark.slow
def test_every_program_gives_the_same_bits():
  images = _images(len(operations.NAMES), 8, 8)
  instructions = _stack(
    operations.encode(name, auto.argument(name, 8, auto.Reach(3, 2)), 8, 8)
    for name in operations.NAMES
  )
  centers = jnp.full((len(images), 2), 3)
  jitted = _apply(images, instructions, centers)
  mapped = jax.jit(jax.vmap(operations.apply))(
    *jax.tree.map(
      lambda x: x.reshape(4, 4, *x.shape[1:]), (images, instructions, centers)
    )
  )
  np.testing.assert_array_equal(mapped.reshape(jitted.shape), jitted)


def test_rotating_by_90_degrees_is_exact():
  images = _images(height=6, width=6)
  rotated = _run(images, [('Rotate', 90)] * 6)
  np.testing.assert_array_equal(rotated, np.rot90(images, axes=(1, 2)))
