"""Label noise: training labels that are wrong on purpose."""

from collections.abc import Callable

import numpy as np

from sam_jax import lookup


def _other_class(
  rng: np.random.Generator, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """Returns a uniformly chosen other class for each label."""
  if num_classes < 2:
    raise ValueError('symmetric label noise needs at least 2 classes, got 1')
  return (labels + rng.integers(1, num_classes, len(labels))) % num_classes


def _any_class(
  rng: np.random.Generator, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """Returns a uniformly chosen class for each label, its own included."""
  return rng.integers(num_classes, size=len(labels))


_KINDS: dict[str, Callable[..., np.ndarray]] = {
  'symmetric': _other_class,
  'uniform': _any_class,
}


def validate(fraction: float, kind: str) -> None:
  """Raises ValueError unless this is a fraction and a known kind of noise."""
  if not 0 <= fraction <= 1:
    raise ValueError(
      f'label noise is {fraction}; it is the fraction of the training labels '
      f'to corrupt: give a number in [0, 1]'
    )
  lookup.check('kind of label noise', kind, sorted(_KINDS))


def corrupt(
  labels: np.ndarray,
  fraction: float,
  *,
  kind: str,
  num_classes: int,
  seed: int,
) -> np.ndarray:
  """Replaces a fraction of the labels at random.

  The literature means two things by "40 % label noise"; compare numbers only
  within one kind:

  - `symmetric`: a uniformly chosen *other* class, so that the fraction is the
    share of wrong labels (Patrini et al. 2017; Co-teaching, Han et al. 2018).
  - `uniform`: redrawn over all classes, the true one included, so that a
    share of fraction * (K - 1) / K is wrong in expectation, 36 % of 40 % with
    10 classes (Zhang et al. 2017; DivideMix, Li et al. 2020).

  The SAM paper (section 3.3, table 4) says "randomly flipped" only.

  Args:
    labels: int32 [n], in [0, num_classes).
    fraction: in [0, 1]; exactly round(fraction * n) labels are drawn anew.
    kind: 'symmetric' or 'uniform'.
    num_classes: K.
    seed: of the choice. With one seed the labels drawn anew at a small
      fraction are a subset of those at a larger one, with the same values.

  Returns:
    int32 [n]; the argument is left as it is.

  Raises:
    ValueError: fraction outside [0, 1] or an unknown kind.

  Example:
    >>> clean = np.zeros(10, np.int32)
    >>> noisy = corrupt(
    ...   clean, 0.4, kind='symmetric', num_classes=10, seed=0
    ... )
    >>> int((noisy != clean).sum())
    4
  """
  validate(fraction, kind)
  noisy = labels.copy()
  count = round(fraction * len(labels))
  if count:
    # The bytes of the name keep this stream apart from others of the seed.
    rng = np.random.default_rng([seed, *b'label_noise'])
    chosen = rng.permutation(len(labels))[:count]
    noisy[chosen] = _KINDS[kind](rng, labels, num_classes)[chosen]
  return noisy
