"""Augmentation of uint8 images on the device, inside the compiled step.

Every random number is keyed by the step's key and, unless it is shared by the
whole batch, by the example's position in the global batch. So the result does
not depend on how a batch is cut over devices and microbatches.

The deterministic operations (`flip_and_crop`, `cutout_mask`, `normalize`,
`resize`) take what they need as arguments; `create` puts the random recipe
together, and `preprocess` is what evaluation needs of it.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import lookup

AugmentFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
ImageOp = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

PADDING = 4  # pixels on each side, before the random crop

# One stream per operation, so that switching one does not change another.
_WEAK_STREAM = 0
_CUTOUT_STREAM = 1


def create(
  name: str,
  *,
  mean: Sequence[float],
  std: Sequence[float],
  cutout_length: int = 0,
  cutout_per: str = 'batch',
) -> AugmentFn:
  """Returns the augmentation of training images.

  Args:
    name: 'none', or 'basic': horizontal flip with probability 1/2, padding of
      4 pixels by reflection, random crop back to size.
    mean: of each channel, for images scaled to [0, 1].
    std: likewise.
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
    ValueError: an unknown name, a negative length, an unknown `cutout_per`, or
      mean and std that do not fit.

  Source: official sam_jax/datasets/augmentation.py. Differs from the official
  release: 'batch' there is the batch of one host, and nothing is seeded.

  Example:
    >>> augment = create('basic', mean=(0.5,), std=(0.25,), cutout_length=4)
    >>> images = jnp.zeros((2, 8, 8, 1), jnp.uint8)
    >>> augment(jax.random.key(0), images, jnp.arange(2)).shape
    (2, 8, 8, 1)
  """
  lookup.check('augmentation', name, names())
  if cutout_length < 0:
    raise ValueError(f'cutout_length is {cutout_length}; it must be >= 0')
  lookup.check('cutout_per', cutout_per, sorted(_CENTERS))
  if len(mean) != len(std) or min(std) <= 0:
    raise ValueError(
      f'mean is {mean} and std {std}; give one of each per channel, std > 0'
    )
  image_op, draw_centers = _RECIPES[name], _CENTERS[cutout_per]

  def augment(
    key: jax.Array, images: jax.Array, positions: jax.Array
  ) -> jax.Array:
    images = normalize(image_op(key, images, positions), mean, std)
    if not cutout_length:
      return images
    height, width = images.shape[1:3]
    centers = draw_centers(key, positions, height, width)
    kept = cutout_mask(centers, cutout_length, height, width)
    return jnp.where(kept[..., None], images, 0)

  return augment


def preprocess(
  images: jax.Array,
  *,
  mean: Sequence[float],
  std: Sequence[float],
  resolution: int | None = None,
) -> jax.Array:
  """Returns what a model is evaluated on: normalised images, resized.

  Args:
    images: uint8 [n, height, width, channels].
    mean: see `create`.
    std: see `create`.
    resolution: see `resize`.

  Returns:
    float32 [n, height, width, channels], of the resolution if there is one.
  """
  return resize(normalize(images, mean, std), resolution)


def names() -> list[str]:
  """Returns the names that `create` knows, sorted."""
  return sorted(_RECIPES)


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


def resize(images: jax.Array, resolution: int | None) -> jax.Array:
  """Resizes to a square with bicubic interpolation.

  Args:
    images: float32 [n, height, width, channels].
    resolution: height and width wanted; None leaves the images.

  Returns:
    float32 [n, resolution, resolution, channels].

  Source: official datasets/dataset_source.py, which resizes what has been
  normalised, by `resize_bicubic` of TensorFlow 1: no antialiasing, the upper
  left corners of the pixels aligned and not their centres, the cubic's constant
  -0.75. Pretrained EfficientNets, and the paper's fine-tuning, saw images so.
  """
  height, width = images.shape[1:3]
  if resolution is None or (height, width) == (resolution, resolution):
    return images
  return jnp.einsum(
    'oh,nhwc,pw->nopc',
    _bicubic(height, resolution),
    images,
    _bicubic(width, resolution),
    precision='highest',
  )


def _bicubic(size: int, resolution: int) -> np.ndarray:
  """Returns the weights of `size` pixels in each of `resolution` new ones."""
  position = np.arange(resolution) * (size / resolution)
  start = np.floor(position).astype(int)
  # TensorFlow looks the weights up in a table of 1,024 steps.
  offset = np.round((position - start) * 1024) / 1024
  weights = np.zeros((resolution, size), np.float32)
  for tap in (-1, 0, 1, 2):
    # Beyond the border the last pixel goes on.
    source = np.clip(start + tap, 0, size - 1)
    np.add.at(
      weights, (np.arange(resolution), source), _cubic(np.abs(tap - offset))
    )
  return weights


def _cubic(distance: np.ndarray) -> np.ndarray:
  """Keys' convolution kernel (1981) at distances from 0 to 2."""
  a, x = -0.75, distance
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  return np.where(x <= 1, near, far)


