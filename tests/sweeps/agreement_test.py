"""Kendall's tau and the conditional mutual information, by hand."""

import itertools
import math

import numpy as np
import pytest

from sam_jax.sweeps import agreement

# A complete grid of 2 x 3 x 2 models.
GRID = list(itertools.product('ab', (1, 2, 3), (False, True)))
FIELDS = dict(zip(('x', 'y', 'z'), zip(*GRID, strict=True), strict=True))
_rng = np.random.default_rng(0)
GAP = _rng.normal(size=12)
NOISE = _rng.normal(size=12)


def _of_table(table):
  """I(first; second) and H(first), in bits, of a table of counts."""
  p = np.array(table) / np.sum(table)
  rows, columns = p.sum(axis=1), p.sum(axis=0)
  mutual = sum(
    p[i, j] * math.log2(p[i, j] / (rows[i] * columns[j]))
    for i in range(2)
    for j in range(2)
    if p[i, j] > 0
  )
  return mutual, -sum(q * math.log2(q) for q in rows if q > 0)


def _as_scored(measure, gap, names):
  """What the scoring program takes of two hyper-parameters, pair by pair."""
  tables = {}
  for i, j in itertools.product(range(12), repeat=2):
    key = tuple((FIELDS[name][i], FIELDS[name][j]) for name in names)
    table = tables.setdefault(key, np.zeros((2, 2)))
    table[int(gap[i] > gap[j]), int(measure[i] > measure[j])] += 1
  found = [_of_table(table) for table in tables.values()]
  mutual, entropy = np.mean(found, axis=0)
  return mutual / entropy


@pytest.mark.parametrize('names', ['xy', 'xz', 'yz'])
def test_a_complete_grid_is_scored_as_in_the_competition(names):
  [found] = agreement.shares([NOISE], GAP, FIELDS, names)
  assert found == pytest.approx(_as_scored(NOISE, GAP, names), abs=1e-12)
  assert 0.02 < found < 0.98


def test_a_small_table_by_hand():
  """Three models, of 9 pairs; the measure has a tie, and is else right."""
  # Pairs by (larger gap, larger measure): of the three with the larger gap
  # one ties in the measure; of the six others none has the larger measure.
  gap, measure = [1, 2, 3], [1, 1, 2]
  mutual, entropy = _of_table([[6, 0], [1, 2]])
  [found] = agreement.shares([measure], gap, {}, ())
  assert found == pytest.approx(mutual / entropy)
  # With h: the pairs of the first two models, of these with the third, of the
  # third with these, and of the third with itself.
  known = {'h': [0, 0, 1]}
  [found] = agreement.shares([measure], gap, known, ('h',))
  mutual, entropy = _of_table([[3, 0], [1, 0]])
  assert (mutual, found) == (0, 0) and entropy > 0
  assert agreement.information(measure, gap, known)[:2] == (0, ('h',))


def test_sets_have_two_hyper_parameters_at_most():
  found = [''.join(names) for names in agreement.conditions(FIELDS)]
  assert found == ['', 'x', 'y', 'z', 'xy', 'xz', 'yz']


@pytest.mark.parametrize(
  'measure', [GAP, np.exp(GAP), np.searchsorted(np.sort(GAP), GAP)]
)
def test_a_perfect_measure_has_1(measure):
  found = agreement.information(measure, GAP, FIELDS)
  assert found.value == pytest.approx(1)
  assert found.chance < 0.6
  assert agreement.kendall(measure, GAP).value == pytest.approx(1)


def test_ties_that_agree_are_predicted():
  gap = [1, 1, 2, 2, 3]
  assert agreement.information(gap, gap, {}).value == pytest.approx(1)
  assert agreement.kendall(gap, gap).value == pytest.approx(1)


def test_the_reverse_is_told_by_tau():
  """The pairs of a model with itself are in the same order both ways."""
  found = agreement.information(-GAP, GAP, {})
  mutual, entropy = _of_table([[12, 66], [66, 0]])
  assert found.value == pytest.approx(mutual / entropy)
  assert agreement.kendall(-GAP, GAP).value == pytest.approx(-1)


def test_a_measure_without_information_has_0():
  constant = agreement.information([3.0] * 12, GAP, FIELDS)
  assert constant.value == pytest.approx(0)
  # It follows x, and the gap does not: independent, as the grid is complete.
  measure = [float(x == 'b') for x in FIELDS['x']]
  gap = FIELDS['y']
  [found] = agreement.shares([measure], gap, {}, ())
  assert found == pytest.approx(0, abs=1e-12)


def test_a_measure_that_only_tells_a_hyper_parameter_has_0():
  """The gap depends on x above all, and the measure is x."""
  measure = [float(x == 'b') for x in FIELDS['x']]
  gap = np.array(measure) + 0.01 * GAP
  assert agreement.kendall(measure, gap).value > 0.6
  found = agreement.information(measure, gap, FIELDS)
  assert found.value == pytest.approx(0)
  assert 'x' in found.given
  blind = agreement.information(measure, gap, {'y': FIELDS['y']})
  assert blind.value > 0.2


def test_a_constant_hyper_parameter_changes_nothing():
  one = {'x': FIELDS['x']}
  found = agreement.information(NOISE, GAP, one)
  assert found == agreement.information(NOISE, GAP, one | {'c': [7] * 12})
  assert found.value == min(
    *agreement.shares([NOISE], GAP, one, ()),
    *agreement.shares([NOISE], GAP, one, ('x',)),
  )


def test_what_leaves_nothing_to_say_is_left_out():
  """Each model has a value of its own: a pair is known by its values."""
  own = {'own': range(12)}
  assert agreement.shares([NOISE], GAP, own, ('own',)) is None
  found = agreement.information(NOISE, GAP, own)
  assert found == agreement.information(NOISE, GAP, {})


def test_a_gap_that_is_the_same_everywhere_has_no_number():
  found = agreement.information(NOISE, [0.5] * 12, FIELDS)
  assert math.isnan(found.value) and math.isnan(found.chance)
  assert math.isnan(agreement.kendall(NOISE, [0.5] * 12).value)


def test_chance_is_exceeded_by_few_measures_without_information():
  """By 5 % of many; of 400 it was 4.5 to 7.5 %."""
  rng = np.random.default_rng(1)
  found = [
    agreement.information(rng.normal(size=12), GAP, FIELDS) for _ in range(30)
  ]
  assert np.mean([f.value > f.chance for f in found]) < 0.25
  assert min(f.chance for f in found) > np.median([f.value for f in found])


def test_taus_by_hand():
  # Of the 6 pairs 4 agree, 1 does not, 1 ties in the measure: tau-b.
  found = agreement.kendall([1, 1, 2, 3], [1, 2, 4, 3])
  assert found.value == pytest.approx((4 - 1) / math.sqrt(5 * 6))
  assert 0 < found.p_value < 1
