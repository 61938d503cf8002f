"""Augmentation of uint8 images on the device, inside the compiled step.

`create` puts together what a config names; the deterministic operations that it
is made of take what they need as arguments.
"""

from sam_jax.augmentation.pixels import (
  cutout_mask,
  flip_and_crop,
  normalize,
)
from sam_jax.augmentation.recipes import AugmentFn, create, names
from sam_jax.augmentation.resizing import resize

__all__ = [
  'AugmentFn',
  'create',
  'cutout_mask',
  'flip_and_crop',
  'names',
  'normalize',
  'resize',
]
