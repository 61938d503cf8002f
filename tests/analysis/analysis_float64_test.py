"""In float64, spectra are those of a dense Hessian to a dozen digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util

from sam_jax import analysis
from tests import curved


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def _problem(dtype=np.float64):
  def cast(x):
    return x.astype(dtype) if x.dtype == np.float32 else x

  params, data = (jax.tree.map(cast, t) for t in (curved.PARAMS, curved.DATA))
  return curved.objective(24, 1, data=data), params, data


@pytest.fixture(scope='module')
def exact():
  """The eigenvalues of the Hessian, formed in float64, ascending."""
  with jax.enable_x64(True):
    _, params, data = _problem()
    flat, unravel = flatten_util.ravel_pytree(params)
    matrix = jax.hessian(lambda v: jnp.mean(curved.loss(unravel(v), data)))(
      flat
    )
    assert matrix.dtype == np.float64
    return np.linalg.eigh(np.asarray(matrix))


def test_the_ends_of_the_spectrum_are_exact(exact):
  objective, params, _ = _problem()
  values, vectors = exact
  largest = analysis.top_eigenpairs(objective, params, 4)
  smallest = analysis.bottom_eigenpairs(objective, params, 4)
  scale = values[-1]
  np.testing.assert_allclose(
    largest.values, values[::-1][:4], rtol=0, atol=1e-12 * scale
  )
  np.testing.assert_allclose(
    smallest.values, values[:4], rtol=0, atol=1e-12 * scale
  )
  for found, i in ((largest, -1), (smallest, 0)):
    cosine = curved.flat(found.vectors[0]) @ vectors[:, i]
    assert abs(cosine) == pytest.approx(1, abs=1e-12)
    assert {x.dtype.name for x in jax.tree.leaves(found.vectors)} == {'float64'}


def test_trace_and_density_are_exact(exact):
  objective, params, _ = _problem()
  values, vectors = exact
  matrix = (vectors * values) @ vectors.T
  found = analysis.trace(objective, params, 2)
  for i, sample in enumerate(found.samples):
    signs = np.random.default_rng([0, i]).integers(0, 2, len(values)) * 2 - 1
    assert sample == pytest.approx(signs @ matrix @ signs, rel=1e-12)
  spectrum = analysis.spectrum(objective, params, num_probes=1, num_steps=40)
  assert spectrum.nodes.max() == pytest.approx(values[-1], rel=1e-12)
  # Two moments of the probe, which the quadrature has exactly.
  signs = np.random.default_rng([0, 0]).integers(0, 2, len(values)) * 2 - 1
  for power in (1, 2):
    moment = signs @ np.linalg.matrix_power(matrix, power) @ signs / len(values)
    nodes, weights = spectrum.nodes[0], spectrum.weights[0]
    assert weights @ nodes**power == pytest.approx(moment, rel=1e-11)


def test_values_gradients_and_slices_are_in_float64():
  objective, params, data = _problem()

  def mean(p):
    return jnp.mean(curved.loss(p, data))

  value, grads = jax.value_and_grad(mean)(params)
  found, found_grads = objective.value_and_grad(params)
  assert found == pytest.approx(float(value), rel=1e-14)
  np.testing.assert_allclose(
    curved.flat(found_grads), curved.flat(grads), atol=1e-15
  )
  (moved,) = analysis.scan(objective, params, [grads], np.array([0.1]))
  expected = mean(jax.tree.map(lambda p, g: p + 0.1 * g, params, grads))
  assert moved == pytest.approx(float(expected), rel=1e-14)
  sphere = analysis.Ball(0.5).draw(jax.random.key(0), params)
  assert np.linalg.norm(curved.flat(sphere)) == pytest.approx(0.5, rel=1e-14)
  rise = analysis.worst_case(
    objective, params, [curved.cut(data, 64)], analysis.Ball(0.01)
  )
  length = np.linalg.norm(curved.flat(grads))
  step = jax.tree.map(lambda p, g: p + 0.01 * g / length, params, grads)
  assert rise.mean == pytest.approx(float(mean(step) - value), rel=1e-11)


def test_narrower_parameters_keep_their_dtype_under_x64():
  """Without a warning that an array is cast."""
  objective, params, _ = _problem(np.float32)
  found = analysis.top_eigenpairs(objective, params, 2)
  assert {x.dtype.name for x in jax.tree.leaves(found.vectors)} == {'float32'}
  analysis.spectrum(objective, params, num_probes=1, num_steps=5)
