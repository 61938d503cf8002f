"""Slices through a loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import analysis
from tests import curved

COORDINATES = np.array([-0.5, 0.0, 1.0])


def _exact(params):
  return float(jnp.mean(curved.loss(params, curved.DATA)))


def _moved(directions, place):
  params = curved.PARAMS
  for direction, c in zip(directions, place, strict=True):
    params = jax.tree.map(lambda w, d, c=c: w + c * d, params, direction)
  return params


def test_a_direction_has_the_norm_of_every_filter():
  params = {'kernel': np.random.default_rng(0).normal(size=(3, 3, 2, 5))}
  params['kernel'][..., 1] = 0
  params |= {'bias': np.ones(5), 'dense': np.full((4, 2), 3.0)}
  direction = analysis.random_direction(params)
  assert not direction['bias'].any()
  for name in ('kernel', 'dense'):
    filters = [
      np.asarray(x[name]).reshape(-1, x[name].shape[-1])
      for x in (direction, params)
    ]
    norms = [np.linalg.norm(f, axis=0) for f in filters]
    np.testing.assert_allclose(*norms, rtol=1e-6)
    assert np.abs(filters[0] - filters[1]).max() > 0.1
  other = analysis.random_direction(params, seed=1)
  assert np.abs(direction['dense'] - other['dense']).max() > 0.1


@pytest.mark.parametrize(('size', 'devices'), [(64, 1), (9, 8)])
def test_a_slice_has_the_loss_of_every_point(size, devices):
  objective = curved.objective(size, devices)
  directions = [analysis.random_direction(curved.PARAMS, s) for s in (0, 1)]
  line = analysis.scan(objective, curved.PARAMS, directions[:1], COORDINATES)
  expected = [_exact(_moved(directions[:1], [c])) for c in COORDINATES]
  np.testing.assert_allclose(line, expected, rtol=1e-5)
  plane = analysis.scan(objective, curved.PARAMS, directions, COORDINATES)
  expected = [
    [_exact(_moved(directions, (a, b))) for b in COORDINATES]
    for a in COORDINATES
  ]
  np.testing.assert_allclose(plane, expected, rtol=1e-5)


def test_along_an_eigenvector_the_loss_bends_by_the_eigenvalue():
  objective = curved.objective()
  values, vectors = analysis.top_eigenpairs(objective, curved.PARAMS, 2)
  step = 0.1
  for value, vector in zip(values, vectors, strict=True):
    low, middle, high = analysis.scan(
      objective, curved.PARAMS, [vector], np.array([-step, 0, step])
    )
    # Float32 losses leave 1e-5 of the second difference, the fourth
    # derivative some per cent.
    assert (low + high - 2 * middle) / step**2 == pytest.approx(value, rel=0.05)


def test_the_way_between_two_networks_begins_and_ends_with_them():
  end = jax.tree.map(lambda w: 2 * w + 1, curved.PARAMS)
  found = analysis.interpolate(
    curved.objective(), curved.PARAMS, end, np.array([0.0, 0.5, 1.0])
  )
  middle = jax.tree.map(lambda w: 1.5 * w + 0.5, curved.PARAMS)
  expected = [_exact(p) for p in (curved.PARAMS, middle, end)]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_networks_of_other_models_have_no_line_between_them():
  other = curved.PARAMS | {'a': np.ones((2, 2), np.float32)}
  with pytest.raises(ValueError, match='one and the same model'):
    analysis.interpolate(curved.objective(), curved.PARAMS, other, COORDINATES)


def test_three_directions_are_refused():
  direction = analysis.random_direction(curved.PARAMS)
  with pytest.raises(ValueError, match='3 directions are given'):
    analysis.scan(
      curved.objective(), curved.PARAMS, [direction] * 3, COORDINATES
    )
