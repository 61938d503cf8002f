"""Means of independent values, and how far to trust them."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean with its uncertainty.

  Attributes:
    mean: of the values.
    half_width: of the 95 % confidence interval of the mean by Student's t; NaN
      if there is only one value.
    n: number of values.
    deviation: standard deviation of the values, NaN if there is only one.
  """

  mean: float
  half_width: float
  n: int
  deviation: float


def estimate(values: Sequence[float]) -> Estimate:
  """Returns the mean of independent values and its confidence interval.

  Example:
    >>> found = estimate([1.0, 2.0, 3.0])
    >>> f'{found.mean} +- {found.half_width:.3f}, n={found.n}'
    '2.0 +- 2.484, n=3'
  """
  n = len(values)
  if n < 2:
    return Estimate(float(np.mean(values)), math.nan, n, math.nan)
  with np.errstate(invalid='ignore'):  # of infinite values
    deviation = float(np.std(values, ddof=1))
  quantile = scipy.stats.t.ppf((1 + _CONFIDENCE) / 2, n - 1)
  half_width = float(quantile) * deviation / math.sqrt(n)
  return Estimate(float(np.mean(values)), half_width, n, deviation)
