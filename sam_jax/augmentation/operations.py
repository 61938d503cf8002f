"""The sixteen operations of AutoAugment and RandAugment, on batches.

An operation with its level is first made, on the host, an `Instruction` of a
few integers; `apply` then follows one instruction per image. All of it is
integer arithmetic: every program, on every kind of device, gives the same bits.

Each operation is one of three things: pixels move, values are looked up in a
table, or the image is blended with another. So an image goes through three
stages, two of which leave it as it is; a `switch` under `vmap` would take it
through all sixteen operations.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax.augmentation import pixels

# In the order of the official RandAugment.
NAMES = (
  'AutoContrast',
  'Equalize',
  'Invert',
  'Rotate',
  'Posterize',
  'Solarize',
  'Color',
  'Contrast',
  'Brightness',
  'Sharpness',
  'ShearX',
  'ShearY',
  'TranslateX',
  'TranslateY',
  'Cutout',
  'SolarizeAdd',
)
# Those whose argument changes its sign at random.
SIGNED = ('Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY')

FILL = 128  # what comes in from outside, and what is cut out
_VALUES = 256  # of a pixel

# Parts of a pixel that positions are counted in. Every shear is a whole number
# of them, so that the middle between two pixels is met where it should be.
_PIXEL = 100 * 1024
# Blending factors are counted in hundredths.
_ONE = 100

Number = float | Fraction
Array = jax.Array | np.ndarray


class Instruction(NamedTuple):
  """What `apply` does to an image.

  Attributes:
    operation: index into `NAMES`, int32 [...].
    argument: int32 [...]; bits, threshold, addition, half the side of a cutout,
      or a blending factor in hundredths.
    matrix: int32 [..., 6], (a, b, c, d, e, f): the pixel in column x and row y
      is the old one of column a x + b y + c and row d x + e y + f, all in
      1/102400 pixels.
  """

  operation: Array
  argument: Array
  matrix: Array


def encode(name: str, argument: Number, height: int, width: int) -> Instruction:
  """Returns the instruction of an operation, on the host.

  Args:
    name: one of `NAMES`.
    argument: degrees of 'Rotate', columns per row of 'ShearX', rows per column
      of 'ShearY', pixels of 'TranslateX' and 'TranslateY', bits of 'Posterize',
      threshold of 'Solarize', addition of 'SolarizeAdd', half the side of
      'Cutout', factor of 'Color', 'Contrast', 'Brightness' and 'Sharpness', in
      whole hundredths; the others have none.
    height: of the images, in pixels.
    width: likewise.
  """
  is_blend = name in ('Color', 'Contrast', 'Brightness', 'Sharpness')
  matrix = [round(_PIXEL * x) for x in _matrix(name, argument, height, width)]
  return Instruction(
    np.array(NAMES.index(name), np.int32),
    np.array(round(_ONE * argument) if is_blend else int(argument), np.int32),
    np.array(matrix, np.int32),
  )


def apply(
  images: jax.Array, instructions: Instruction, centers: jax.Array
) -> jax.Array:
  """Does to each image what its instruction says.

  Args:
    images: uint8 [n, height, width, channels].
    instructions: of n images.
    centers: int32 [n, 2]; row and column of the cutout, where it is one.

  Returns:
    Images of the same shape and dtype.

  Source: Cubuk et al. 2019; official autoaugment/autoaugment.py, whose numbers
  these are. So 'Contrast' blends with a grey that depends on the size of the
  image alone, min(height * width / 256, 255), 'Posterize' of 0 bits leaves 1,
  and results are rounded down. Differs from the official release: where a sum
  of rounded products in float32 falls short of the whole number that it should
  be, the official result is one less; images may have one channel, which
  'Color' leaves as it is.
  """
  images = _move(images, instructions, centers)
  images = _look_up(images, instructions)
  return _blend(images, instructions)


def _matrix(
  name: str, argument: Number, height: int, width: int
) -> tuple[Number, ...]:
  """Returns where pixels come from, see `Instruction`, in pixels."""
  match name:
    case 'ShearX':
      return 1, argument, 0, 0, 1, 0
    case 'ShearY':
      return 1, 0, 0, argument, 1, 0
    case 'TranslateX':
      return 1, 0, argument, 0, 1, 0
    case 'TranslateY':
      return 1, 0, 0, 0, 1, argument
    case 'Rotate':
      angle = math.radians(argument)
      cos, sin = math.cos(angle), math.sin(angle)
      # The centre of the image stays.
      x, y = (width - 1) / 2, (height - 1) / 2
      return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y
    case _:
      return 1, 0, 0, 0, 1, 0


def _move(
  images: jax.Array, instructions: Instruction, centers: jax.Array
) -> jax.Array:
  """Rotates, shears, translates and cuts out, by one gather."""
  n, height, width, _ = images.shape
  a, b, c, d, e, f = (instructions.matrix[:, i, None, None] for i in range(6))
  x = jnp.arange(width, dtype=jnp.int32)[None, None, :]
  y = jnp.arange(height, dtype=jnp.int32)[None, :, None]
  columns = _nearest(a * x + b * y + c)
  rows = _nearest(d * x + e * y + f)
  is_inside = (0 <= columns) & (columns < width) & (0 <= rows) & (rows < height)
  is_cutout = instructions.operation == NAMES.index('Cutout')
  half = jnp.where(is_cutout, instructions.argument, 0)
  kept = is_inside & pixels.cutout_mask(centers, 2 * half, height, width)
  examples = jnp.arange(n)[:, None, None]
  moved = images.at[examples, rows, columns].get(mode='clip')
  return jnp.where(kept[..., None], moved, jnp.uint8(FILL))


def _nearest(position: Array) -> jax.Array:
  """Returns the nearest pixel; the middle counts as the farther from zero."""
  is_negative = (position < 0).astype(jnp.int32)
  return jnp.asarray(position + _PIXEL // 2 - is_negative) // _PIXEL


def _look_up(images: jax.Array, instructions: Instruction) -> jax.Array:
  """Replaces each value by that in a table of its image and channel."""
  n, _, _, channels = images.shape
  tables = _tables(images, instructions)
  examples = jnp.arange(n)[:, None, None, None]
  channel = jnp.arange(channels)[None, None, None, :]
  return tables[examples, channel, images.astype(jnp.int32)]


def _tables(images: jax.Array, instructions: Instruction) -> jax.Array:
  """Returns what each value becomes, uint8 [n, channels, 256]."""
  v = jnp.arange(_VALUES, dtype=jnp.int32)[None, None, :]
  argument = instructions.argument[:, None, None]
  shift = 8 - jnp.clip(argument, 1, 8)
  grey = min(images.shape[1] * images.shape[2] // _VALUES, _VALUES - 1)
  tables = {
    'Invert': 255 - v,
    'Posterize': (v >> shift) << shift,
    'Solarize': jnp.where(v < argument, v, 255 - v),
    'SolarizeAdd': jnp.where(v < 128, jnp.clip(v + argument, 0, 255), v),
    'Contrast': _mix(jnp.int32(grey), v, argument),
    'Brightness': _mix(jnp.int32(0), v, argument),
    'AutoContrast': _stretched(images, v),
    'Equalize': _equalized(images, v),
  }
  result = jnp.broadcast_to(v, (images.shape[0], images.shape[3], _VALUES))
  for name, table in tables.items():
    is_chosen = instructions.operation == NAMES.index(name)
    result = jnp.where(is_chosen[:, None, None], table, result)
  return result.astype(jnp.uint8)


def _stretched(images: jax.Array, v: jax.Array) -> jax.Array:
  """Returns tables that stretch each channel to [0, 255]."""
  low = jnp.min(images, axis=(1, 2))[..., None].astype(jnp.int32)
  high = jnp.max(images, axis=(1, 2))[..., None].astype(jnp.int32)
  stretched = (v - low) * 255 // jnp.maximum(high - low, 1)
  return jnp.where(high > low, jnp.clip(stretched, 0, 255), v)


def _equalized(images: jax.Array, v: jax.Array) -> jax.Array:
  """Returns tables that make all values of a channel about as frequent."""
  counts = _histograms(images)
  high = jnp.max(images, axis=(1, 2))[..., None].astype(jnp.int32)
  last = jnp.take_along_axis(counts, high, axis=-1)
  step = (jnp.sum(counts, axis=-1, keepdims=True) - last) // 255
  below = jnp.cumsum(counts, axis=-1) - counts
  equalized = (below + step // 2) // jnp.maximum(step, 1)
  return jnp.where(step > 0, jnp.minimum(equalized, 255), v)


def _histograms(images: jax.Array) -> jax.Array:
  """Counts the values of each channel, int32 [n, channels, 256]."""
  n, _, _, channels = images.shape
  examples = jnp.arange(n)[:, None, None, None]
  channel = jnp.arange(channels)[None, None, None, :]
  zeros = jnp.zeros((n, channels, _VALUES), jnp.int32)
  return zeros.at[examples, channel, images.astype(jnp.int32)].add(1)


def _blend(images: jax.Array, instructions: Instruction) -> jax.Array:
  """Changes saturation or sharpness."""
  factor = instructions.argument[:, None, None, None]
  wide = images.astype(jnp.int32)
  for name, other in (('Color', _grey(wide)), ('Sharpness', _smooth(wide))):
    is_chosen = instructions.operation == NAMES.index(name)
    mixed = _mix(other, wide, factor)
    wide = jnp.where(is_chosen[:, None, None, None], mixed, wide)
  return wide.astype(jnp.uint8)


def _grey(images: jax.Array) -> jax.Array:
  """Returns the luma in all channels, which leaves a single one; int32."""
  weights = jnp.array([2989, 5870, 1140], jnp.int32)
  luma = jnp.sum(images * weights[None, None, None, :], axis=-1, keepdims=True)
  # As TensorFlow converts: values are scaled by 1 / 255, then by 255.5.
  return jnp.broadcast_to(luma * 511 // (510 * 10_000), images.shape)


def _smooth(images: jax.Array) -> jax.Array:
  """Averages 3 x 3 pixels, the middle one 5 times, but at the border."""
  n, height, width, channels = images.shape
  inner = (slice(None), slice(1, -1), slice(1, -1))
  total = jax.lax.reduce_window(
    images, jnp.int32(0), jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), 'VALID'
  )
  return images.at[inner].set((total + 4 * images[inner]) // 13)


def _mix(start: jax.Array, end: jax.Array, factor: Array) -> jax.Array:
  """Goes from start towards end, and beyond; int32, factor in hundredths."""
  return jnp.clip((_ONE * start + factor * (end - start)) // _ONE, 0, 255)
