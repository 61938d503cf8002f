"""Mixup and CutMix: images of a microbatch mixed with each other.

A mixed image has a mixed label, so that what comes out are distributions over
the classes, which `losses.cross_entropy` takes in the place of labels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sam_jax import lookup
from sam_jax.augmentation import draws, pixels

MixFn = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

# One stream per draw.
_WEIGHT, _CENTER, _CHANCE = range(3)


def create(
  name: str, *, alpha: float, probability: float, num_classes: int
) -> MixFn:
  """Returns what mixes the images of a microbatch.

  Each image meets the one as far from the other end of the microbatch. The
  weights are drawn once per step, for all microbatches on all devices.

  Args:
    name: 'none'; 'mixup', weighted sums of whole images (Zhang et al. 2018),
      the larger weight on the image itself as in the official release; or
      'cutmix', a box of one image in the other (Yun et al. 2019).
    alpha: weights are drawn from Beta(alpha, alpha).
    probability: share of the steps in which images are mixed, in [0, 1].
    num_classes: labels lie in [0, num_classes).

  Returns:
    A pure function `(key, images, labels) -> (images, targets)`: `key` a typed
    key, the same for the whole step, `images` float [n, height, width,
    channels], `labels` int [n], `targets` float32 [n, num_classes], the labels'
    weights. 'none' returns images and labels as they are.

  Raises:
    ValueError: an unknown name, or a number out of range.

  Differs from the official release: there partners lie within the batch of a
  host, and mixing cannot be switched on (an assertion forbids it) but for
  ImageNet.

  Example:
    >>> mix = create('mixup', alpha=1.0, probability=1.0, num_classes=3)
    >>> images = jnp.zeros((2, 4, 4, 1))
    >>> _, targets = mix(jax.random.key(0), images, jnp.array([0, 2]))
    >>> bool(jnp.all(targets[0] == targets[1, ::-1]))
    True
  """
  lookup.check('mixing', name, names())
  if not 0 < alpha < float('inf') or not 0 <= probability <= 1:
    raise ValueError(
      f'mixing has alpha={alpha} and probability={probability}; alpha must be '
      'positive and probability in [0, 1]'
    )
  if name == 'none':
    return lambda key, images, labels: (images, labels)
  mix_images = _MIXES[name]

  def mix(
    key: jax.Array, images: jax.Array, labels: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    chance = jax.random.uniform(jax.random.fold_in(key, _CHANCE))
    drawn = jax.random.beta(jax.random.fold_in(key, _WEIGHT), alpha, alpha)
    weight = jnp.where(chance < probability, drawn, 1).astype(jnp.float32)
    images, weight = mix_images(
      jax.random.fold_in(key, _CENTER), images, weight
    )
    return images, mix_labels(labels, weight, num_classes)

  return mix


def names() -> list[str]:
  """Returns the names that `create` knows, sorted."""
  return sorted({'none', *_MIXES})


def mix_labels(
  labels: jax.Array, weight: jax.Array, num_classes: int
) -> jax.Array:
  """Returns the distributions over classes of mixed images.

  Args:
    labels: int [n].
    weight: of the image's own label; scalar.
    num_classes: labels lie in [0, num_classes).

  Returns:
    float32 [n, num_classes].
  """
  one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
  return weight * one_hot + (1 - weight) * one_hot[::-1]


def mixup(images: jax.Array, weight: jax.Array) -> jax.Array:
  """Returns weighted sums of each image and its partner.

  Args:
    images: float [n, height, width, channels].
    weight: of the image itself, in [0, 1]; scalar.
  """
  return weight * images + (1 - weight) * images[::-1]


def cutmix(
  images: jax.Array, weight: jax.Array, center: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns images with a box of their partners, and the share that is theirs.

  Args:
    images: [n, height, width, channels].
    weight: share of the image that is to stay; scalar. Less may go, as the box
      ends at the border.
    center: int32 [2], row and column of the middle of the box.

  Returns:
    The images, and the share that stayed.
  """
  height, width = images.shape[1:3]
  size = jnp.array([height, width], jnp.float32)
  half = (size * jnp.sqrt(1 - weight)).astype(jnp.int32) // 2
  start, stop = center - half, center + half
  in_rows = pixels.within(jnp.arange(height), start[:1], stop[:1])
  in_columns = pixels.within(jnp.arange(width), start[1:], stop[1:])
  box = in_rows[:, None] & in_columns[None, :]
  mixed = jnp.where(box[None, :, :, None], images[::-1], images)
  return mixed, 1 - jnp.mean(box, dtype=jnp.float32)


def _mixup(
  key: jax.Array, images: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Keeps the larger share of an image."""
  del key
  weight = jnp.maximum(weight, 1 - weight)
  return mixup(images, weight), weight


def _cutmix(
  key: jax.Array, images: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Puts a box anywhere."""
  bits = jax.random.bits(key, (1, 2))
  return cutmix(images, weight, draws.places(bits, *images.shape[1:3])[0])


_MIXES = {'cutmix': _cutmix, 'mixup': _mixup}
