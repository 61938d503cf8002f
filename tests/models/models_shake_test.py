"""Shake-Shake and ShakeDrop: coefficients, their gradients, their keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.models import shake
from tests import zoo

_BATCH = 4000


def _through(function, *inputs):
  """Returns the output, and what it multiplies each input by backward."""
  output, vjp_fn = jax.vjp(function, *inputs)
  return output, [np.ravel(g) for g in vjp_fn(jnp.ones_like(output))]


def _weights(true_gradient, seed=7):
  return shake.shake_shake_coefficients(
    jax.random.key(seed), 2, _BATCH, true_gradient=true_gradient
  )


@pytest.mark.parametrize('true_gradient', [False, True])
def test_shake_shake_mixes_with_other_weights_backward(true_gradient):
  weights = _weights(true_gradient).of_block(1)
  # The first branch is 1 and the second 0: the output is the first's weight.
  a, b = jnp.ones((_BATCH, 1, 1, 1)), jnp.zeros((_BATCH, 1, 1, 1))
  output, (from_a, from_b) = _through(
    lambda a, b: shake.shake_shake(a, b, weights), a, b
  )
  forward = np.ravel(output)
  np.testing.assert_allclose(from_a + from_b, 1, atol=1e-6)
  for sample in (forward, from_a):
    assert 0 <= sample.min() < 0.01 and 0.99 < sample.max() <= 1
    # Five standard deviations of the mean of a uniform distribution.
    assert abs(sample.mean() - 0.5) < 5 * (1 / 12 / _BATCH) ** 0.5
  if true_gradient:
    np.testing.assert_allclose(from_a, forward, rtol=1e-6)
  else:
    assert abs(np.corrcoef(forward, from_a)[0, 1]) < 5 / _BATCH**0.5


def test_blocks_draw_independently_and_both_passes_the_same():
  first, second = (np.asarray(_weights(False).of_block(i)) for i in (0, 1))
  samples = np.concatenate([first, second])
  assert np.abs(np.corrcoef(samples) - np.eye(4)).max() < 5 / _BATCH**0.5
  ascent = _weights(True)
  np.testing.assert_array_equal(ascent.forward, _weights(False).forward)
  assert np.any(_weights(False, seed=8).forward != ascent.forward)


def test_shake_shake_evaluates_to_the_mean():
  a, b = jnp.full((1, 1, 1, 1), 3.0), jnp.full((1, 1, 1, 1), 5.0)
  assert float(shake.shake_shake(a, b, None)[0, 0, 0, 0]) == 4


@pytest.mark.parametrize('true_gradient', [False, True])
def test_shake_drop_keeps_or_multiplies(true_gradient):
  keep = 0.7
  coefficients = shake.shake_drop_coefficients(
    jax.random.key(7),
    jnp.array([0.2, keep]),
    _BATCH,
    true_gradient=true_gradient,
  ).of_block(1)
  output, (backward,) = _through(
    lambda x: shake.shake_drop(x, coefficients, keep),
    jnp.ones((_BATCH, 1, 1, 1)),
  )
  forward = np.ravel(output)
  kept = forward == 1
  # Five standard deviations of a Bernoulli mean.
  assert abs(kept.mean() - keep) < 5 * (keep * (1 - keep) / _BATCH) ** 0.5
  assert np.all(backward[kept] == 1)
  alpha, beta = forward[~kept], backward[~kept]
  assert -1 <= alpha.min() < -0.95 and 0.95 < alpha.max() <= 1
  assert abs(alpha.mean()) < 5 * (1 / 3 / len(alpha)) ** 0.5
  if true_gradient:
    np.testing.assert_allclose(beta, alpha, rtol=1e-6)
  else:
    assert 0 <= beta.min() < 0.05 and 0.95 < beta.max() <= 1
    assert abs(np.corrcoef(alpha, beta)[0, 1]) < 5 / len(alpha) ** 0.5


def test_shake_drop_evaluates_to_the_expectation():
  output = shake.shake_drop(jnp.ones((2, 1, 1, 1)), None, 0.7)
  np.testing.assert_allclose(output, 0.7, rtol=1e-6)


def test_scaling_has_a_second_derivative_forward_over_reverse():
  forward, backward = jnp.array([2.0]), jnp.array([3.0])
  grad_fn = jax.grad(lambda x: (shake.scale(x, forward, backward) ** 2).sum())
  x = jnp.full((1, 1, 1, 1), 5.0)
  gradient, tangent = jax.jvp(grad_fn, (x,), (jnp.ones_like(x),))
  # d/dx (2x)^2 = 2 (2x) with the inner 2 replaced by 3; then again.
  assert float(gradient[0, 0, 0, 0]) == 2 * (2 * 5) * 3
  assert float(tangent[0, 0, 0, 0]) == 2 * 3 * 3


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_value_is_the_forward_product_to_the_bit(dtype):
  x = jax.random.normal(jax.random.key(0), (_BATCH, 1, 1, 1)).astype(dtype)
  forward, backward = shake.shake_shake_draws(jax.random.key(1), 1, _BATCH)
  product = x * forward.reshape(-1, 1, 1, 1).astype(dtype)
  for other in (None, forward[0], backward[0]):
    scaled = jax.jit(shake.scale)(x, forward[0], other)
    assert scaled.dtype == dtype
    np.testing.assert_array_equal(scaled, product)


@pytest.mark.slow
@pytest.mark.parametrize('architecture', ['shake_shake', 'shake_drop'])
def test_both_passes_see_the_same_network(architecture):
  model, size = zoo.tiny(architecture)
  variables, images = zoo.tiny_variables(architecture), zoo.random_images(size)

  @functools.partial(jax.jit, static_argnames='true_gradient')
  def apply(variables, seed, true_gradient):
    rngs = {'dropout': jax.random.key(seed)}
    options = {'rngs': rngs, 'true_gradient': true_gradient}
    return model.apply(
      variables, images, train=True, mutable=['batch_stats'], **options
    )[0]

  ascent = np.asarray(apply(variables, 3, true_gradient=True))
  descent = np.asarray(apply(variables, 3, true_gradient=False))
  zoo.assert_close(ascent, descent, 1e-5)
  other = np.asarray(apply(variables, 4, true_gradient=True))
  assert np.abs(other - ascent).max() > 1e-3
