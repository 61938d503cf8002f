"""Deterministic operations on the pixels of a batch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def normalize(
  images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Scales to [0, 1], subtracts the mean and divides by the deviation.

  Args:
    images: uint8 [..., channels].
    mean: of each channel, for images scaled to [0, 1].
    std: likewise.

  Returns:
    float32 [..., channels].
  """
  # (x - 255 mean) / (255 std): a difference and a product leave the compiler
  # no freedom in rounding, so that every program gives the same bits.
  # Ranks are made equal by hand: implicit promotion may be an error.
  shape = (1,) * (images.ndim - 1) + (-1,)
  shift = (255 * np.asarray(mean)).astype(np.float32).reshape(shape)
  scale = (1 / (255 * np.asarray(std))).astype(np.float32).reshape(shape)
  return (images.astype(jnp.float32) - shift) * scale


def flip_and_crop(
  images: jax.Array,
  flips: jax.Array,
  offsets: jax.Array,
  *,
  padding: int = 4,
) -> jax.Array:
  """Mirrors some images, pads all by reflection and crops them to size.

  One gather does it all, several times as fast as a slice per image.

  Args:
    images: [n, height, width, channels].
    flips: bool [n]; True mirrors left and right.
    offsets: int32 [n, 2]; row and column of the crop in the padded image, in
      [0, 2 * padding]. `padding` is the middle.
    padding: pixels on each side, less than height and width.

  Returns:
    Images of the same shape and dtype.

  Raises:
    ValueError: the images are too small to be reflected that far.
  """
  n, height, width, _ = images.shape
  if padding >= min(height, width):
    raise ValueError(
      f'images of {height}x{width} pixels cannot be padded by reflection of '
      f'{padding}; that must be less than either side'
    )
  rows = _reflect(offsets[:, :1] - padding, height)
  columns = _reflect(offsets[:, 1:] - padding, width)
  columns = jnp.where(flips[:, None], width - 1 - columns, columns)
  examples = jnp.arange(n)[:, None, None]
  return images[examples, rows[:, :, None], columns[:, None, :]]


def cutout_mask(
  centers: jax.Array, length: int | jax.Array, height: int, width: int
) -> jax.Array:
  """Returns where pixels are kept: False in a square, cut off at the border.

  Args:
    centers: int32 [..., 2], row and column.
    length: side of the square, one for all or int32 [...]; an odd one counts as
      the next smaller even one, as in the official release.
    height: of the images.
    width: of the images.

  Returns:
    bool [..., height, width].

  Example:
    >>> cutout_mask(jnp.array([1, 3]), 2, 4, 4).astype(int)
    Array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 1],
           [1, 1, 1, 1]], dtype=int32)
  """
  row, column = centers[..., 0, None], centers[..., 1, None]
  half = jax.lax.broadcast_to_rank(
    jnp.asarray(length)[..., None] // 2, row.ndim
  )
  in_rows = within(jnp.arange(height), row - half, row + half)
  in_columns = within(jnp.arange(width), column - half, column + half)
  return ~(in_rows[..., :, None] & in_columns[..., None, :])


def _reflect(start: jax.Array, size: int) -> jax.Array:
  """Returns `size` indices from start [n, 1] on, mirrored at both ends."""
  index = jnp.abs(start + jnp.arange(size)[None, :])
  return size - 1 - jnp.abs(size - 1 - index)


def within(index: jax.Array, start: jax.Array, stop: jax.Array) -> jax.Array:
  """Returns whether start <= index < stop, bool [..., len(index)]."""
  index = jax.lax.broadcast_to_rank(index, start.ndim)
  return (start <= index) & (index < stop)
