"""m-sharpness against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import analysis
from sam_jax.analysis import sharpness
from tests import curved

INF = np.inf
GROUPS = [curved.cut(part, 10) for part in curved.cut(curved.DATA, 16)]
_rng = np.random.default_rng(3)
SLOPES = _rng.normal(size=(12, 6)).astype(np.float32)
POINT = _rng.normal(size=6).astype(np.float32)


@functools.cache
def _linear():
  """A model whose loss is x . w: the highest point of a ball is known."""
  objective = analysis.Objective(
    lambda w, batch: batch['x'] @ w,
    [],
    batch_size=12,
    devices=jax.devices()[:1],
  )
  groups = [curved.cut({'x': SLOPES[i : i + 4]}, 12) for i in (0, 4, 8)]
  return objective, groups


@pytest.mark.parametrize('steps', [1, 5])
@pytest.mark.parametrize('eta', [None, 0.0, 0.2])
@pytest.mark.parametrize(('p', 'dual'), [(2, 2), (INF, 1)])
def test_a_linear_model_has_its_closed_form(p, dual, eta, steps):
  objective, groups = _linear()
  found = analysis.worst_case(
    objective, POINT, groups, analysis.Ball(0.3, p, eta), steps=steps
  )
  stretch = np.ones(6) if eta is None else np.abs(POINT) + eta
  slopes = SLOPES.reshape(3, 4, 6).mean(axis=1)
  expected = [0.3 * np.linalg.norm(stretch * g, dual) for g in slopes]
  # Differences of losses of order 1 in float32.
  np.testing.assert_allclose(found.groups, expected, atol=2e-6)
  assert found.mean == pytest.approx(np.mean(expected), abs=2e-6)
  error = np.std(expected, ddof=1) / np.sqrt(3)
  assert found.standard_error == pytest.approx(error, abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  'ball',
  [
    analysis.Ball(0.4),
    analysis.Ball(0.03, INF),
    analysis.Ball(0.6, 2.0, 0.0),
  ],
)
def test_more_steps_and_starts_find_no_lower_point(ball):
  given = curved.objective(10), curved.PARAMS, GROUPS, ball
  one = analysis.worst_case(*given).groups
  more = analysis.worst_case(*given, steps=8).groups
  most = analysis.worst_case(*given, steps=8, restarts=2).groups
  assert np.all(more >= one) and np.mean(more) > np.mean(one) + 1e-4
  assert np.all(most >= more)


def test_a_random_start_is_one_of_the_points_found():
  """Of a peak near one; steps from there and from w lead elsewhere."""
  ball, w = analysis.Ball(0.5), np.zeros(5, np.float32)
  start = np.asarray(ball.draw(sharpness._key(0, 0, 1), w))
  widths = np.float32([1, 3, 10, 30, 100])
  objective = analysis.Objective(
    lambda w, batch: -batch['x'] * jnp.sum(widths * (w - 0.99 * start) ** 2),
    [],
    devices=jax.devices()[:1],
  )
  groups = [[{'x': np.ones(2, np.float32)}]]
  found = analysis.worst_case(objective, w, groups, ball, restarts=2)
  # All but 1e-4 of the way from w's loss to the peak's, 0.
  expected = np.sum(widths * (0.99 * start) ** 2)
  assert found.mean == pytest.approx(expected, rel=1e-3)
  alone = analysis.worst_case(objective, w, groups, ball)
  assert alone.mean < 0.9 * expected


def test_ascent_stays_within_the_ball():
  # Along a parabola the highest point is its edge, in either direction.
  objective = analysis.Objective(
    lambda w, batch: batch['x'] * jnp.sum(w**2), [], devices=jax.devices()[:1]
  )
  groups = [[{'x': np.ones(2, np.float32)}]]
  w = np.float32([0.1, 0.2])
  found = analysis.worst_case(
    objective, w, groups, analysis.Ball(0.5), steps=20
  )
  expected = (np.linalg.norm(w) + 0.5) ** 2 - np.sum(w**2)
  assert found.mean == pytest.approx(expected, rel=1e-5)


def _relu_loss(params, batch):
  return curved.loss(params, batch, jax.nn.relu)


def test_the_highest_point_on_the_way_counts():
  # The first step passes the peak, and the second goes back too far.
  objective = analysis.Objective(
    lambda w, batch: -batch['x'] * jnp.sum((w - 0.9) ** 2),
    [],
    devices=jax.devices()[:1],
  )
  groups = [[{'x': np.ones(2, np.float32)}]]
  given = objective, np.zeros(1, np.float32), groups, analysis.Ball(1.0)
  one = analysis.worst_case(*given).mean
  assert one == pytest.approx(0.81 - 0.01, rel=1e-5)
  assert analysis.worst_case(*given, steps=2).mean == pytest.approx(one)


@pytest.mark.parametrize('p', [2, INF])
@pytest.mark.parametrize('steps', [1, 4])
def test_the_adaptive_one_does_not_see_a_factor_between_layers(p, steps):
  # ReLU lets a factor through: the same function, other parameters.
  moved = {
    'a': curved.PARAMS['a'] * 8,
    'b': curved.PARAMS['b'] * 8,
    'c': curved.PARAMS['c'] / 8,
  }
  objective = curved.objective(10, loss_fn=_relu_loss)

  def measure(params, eta):
    ball = analysis.Ball(0.05, p, eta)
    return analysis.worst_case(
      objective, params, GROUPS, ball, steps=steps
    ).mean

  adaptive = measure(curved.PARAMS, 0.0)
  assert adaptive > 1e-2
  assert measure(moved, 0.0) == pytest.approx(adaptive, rel=1e-4)
  plain = measure(curved.PARAMS, None)
  assert not 0.5 < measure(moved, None) / plain < 2


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'devices'), [(16, 1), (3, 8)])
def test_neither_microbatches_nor_devices_change_it(size, devices):
  ball = analysis.Ball(0.3)
  options = {'steps': 3, 'restarts': 2}
  expected = analysis.worst_case(
    curved.objective(10), curved.PARAMS, GROUPS, ball, **options
  )
  groups = [curved.cut(part, size) for part in curved.cut(curved.DATA, 16)]
  objective = curved.objective(size, devices)
  found = analysis.worst_case(objective, curved.PARAMS, groups, ball, **options)
  np.testing.assert_allclose(found.groups, expected.groups, atol=5e-6)
  expected = analysis.average_case(
    curved.objective(10), curved.PARAMS, GROUPS, ball
  )
  found = analysis.average_case(objective, curved.PARAMS, groups, ball)
  np.testing.assert_allclose(found.groups, expected.groups, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize('eta', [None, 0.0])
def test_random_directions_of_a_parabola_rise_by_its_trace(eta):
  curvatures = np.float32([1, 2, 3, 4, 10])
  objective = analysis.Objective(
    lambda w, batch: batch['x'] * jnp.sum(curvatures * (w - 2) ** 2) / 2,
    [],
    devices=jax.devices()[:1],
  )
  groups = [[{'x': np.ones(1, np.float32)}]]
  at = np.full(5, 2, np.float32)
  found = analysis.average_case(
    objective, at, groups, analysis.Ball(0.5, 2.0, eta), num_samples=500
  )
  stretch = 1 if eta is None else 2
  # The mean of a quadratic form over a sphere; 500 draws leave 2 %.
  expected = (0.5 * stretch) ** 2 * curvatures.mean() / 2
  assert found.mean == pytest.approx(expected, rel=0.08)


@pytest.mark.slow
def test_random_points_are_as_far_away_as_the_worst():
  key = jax.random.key(0)
  for p in (2, INF):
    drawn = analysis.Ball(0.3, p).draw(key, curved.PARAMS)
    assert np.linalg.norm(curved.flat(drawn), p) == pytest.approx(0.3, rel=1e-5)
    drawn = analysis.Ball(0.3, p, 0.1).draw(key, curved.PARAMS)
    stretched = curved.flat(drawn) / (np.abs(curved.flat(curved.PARAMS)) + 0.1)
    assert np.linalg.norm(stretched, p) == pytest.approx(0.3, rel=1e-5)


@pytest.mark.parametrize(
  'ball, message',
  [
    (analysis.Ball(-1.0), 'rho is -1'),
    (analysis.Ball(0.1, 3), 'p is 3; a ball has p = 2 or p = inf'),
    (analysis.Ball(0.1, 2.0, -1.0), 'eta is -1'),
  ],
)
def test_what_is_no_ball_is_refused(ball, message):
  for measure in (analysis.worst_case, analysis.average_case):
    with pytest.raises(ValueError, match=message):
      measure(curved.objective(), curved.PARAMS, GROUPS, ball)


def test_what_cannot_be_measured_is_refused():
  ball = analysis.Ball(0.1)
  objective = curved.objective()
  with pytest.raises(ValueError, match='there are no groups'):
    analysis.worst_case(objective, curved.PARAMS, [], ball)
  with pytest.raises(ValueError, match='steps is 0; it must be at least 1'):
    analysis.worst_case(objective, curved.PARAMS, GROUPS, ball, steps=0)
  with pytest.raises(ValueError, match='num_samples is 0'):
    analysis.average_case(objective, curved.PARAMS, GROUPS, ball, num_samples=0)
  params = jax.tree.map(lambda w: w * np.nan, curved.PARAMS)
  with pytest.raises(ValueError, match='the loss of group 0 rises by nan'):
    analysis.worst_case(objective, params, GROUPS, ball)