def flip_and_crop(
  images: jax.Array,
  flips: jax.Array,
  offsets: jax.Array,
  *,
  padding: int = PADDING,
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
  centers: jax.Array, length: int, height: int, width: int
) -> jax.Array:
  """Returns where pixels are kept: False in a square, cut off at the border.

  Args:
    centers: int32 [..., 2], row and column.
    length: side of the square; an odd one counts as the next smaller even one,
      as in the official release.
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
  half = length // 2
  row, column = centers[..., 0, None], centers[..., 1, None]
  in_rows = _within(jnp.arange(height), row - half, row + half)
  in_columns = _within(jnp.arange(width), column - half, column + half)
  return ~(in_rows[..., :, None] & in_columns[..., None, :])


def _none(key: jax.Array, images: jax.Array, positions: jax.Array) -> jax.Array:
  """Leaves the images as they are."""
  del key, positions
  return images


def _basic(
  key: jax.Array, images: jax.Array, positions: jax.Array
) -> jax.Array:
  """Flips and crops at random."""
  bits = _example_bits(jax.random.fold_in(key, _WEAK_STREAM), positions, 3)
  return flip_and_crop(
    images,
    flips=bits[:, 0] % 2 == 1,
    offsets=(bits[:, 1:] % (2 * PADDING + 1)).astype(jnp.int32),
  )


def _batch_center(
  key: jax.Array, positions: jax.Array, height: int, width: int
) -> jax.Array:
  """Draws one cutout centre for all, int32 [1, 2]."""
  del positions
  bits = jax.random.bits(jax.random.fold_in(key, _CUTOUT_STREAM), (1, 2))
  return _centers(bits, height, width)


def _example_centers(
  key: jax.Array, positions: jax.Array, height: int, width: int
) -> jax.Array:
  """Draws a cutout centre for each example, int32 [n, 2]."""
  key = jax.random.fold_in(key, _CUTOUT_STREAM)
  return _centers(_example_bits(key, positions, 2), height, width)


def _centers(bits: jax.Array, height: int, width: int) -> jax.Array:
  """Turns uint32 [n, 2] into rows and columns of pixels."""
  size = jnp.array([[height, width]], bits.dtype)
  return (bits % size).astype(jnp.int32)


def _example_bits(
  key: jax.Array, positions: jax.Array, count: int
) -> jax.Array:
  """Draws uint32 [n, count], each row by its position alone.

  The bias of a remainder of 32 random bits is below 1e-6 for any image size.
  """

  def draw(position: jax.Array) -> jax.Array:
    return jax.random.bits(jax.random.fold_in(key, position), (count,))

  return jax.vmap(draw)(positions)


def _reflect(start: jax.Array, size: int) -> jax.Array:
  """Returns `size` indices from start [n, 1] on, mirrored at both ends."""
  index = jnp.abs(start + jnp.arange(size)[None, :])
  return size - 1 - jnp.abs(size - 1 - index)


def _within(index: jax.Array, start: jax.Array, stop: jax.Array) -> jax.Array:
  """Returns whether start <= index < stop, bool [..., len(index)]."""
  index = jax.lax.broadcast_to_rank(index, start.ndim)
  return (start <= index) & (index < stop)


_RECIPES: dict[str, ImageOp] = {'none': _none, 'basic': _basic}
_CENTERS: dict[str, Callable[..., jax.Array]] = {
  'batch': _batch_center,
  'example': _example_centers,
}
