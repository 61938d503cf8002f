"""Random augmentation of uint8 images, as a config names it.

Every random number is keyed by the step's key and, unless it is shared by the
whole batch, by the example's position in the global batch. So the result does
not depend on how a batch is cut over devices and microbatches.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sam_jax import lookup
from sam_jax.augmentation import auto, draws, pixels

AugmentFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

_LARGEST = 2**15  # pixels of a side, twice which is an int32

# One stream per operation, so that switching one does not change another.
_WEAK_STREAM = 0
_CUTOUT_STREAM = 1
_POLICY_STREAM = 2


class _Recipe(NamedTuple):
  """What is done to an image before normalization.

  Attributes:
    policy: 'autoaugment', 'randaugment' or None.
    is_weak: whether the image is flipped and cropped at random, too.
  """

  policy: str | None
  is_weak: bool


_RECIPES = {
  'aa-only': _Recipe('autoaugment', is_weak=False),
  'autoaugment': _Recipe('autoaugment', is_weak=True),
  'basic': _Recipe(None, is_weak=True),
  'none': _Recipe(None, is_weak=False),
  'randaugment': _Recipe('randaugment', is_weak=True),
}


def create(
  name: str,
  *,
  mean: Sequence[float],
  std: Sequence[float],
  padding: int = 4,
  policy: str = 'cifar',
  constants: str = 'official',
  num_layers: int = 2,
  magnitude: int = 9,
  cutout_length: int = 0,
  cutout_per: str = 'batch',
) -> AugmentFn:
  """Returns the augmentation of training images.

  Args:
    name: 'none'; 'basic', a horizontal flip with probability 1/2, padding by
      reflection and a random crop back to size; 'autoaugment' or 'randaugment',
      which come before 'basic'; or 'aa-only', AutoAugment without it (official
      for SVHN).
    mean: of each channel, for images scaled to [0, 1].
    std: likewise.
    padding: pixels on each side before the random crop, official 4; 0 flips
      only, as is official where training images are cut from larger ones.
    policy: of AutoAugment: 'cifar', 'imagenet' or 'svhn'.
    constants: 'official' or 'cifar', see `auto.autoaugment`.
    num_layers: operations of RandAugment per image, official 2.
    magnitude: their level, official 9.
    cutout_length: side in pixels of a square that is set to zero after
      normalization, cut off at the border; 0 for none, official 16.
    cutout_per: 'batch' draws one centre for the whole global batch (official),
      'example' one for each image (DeVries and Taylor 2017).

  Returns:
    A pure function `(key, images, positions) -> float32 images` for use under
    jit, vmap and shard_map: `key` a typed key, the same for the whole step,
    `images` uint8 [n, height, width, channels], `positions` int32 [n] the
    places of the images in the global batch.

  Raises:
    ValueError: an unknown name or a number out of range; says which.

  Source: official sam_jax/datasets/augmentation.py. Differs from the official
  release: 'batch' there is the batch of one host, and nothing is seeded.

  Example:
    >>> augment = create('basic', mean=(0.5,), std=(0.25,), cutout_length=4)
    >>> images = jnp.zeros((2, 8, 8, 1), jnp.uint8)
    >>> augment(jax.random.key(0), images, jnp.arange(2)).shape
    (2, 8, 8, 1)
  """
  lookup.check('augmentation', name, names())
  lookup.check('cutout_per', cutout_per, sorted(_CENTERS))
  auto.check(policy, constants, num_layers, magnitude)
  for what, length in (('padding', padding), ('cutout_length', cutout_length)):
    if not 0 <= length <= _LARGEST:
      raise ValueError(f'{what} is {length}; it must be in [0, {_LARGEST}]')
  if len(mean) != len(std) or min(std) <= 0:
    raise ValueError(
      f'mean is {mean} and std {std}; give one of each per channel, std > 0'
    )
  recipe, draw_centers = _RECIPES[name], _CENTERS[cutout_per]
  distortions: dict[str | None, Callable[..., jax.Array]] = {
    None: _keep,
    'autoaugment': functools.partial(
      auto.autoaugment, policy=policy, constants=constants
    ),
    'randaugment': functools.partial(
      auto.randaugment,
      num_layers=num_layers,
      magnitude=magnitude,
      constants=constants,
    ),
  }
  distort = distortions[recipe.policy]

  def augment(
    key: jax.Array, images: jax.Array, positions: jax.Array
  ) -> jax.Array:
    policy_key = jax.random.fold_in(key, _POLICY_STREAM)
    images = distort(policy_key, images, positions)
    if recipe.is_weak:
      images = _flip_and_crop(key, images, positions, padding)
    images = pixels.normalize(images, mean, std)
    if not cutout_length:
      return images
    height, width = images.shape[1:3]
    centers = draw_centers(key, positions, height, width)
    kept = pixels.cutout_mask(centers, cutout_length, height, width)
    return jnp.where(kept[..., None], images, 0)

  return augment


def names() -> list[str]:
  """Returns the names that `create` knows, sorted."""
  return sorted(_RECIPES)


def _keep(key: jax.Array, images: jax.Array, positions: jax.Array) -> jax.Array:
  """Leaves the images as they are."""
  del key, positions
  return images


def _flip_and_crop(
  key: jax.Array, images: jax.Array, positions: jax.Array, padding: int
) -> jax.Array:
  """Flips and crops at random."""
  bits = draws.example_bits(jax.random.fold_in(key, _WEAK_STREAM), positions, 3)
  return pixels.flip_and_crop(
    images,
    flips=bits[:, 0] % 2 == 1,
    offsets=(bits[:, 1:] % (2 * padding + 1)).astype(jnp.int32),
    padding=padding,
  )


def _batch_center(
  key: jax.Array, positions: jax.Array, height: int, width: int
) -> jax.Array:
  """Draws one cutout centre for all, int32 [1, 2]."""
  del positions
  bits = jax.random.bits(jax.random.fold_in(key, _CUTOUT_STREAM), (1, 2))
  return draws.places(bits, height, width)


def _example_centers(
  key: jax.Array, positions: jax.Array, height: int, width: int
) -> jax.Array:
  """Draws a cutout centre for each example, int32 [n, 2]."""
  key = jax.random.fold_in(key, _CUTOUT_STREAM)
  return draws.places(draws.example_bits(key, positions, 2), height, width)


_CENTERS: dict[str, Callable[..., jax.Array]] = {
  'batch': _batch_center,
  'example': _example_centers,
}
