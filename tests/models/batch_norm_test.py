"""Batch normalisation, against flax's and against itself on parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sam_jax.models import batch_norm

_SETTINGS = {'momentum': 0.7, 'epsilon': 1e-2}


def _inputs(dtype=jnp.float32, shape=(6, 4, 5, 3)):
  """Images of an uneven mean and scale, and variables that differ from new."""
  rng = np.random.default_rng(0)
  x = rng.normal([1, -2, 0], [1, 0.5, 3], shape)
  vectors = rng.uniform(0.5, 2, (4, shape[-1])).astype(np.float32)
  variables = {
    'params': {'scale': vectors[0], 'bias': vectors[1]},
    'batch_stats': {'mean': vectors[2], 'var': vectors[3]},
  }
  return jnp.asarray(x, dtype), variables


def _run(layer, variables, x, weights):
  """Output, new statistics, gradients with respect to parameters and x."""

  def weighted(params, x):
    y, updated = layer.apply(
      variables | {'params': params}, x, mutable=['batch_stats']
    )
    # A plain sum of normalised values has no gradient, nor has one of squares.
    return jnp.sum(jnp.tanh(y.astype(jnp.float32)) * weights), (y, updated)

  compute = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))
  return compute(variables['params'], x)


@pytest.mark.parametrize('use_running_average', [False, True])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_equals_flax(use_running_average, dtype):
  x, variables = _inputs(dtype)
  weights = np.random.default_rng(1).normal(size=x.shape)
  settings = _SETTINGS | {'use_running_average': use_running_average}
  ours = _run(batch_norm.BatchNorm(**settings), variables, x, weights)
  flax = _run(nn.BatchNorm(**settings), variables, x, weights)
  assert _dtypes(ours) == _dtypes(flax)
  # A unit in the last place of bfloat16, where the output has no more digits.
  tolerance = 2e-5 if dtype == jnp.float32 else 8e-3
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      *(np.asarray(leaf, np.float32) for leaf in (a, b)),
      rtol=tolerance,
      atol=tolerance,
    ),
    ours,
    flax,
  )


def _dtypes(tree):
  return jax.tree.map(lambda leaf: leaf.dtype, tree)


def test_float16_parameters_and_inputs_give_float16():
  x, variables = _inputs(jnp.float16)
  half = jax.tree.map(np.float16, variables['params'])
  layer = batch_norm.BatchNorm(use_running_average=False)
  y, updated = layer.apply(
    variables | {'params': half}, x, mutable=['batch_stats']
  )
  assert y.dtype == jnp.float16
  assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {
    np.dtype('float32')
  }


def test_initialises_as_flax_and_leaves_new_statistics():
  x, _ = _inputs()
  ours, flax = (
    layer(use_running_average=False).init(jax.random.key(0), x)
    for layer in (batch_norm.BatchNorm, nn.BatchNorm)
  )
  assert jax.tree.structure(ours) == jax.tree.structure(flax)
  jax.tree.map(np.testing.assert_array_equal, ours, flax)


def test_averages_its_statistics_over_a_mapped_axis():
  x, variables = _inputs()
  whole = batch_norm.BatchNorm(use_running_average=False, **_SETTINGS)
  parts = batch_norm.BatchNorm(
    use_running_average=False, axis_name=('part',), **_SETTINGS
  )
  expected, expected_stats = whole.apply(variables, x, mutable=['batch_stats'])
  apply = functools.partial(parts.apply, variables, mutable=['batch_stats'])
  y, stats = jax.vmap(apply, axis_name='part')(x.reshape(3, 2, *x.shape[1:]))
  np.testing.assert_allclose(y.reshape(x.shape), expected, atol=2e-5)
  for i in range(3):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-5),  # noqa: B023
      stats,
      expected_stats,
    )


def test_of_a_constant_is_its_bias():
  """The mean of squares may come out below the square of the mean."""
  x = jnp.full((7, 3, 3, 2), 1000.1)
  layer = batch_norm.BatchNorm(use_running_average=False, epsilon=1e-5)
  variables = layer.init(jax.random.key(0), x)
  y, updated = layer.apply(variables, x, mutable=['batch_stats'])
  assert np.all(np.isfinite(y))
  assert np.all(np.asarray(updated['batch_stats']['var']) >= 0)
