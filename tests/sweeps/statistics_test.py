"""Means of independent values and their intervals."""

import math

import numpy as np
import pytest

from sam_jax.sweeps import statistics


def test_intervals_are_students():
  # Three values: t = 4.3027, the error of the mean is 1 / sqrt(3).
  found = statistics.estimate([1.0, 2.0, 3.0])
  assert found.mean == 2
  assert found.half_width == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
  assert found.deviation == 1
  alone = statistics.estimate([5.0])
  assert (alone.mean, alone.n) == (5.0, 1)
  assert math.isnan(alone.half_width) and math.isnan(alone.deviation)


def test_intervals_hold_the_mean_as_often_as_they_say():
  draws = np.random.default_rng(0).normal(7, 3, (4000, 5))
  found = [statistics.estimate(row) for row in draws]
  share = np.mean([abs(e.mean - 7) < e.half_width for e in found])
  # Binomial: standard deviation 0.0034, four of them.
  assert abs(share - 0.95) < 0.014
