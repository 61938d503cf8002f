"""Resizing as TensorFlow 1 did it."""

import jax
import jax.numpy as jnp
import numpy as np


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
