"""Digits that are rotated by another angle in each domain."""

from collections.abc import Sequence

import numpy as np

from sam_jax.datasets import digits, registry

ANGLES = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0)


@registry.register('rotated_digits')
def load(
  directory: str | None,
  seed: int,
  *,
  angles: Sequence[float] = ANGLES,
  held_out: float = 75.0,
) -> registry.Source:
  """Loads scikit-learn's 1,797 digits in domains, each with its rotation.

  The images are divided among the domains, so that none is in two of them, and
  each domain has the classes in the proportions of the whole. One domain is not
  trained on: it is the test split, which tells how well a model works on a
  domain that it has never seen. The validation split, the last tenth of the
  training examples, is of the other domains.

  Args:
    directory: must be None, the images come with scikit-learn.
    seed: of the division.
    angles: of the domains in degrees, counterclockwise.
    held_out: the one of them that is tested on.

  Raises:
    ValueError: a directory is given, an angle is there twice, `held_out` is
      none of them, or fewer than two are left to train on.

  Source: the construction is that of rotated MNIST (Ghifary et al. 2015), with
  its angles.
  """
  from scipy import ndimage

  if directory is not None:
    raise ValueError(
      f'rotated_digits come with scikit-learn; directory is {directory!r}, it '
      'must be None'
    )
  angles = tuple(map(float, angles))
  _check(angles, held_out)
  images, labels = digits.read()
  order, numbers = _divided(digits.stratified_order(labels, seed), len(angles))
  rotated = np.stack(
    [
      ndimage.rotate(images[i], angles[number], reshape=False, order=1)
      for i, number in zip(order, numbers, strict=True)
    ]
  )
  rotated = np.clip(np.round(rotated), 0, 255).astype(np.uint8)[..., None]
  kept = [number for number, angle in enumerate(angles) if angle != held_out]
  is_kept = np.isin(numbers, kept)
  train = registry.Examples(
    rotated[is_kept],
    labels[order][is_kept],
    np.searchsorted(kept, numbers[is_kept]).astype(np.int32),
  )
  return registry.Source(
    train=train,
    test=registry.Examples(rotated[~is_kept], labels[order][~is_kept]),
    num_classes=10,
    mean=digits.MEAN,
    std=digits.STD,
    num_validation=len(train.labels) // 10,
    classes=tuple('0123456789'),
    domains=tuple(f'{angles[number]:g}' for number in kept),
  )


def _divided(order: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns an order in which the domains take turns, and their numbers.

  A domain is a stretch of the stratified order, and so is stratified itself.
  """
  stretches = np.array_split(order, count)
  numbers = np.repeat(np.arange(count), list(map(len, stretches)))
  places = np.concatenate([np.arange(len(part)) for part in stretches])
  turns = np.argsort(places, kind='stable')
  return np.concatenate(stretches)[turns], numbers[turns]


def _check(angles: tuple[float, ...], held_out: float) -> None:
  """Refuses angles of which no domains can be made."""
  listed = ', '.join(f'{angle:g}' for angle in angles)
  if not np.isfinite(angles).all() or len({*angles}) < len(angles):
    raise ValueError(
      f'angles are {listed}; each must be a finite number, and there once'
    )
  if held_out not in angles:
    raise ValueError(
      f'held_out is {held_out:g}; it must be one of the angles, {listed}'
    )
  if not 3 <= len(angles) <= 100:
    raise ValueError(
      f'there are {len(angles)} angles; give 3 to 100: one to test on, and '
      'several to train on'
    )
