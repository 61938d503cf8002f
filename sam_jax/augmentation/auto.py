"""AutoAugment and RandAugment: random operations of a policy, per image."""

from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import lookup
from sam_jax.augmentation import draws, operations, policies

_MAX_LEVEL = 10
# Of a translation of level 10, in the authors' first code for images of 32
# pixels; half the side of its cutout, too.
_CIFAR_SHARE = Fraction(10, 32)
# Probabilities are compared with as many random bits.
_PROBABILITY_BITS = 24


class Reach(NamedTuple):
  """How far operations of level 10 go.

  Attributes:
    translate: pixels of a translation.
    cutout: half the side of a cutout, in pixels.
  """

  translate: float | Fraction
  cutout: float | Fraction


class _Program(NamedTuple):
  """A policy for images of one size, in arrays.

  Attributes:
    instructions: with axes [sub-policies, operations, signs].
    thresholds: uint32 [sub-policies, operations]; an operation is done if
      a draw of 24 bits is below.
  """

  instructions: operations.Instruction
  thresholds: np.ndarray


_OFFICIAL = {
  'autoaugment': Reach(translate=250, cutout=100),
  'randaugment': Reach(translate=100, cutout=40),
}
# What RandAugment chooses from.
RANDAUGMENT = operations.NAMES
CONSTANTS = ('cifar', 'official')


def autoaugment(
  key: jax.Array,
  images: jax.Array,
  positions: jax.Array,
  *,
  policy: str,
  constants: str,
) -> jax.Array:
  """Does a randomly chosen sub-policy of AutoAugment to each image.

  Args:
    key: the same for the whole step.
    images: uint8 [n, height, width, channels].
    positions: int32 [n], places of the images in the global batch.
    policy: 'cifar', 'imagenet' or 'svhn'.
    constants: 'official': translations of up to 250 pixels and cutouts of up
      to 200, whatever the size of the images. 12 % of CIFAR's images are blank
      after that. 'cifar': up to 10/32 and 20/32 of the shorter side.

  Returns:
    Images of the same shape and dtype.

  Source: Cubuk et al. 2019, official autoaugment/autoaugment.py.
  """
  reach = _reach('autoaugment', constants, images)
  return _distort(key, images, positions, policies.BY_NAME[policy], reach)


def randaugment(
  key: jax.Array,
  images: jax.Array,
  positions: jax.Array,
  *,
  num_layers: int,
  magnitude: int,
  constants: str,
) -> jax.Array:
  """Does a few randomly chosen operations to each image, one after the other.

  Args:
    key: the same for the whole step.
    images: uint8 [n, height, width, channels].
    positions: int32 [n], places of the images in the global batch.
    num_layers: how many operations, N in the paper.
    magnitude: level of all of them, M in the paper; 10 is AutoAugment's limit.
    constants: see `autoaugment`; the 'official' ones are 100 and 40 here.

  Returns:
    Images of the same shape and dtype.

  Source: Cubuk et al. 2020, official autoaugment/autoaugment.py.
  """
  reach = _reach('randaugment', constants, images)
  policy = tuple(((name, 1.0, magnitude),) for name in RANDAUGMENT)
  for layer in range(num_layers):
    layer_key = jax.random.fold_in(key, layer)
    images = _distort(layer_key, images, positions, policy, reach)
  return images


def argument(name: str, level: int, reach: Reach) -> Fraction | int:
  """Returns what a level means for an operation.

  Args:
    name: one of `operations.NAMES`.
    level: from 0 to 10; RandAugment's may be more.
    reach: of level 10.

  Returns:
    What `operations.encode` takes, never negative.

  Source: official autoaugment/autoaugment.py (`level_to_arg`).
  """
  share = Fraction(level, _MAX_LEVEL)
  match name:
    case 'Rotate':
      return 30 * share
    case 'ShearX' | 'ShearY':
      return share * 3 / 10
    case 'TranslateX' | 'TranslateY':
      return share * Fraction(reach.translate)
    case 'Cutout':
      return int(share * Fraction(reach.cutout))
    case 'Posterize':
      return int(4 * share)
    case 'Solarize':
      return int(256 * share)
    case 'SolarizeAdd':
      return int(110 * share)
    case 'Color' | 'Contrast' | 'Brightness' | 'Sharpness':
      return (18 * share + 1) / 10
    case _:
      return 0


def _reach(name: str, constants: str, images: jax.Array) -> Reach:
  """Returns what level 10 means for these images."""
  if constants == 'official':
    return _OFFICIAL[name]
  side = min(images.shape[1:3])
  return Reach(_CIFAR_SHARE * side, _CIFAR_SHARE * side)


def _distort(
  key: jax.Array,
  images: jax.Array,
  positions: jax.Array,
  policy: policies.Policy,
  reach: Reach,
) -> jax.Array:
  """Does one sub-policy to each image."""
  _, height, width, _ = images.shape
  program = _compile(policy, reach, height, width)
  depth = program.thresholds.shape[1]
  # A word to choose by, then those of each operation.
  bits = draws.example_bits(key, positions, 1 + 4 * depth)
  choice = bits[:, 0] % len(policy)
  for i in range(depth):
    chance, sign = bits[:, 1 + 4 * i], bits[:, 2 + 4 * i]
    centers = draws.places(bits[:, 3 + 4 * i : 5 + 4 * i], height, width)
    instructions = jax.tree.map(
      lambda table, i=i, sign=sign: jnp.asarray(table)[choice, i, sign % 2],
      program.instructions,
    )
    distorted = operations.apply(images, instructions, centers)
    threshold = jnp.asarray(program.thresholds)[choice, i]
    is_done = chance >> (32 - _PROBABILITY_BITS) < threshold
    images = jnp.where(is_done[:, None, None, None], distorted, images)
  return images


def _compile(
  policy: policies.Policy, reach: Reach, height: int, width: int
) -> _Program:
  """Returns the arrays of a policy for images of one size."""

  def both(name: str, level: int) -> operations.Instruction:
    size = argument(name, level, reach)
    other = -size if name in operations.SIGNED else size
    return _stack(
      [operations.encode(name, x, height, width) for x in (size, other)]
    )

  return _Program(
    _stack(
      [_stack([both(name, level) for name, _, level in sub]) for sub in policy]
    ),
    np.array(
      [[round(p * 2**_PROBABILITY_BITS) for _, p, _ in sub] for sub in policy],
      np.uint32,
    ),
  )


def _stack(
  instructions: list[operations.Instruction],
) -> operations.Instruction:
  """Stacks instructions along a new first axis."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *instructions)


def check(policy: str, constants: str, num_layers: int, magnitude: int) -> None:
  """Raises ValueError unless `autoaugment` and `randaugment` take these."""
  lookup.check('augmentation policy', policy, sorted(policies.BY_NAME))
  lookup.check('augmentation constants', constants, CONSTANTS)
  if num_layers < 1 or not 0 <= magnitude <= 30:
    raise ValueError(
      f'num_layers is {num_layers} and magnitude {magnitude}; RandAugment '
      'takes at least one layer, and a magnitude from 0 to 30'
    )
