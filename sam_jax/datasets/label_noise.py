"""Label noise: training labels that are wrong on purpose."""

from collections.abc import Callable, Mapping

import numpy as np

from sam_jax import lookup

Confusions = Mapping[int, int]


def _other_class(
  rng: np.random.Generator,
  labels: np.ndarray,
  num_classes: int,
  confusions: Confusions,
) -> np.ndarray:
  """Returns a uniformly chosen other class for each label."""
  del confusions
  if num_classes < 2:
    raise ValueError('symmetric label noise needs at least 2 classes, got 1')
  return (labels + rng.integers(1, num_classes, len(labels))) % num_classes


def _any_class(
  rng: np.random.Generator,
  labels: np.ndarray,
  num_classes: int,
  confusions: Confusions,
) -> np.ndarray:
  """Returns a uniformly chosen class for each label, its own included."""
  del confusions
  return rng.integers(num_classes, size=len(labels))


def _confused_class(
  rng: np.random.Generator,
  labels: np.ndarray,
  num_classes: int,
  confusions: Confusions,
) -> np.ndarray:
  """Returns the class that each label is mistaken for, if there is one."""
  del rng
  if not confusions:
    raise ValueError(
      'asymmetric label noise needs to know which classes are mistaken for '
      'which, and this data set does not say; use symmetric or uniform noise'
    )
  table = np.arange(num_classes)
  table[list(confusions)] = list(confusions.values())
  return table[labels]


_KINDS: dict[str, Callable[..., np.ndarray]] = {
  'asymmetric': _confused_class,
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
  confusions: Confusions | None = None,
) -> np.ndarray:
  """Replaces a fraction of the labels at random.

  The literature means three things by "40 % label noise"; compare numbers only
  within one kind:

  - `symmetric`: a uniformly chosen *other* class, so that the fraction is the
    share of wrong labels (Patrini et al. 2017; Co-teaching, Han et al. 2018).
  - `uniform`: redrawn over all classes, the true one included, so that a
    share of fraction * (K - 1) / K is wrong in expectation, 36 % of 40 % with
    10 classes (Zhang et al. 2017; DivideMix, Li et al. 2020).
  - `asymmetric`: some classes become one similar class each, and that share of
    their labels is wrong; the other classes stay right (Patrini et al. 2017).

  The SAM paper (section 3.3, table 4) says "randomly flipped" only.

  Args:
    labels: int32 [n], in [0, num_classes).
    fraction: in [0, 1]; exactly round(fraction * n) labels are drawn anew.
    kind: 'symmetric', 'uniform' or 'asymmetric'.
    num_classes: K.
    seed: of the choice. With one seed the labels drawn anew at a small
      fraction are a subset of those at a larger one, with the same values.
    confusions: for 'asymmetric', the class for which a class is mistaken.

  Returns:
    int32 [n]; the argument is left as it is.

  Raises:
    ValueError: fraction outside [0, 1], an unknown kind, or asymmetric noise
      without confusions.

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
    drawn = _KINDS[kind](rng, labels, num_classes, confusions or {})
    noisy[chosen] = drawn[chosen]
  return noisy
