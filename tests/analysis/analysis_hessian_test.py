"""Spectra against matrices that are known or can be formed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import analysis
from tests import curved

_rng = np.random.default_rng(1)
SIZE = 60
# The one of the largest magnitude is none of the largest.
VALUES = np.r_[-30.0, np.linspace(-0.5, 2, SIZE - 6), 5, 8, 9, 12, 20]
BASIS, _ = np.linalg.qr(_rng.normal(size=(SIZE, SIZE)))
MATRIX = (BASIS * VALUES) @ BASIS.T


def _quadratic(matrix=MATRIX):
  """The loss w A w / 2 on average, of examples that scale it differently."""
  matrix = jnp.float32(matrix)

  def loss(params, batch):
    w = jnp.concatenate([params['u'], params['v']])
    return batch['scale'] * (w @ matrix @ w) / 2

  size = len(matrix)
  params = {'u': np.ones(size // 3, np.float32)}
  params['v'] = np.ones(size - size // 3, np.float32)
  data = {'scale': np.float32([0.5, 1.5, 0.25, 1.75, 1])}
  return curved.objective(2, loss_fn=loss, data=data), params


def test_the_largest_eigenvalues_of_a_known_matrix():
  objective, params = _quadratic()
  found = analysis.top_eigenpairs(objective, params, 5)
  np.testing.assert_allclose(found.values, [20, 12, 9, 8, 5], rtol=1e-4)
  for i, vector in enumerate(found.vectors):
    assert vector.keys() == params.keys()
    cosine = abs(curved.flat(vector) @ BASIS[:, -1 - i])
    assert cosine == pytest.approx(1, abs=1e-4)


def test_the_smallest_eigenvalues_of_a_known_matrix():
  objective, params = _quadratic()
  found = analysis.bottom_eigenpairs(objective, params, 2)
  np.testing.assert_allclose(found.values, np.sort(VALUES)[:2], atol=1e-3)
  cosine = abs(curved.flat(found.vectors[0]) @ BASIS[:, 0])
  assert cosine == pytest.approx(1, abs=1e-4)


def test_the_trace_lies_within_its_error_bar():
  objective, params = _quadratic()
  for seed in range(3):
    found = analysis.trace(objective, params, 100, seed=seed)
    assert len(set(found.samples)) > 90
    assert abs(found.mean - VALUES.sum()) < 3 * found.standard_error
    # The variance of Hutchinson's estimate by random signs.
    off_diagonal = MATRIX - np.diag(np.diag(MATRIX))
    expected = np.sqrt(2 * np.sum(off_diagonal**2) / 100)
    assert found.standard_error == pytest.approx(expected, rel=0.3)


def test_the_trace_of_a_diagonal_matrix_is_exact():
  objective, params = _quadratic(np.diag(VALUES))
  found = analysis.trace(objective, params, 1)
  assert found.mean == pytest.approx(VALUES.sum(), rel=1e-5)
  assert np.isnan(found.standard_error)


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'devices'), [(64, 1), (9, 8)])
def test_a_network_has_the_eigenvalues_of_its_formed_hessian(size, devices):
  expected = np.linalg.eigvalsh(curved.whole_hessian())[::-1]
  objective = curved.objective(size, devices)
  found = analysis.top_eigenpairs(objective, curved.PARAMS, 5)
  np.testing.assert_allclose(found.values, expected[:5], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'devices'), [(64, 1), (9, 8)])
def test_the_density_of_a_network_is_that_of_its_formed_hessian(size, devices):
  exact = np.linalg.eigvalsh(curved.whole_hessian())
  found = analysis.spectrum(
    curved.objective(size, devices),
    curved.PARAMS,
    num_probes=3,
    num_steps=40,
  )
  np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-6)
  # The ends of the spectrum are found first.
  np.testing.assert_allclose(found.nodes.max(axis=1), exact.max(), rtol=1e-4)
  np.testing.assert_allclose(found.nodes.min(axis=1), exact.min(), rtol=1e-4)
  grid = np.linspace(-1, 1.5, 500)
  width = 0.1
  bumps = np.exp(-(((grid[:, None] - exact) / width) ** 2) / 2)
  density = bumps.mean(axis=1) / (width * np.sqrt(2 * np.pi))
  error = np.abs(found.density(grid, width) - density).sum() * np.diff(grid)[0]
  # Half of the distance would be the share of mass in a wrong place; three
  # probes of 182 signs leave some per cent.
  assert error < 0.25


def test_the_quadrature_is_exact_for_moments_of_its_probe():
  objective, params = _quadratic(np.diag(VALUES))
  found = analysis.spectrum(objective, params, num_probes=1, num_steps=10)
  for power in range(5):
    # A probe of signs weighs every entry of a diagonal matrix the same.
    moment = np.sum(found.weights * found.nodes**power)
    assert moment == pytest.approx(np.mean(VALUES**power), rel=1e-4)


@pytest.mark.parametrize('values', [np.zeros(30), np.r_[np.zeros(29), 4.0]])
def test_a_space_that_is_exhausted_early_is_no_nan(values):
  objective, params = _quadratic(np.diag(values))
  found = analysis.spectrum(objective, params, num_probes=1, num_steps=50)
  assert found.nodes.shape == (1, 30)
  assert np.isfinite(found.nodes).all()
  assert found.weights.sum() == pytest.approx(1, abs=1e-5)
  mean = np.sum(found.nodes * found.weights)
  assert mean == pytest.approx(values.mean(), abs=1e-5)


@pytest.mark.parametrize('k', [1, 4, 6])
def test_a_matrix_too_small_for_arpack_is_formed(k):
  values = np.float64([1, -2, 3, 9, 5, 4])
  objective, params = _quadratic(np.diag(values))
  found = analysis.top_eigenpairs(objective, params, k)
  np.testing.assert_allclose(
    found.values, np.sort(values)[::-1][:k], rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize('k', [0, 61])
def test_a_k_out_of_range_is_refused(k):
  objective, params = _quadratic()
  with pytest.raises(
    ValueError, match=rf'k is {k}; it must be (in \[1, 60\]|at)'
  ):
    analysis.top_eigenpairs(objective, params, k)


@pytest.mark.parametrize(
  'measure',
  [
    analysis.top_eigenpairs,
    lambda *args: analysis.trace(*args, 2),
    lambda *args: analysis.spectrum(*args, num_steps=3),
  ],
)
def test_parameters_that_are_nan_are_refused(measure):
  params = jax.tree.map(lambda w: w * np.nan, curved.PARAMS)
  with pytest.raises(ValueError, match='is not finite'):
    measure(curved.objective(), params)


def test_numbers_below_one_are_refused():
  objective, params = _quadratic()
  with pytest.raises(ValueError, match='num_probes is 0'):
    analysis.trace(objective, params, 0)
  with pytest.raises(ValueError, match='num_steps is -1'):
    analysis.spectrum(objective, params, num_steps=-1)
