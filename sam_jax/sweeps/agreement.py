r"""How well a measure of models predicts a number of them, over their pairs.

Kendall's tau asks whether the model with the larger measure is the one with the
larger gap. A measure may get there by telling which hyper-parameters a model
has, and nothing else. The conditional mutual information of the competition
"Predicting Generalization in Deep Learning" takes that away. It is the smallest
share of the uncertainty about the order of two models by their gap that the
order by the measure removes, once some of their hyper-parameters are known:

.. math::
  K = \min_{|S| \le 2} \frac{I(V_\mu; V_g \mid U_S)}{H(V_g \mid U_S)}

A pair is two models in an order. :math:`V_\mu` is whether the first has the
larger measure, :math:`V_g` whether it has the larger gap, and :math:`U_S` the
values that each of the two has of the hyper-parameters in S.

Sources: Jiang et al. 2019, "Fantastic generalization measures and where to find
them", section 2; Jiang et al. 2020, "NeurIPS 2020 competition: Predicting
generalization in deep learning"; and the scoring program of the competition,
whose conventions are these here:

- All ordered pairs count, those of a model with itself too. If the models are
  a complete grid, hyper-parameters are then independent of each other.
- A tie is "not larger", in both orders. The papers speak of signs, and do not
  say what the sign of 0 is. A measure that orders the models exactly in reverse
  thus has a little less than 1.

What differs from the scoring program:

- It conditions on exactly two hyper-parameters, and the first paper on two at
  most; here it is two at most, as in the paper.
- It takes plain means over the values of U_S. Here a value counts by its pairs,
  which is the same for a complete grid, and defined for any other.
- A set S that leaves no uncertainty about V_g says nothing, and is left out.

Of few models K is too large by chance: it is an estimate from counts. What a
measure without any information reaches is therefore part of the answer.
"""

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats

_MAX_CONDITIONS = 2
_SHUFFLES = 99
_QUANTILE = 0.95
_NOTHING = 1e-9  # nats of uncertainty that are rounding

Numbers = Sequence[float] | np.ndarray  # one of each model
# For each hyper-parameter its value of every model.
HyperParameters = Mapping[str, Sequence[Hashable]]


class Information(NamedTuple):
  """A conditional mutual information.

  Attributes:
    value: K, in [0, 1]; NaN if no pair of models has another gap.
    given: the hyper-parameters S of the minimum.
    chance: the K that a measure without information exceeds in one of 20 cases:
      by shuffles of the measure among the models.
  """

  value: float
  given: tuple[str, ...]
  chance: float


class Tau(NamedTuple):
  """Kendall's tau.

  Attributes:
    value: in [-1, 1]; NaN if the measure or the gap is the same everywhere.
    p_value: of the test that both are independent.
  """

  value: float
  p_value: float


def kendall(measure: Numbers, gap: Numbers) -> Tau:
  """Returns Kendall's tau-b, which corrects for ties.

  Args:
    measure: of each model.
    gap: of each model.

  Example:
    >>> print(f'{kendall([1, 2, 3, 4], [10, 20, 40, 30]).value:.3f}')
    0.667
  """
  found = scipy.stats.kendalltau(measure, gap)
  return Tau(float(found.statistic), float(found.pvalue))


def information(
  measure: Numbers,
  gap: Numbers,
  hyper_parameters: HyperParameters,
  *,
  seed: int = 0,
) -> Information:
  """Returns K of a measure.

  Args:
    measure: of each model.
    gap: of each model.
    hyper_parameters: of each model. One that is the same for all of them
      changes nothing.
    seed: of the shuffles.

  Example:
    >>> found = information([1, 2, 3, 4], [1, 2, 3, 4], {'rho': [0, 0, 1, 1]})
    >>> found.value, found.given
    (1.0, ())
  """
  rng = np.random.default_rng(seed)
  values = np.asarray(measure, np.float64)
  if np.isnan([values, np.asarray(gap, np.float64)]).any():
    return Information(math.nan, (), math.nan)
  shuffled = [rng.permutation(values) for _ in range(_SHUFFLES)]
  least = np.full(1 + _SHUFFLES, np.inf)
  given: tuple[str, ...] = ()
  for names in conditions(hyper_parameters):
    found = shares([values, *shuffled], gap, hyper_parameters, names)
    if found is None:
      continue
    if found[0] < least[0]:
      given = names
    least = np.minimum(least, found)
  if np.isinf(least[0]):
    return Information(np.nan, (), np.nan)
  chance = np.quantile(least[1:], _QUANTILE)
  return Information(float(least[0]), given, float(chance))


def conditions(hyper_parameters: HyperParameters) -> Iterator[tuple[str, ...]]:
  """Yields the sets S of hyper-parameters, the empty one first."""
  for size in range(_MAX_CONDITIONS + 1):
    yield from itertools.combinations(hyper_parameters, size)


def shares(
  measures: Sequence[Numbers],
  gap: Numbers,
  hyper_parameters: HyperParameters,
  given: Sequence[str],
) -> np.ndarray | None:
  """Returns I(V_mu; V_g | U_S) / H(V_g | U_S) for one S.

  Args:
    measures: several of the same models.
    gap: of each model.
    hyper_parameters: of each model.
    given: the names in S.

  Returns:
    A number for each measure; None if U_S leaves nothing to say about V_g.
  """
  cells = _cells(len(gap), [hyper_parameters[name] for name in given])
  sizes = _entropy(np.bincount(cells))
  by_gap = 2 * cells + _larger(gap)
  uncertainty = _entropy(np.bincount(by_gap)) - sizes
  if uncertainty < _NOTHING:
    return None
  found = [
    _entropy(np.bincount(2 * cells + larger))
    - sizes
    - _entropy(np.bincount(2 * by_gap + larger))
    + _entropy(np.bincount(by_gap))
    for larger in map(_larger, measures)
  ]
  return np.clip(np.array(found) / uncertainty, 0, 1)


def _larger(values: Numbers) -> np.ndarray:
  """Returns for all ordered pairs whether the first has the larger value."""
  column = np.asarray(values, np.float64)
  return (column[:, None] > column[None, :]).ravel().astype(np.int64)


def _cells(count: int, columns: Sequence[Sequence[Hashable]]) -> np.ndarray:
  """Returns for all ordered pairs the number of their U_S, counted from 0."""
  numbers: dict[Hashable, int] = {}
  rows = list(zip(*columns, strict=True)) if columns else [()] * count
  own = np.array([numbers.setdefault(row, len(numbers)) for row in rows])
  pairs = (len(numbers) * own[:, None] + own[None, :]).ravel()
  return np.unique(pairs, return_inverse=True)[1].ravel()


def _entropy(counts: np.ndarray) -> float:
  """Returns the entropy of what was counted, in nats."""
  return float(scipy.special.entr(counts / counts.sum()).sum())
