"""Shake-Shake and ShakeDrop: coefficients, their gradients, their keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from sam_jax.models import shake

_SHAPE = (3, 2, 2, 1)


def _inputs():
  keys = jax.random.split(jax.random.key(0))
  return [jax.random.normal(key, _SHAPE) for key in keys]


def _run(layer, *inputs, seed=7):
  return layer.apply({}, *inputs, rngs={'dropout': jax.random.key(seed)})


def _coefficients(layer, *inputs, seed=7):
  """Returns (forward, backward) coefficients of the inputs, per example."""
  output, vjp_fn = jax.vjp(lambda *x: _run(layer, *x, seed=seed), *inputs)
  ones = jnp.ones(_SHAPE)
  backward = [np.asarray(g) for g in vjp_fn(ones)]
  return output, backward


def test_shake_shake_mixes_with_other_weights_backward():
  a, b = _inputs()
  output, (from_a, from_b) = _coefficients(shake.ShakeShake(True), a, b)
  # One weight per example, and the two branches' add up to 1.
  for weights in (from_a, from_b):
    assert np.ptp(weights, axis=(1, 2, 3)).max() == 0
  np.testing.assert_allclose(from_a + from_b, 1, atol=1e-6)
  assert len(np.unique(from_a)) == 3
  forward = np.asarray((output - b) / (a - b))
  np.testing.assert_allclose(
    forward, np.broadcast_to(forward[:, :1, :1, :1], _SHAPE), rtol=1e-4
  )
  assert np.all((forward > 0) & (forward < 1))
  assert np.abs(forward - from_a).min() > 1e-3


def test_shake_shakes_true_gradient_is_that_of_what_it_computes():
  a, b = _inputs()
  output, (from_a, from_b) = _coefficients(shake.ShakeShake(True, True), a, b)
  np.testing.assert_allclose(output, a * from_a + b * from_b, rtol=1e-5)
  plain = _run(shake.ShakeShake(True), a, b)
  np.testing.assert_allclose(output, plain, rtol=1e-5, atol=1e-6)


def test_shake_shake_evaluates_to_the_mean():
  a, b = _inputs()
  output = shake.ShakeShake(False).apply({}, a, b)
  np.testing.assert_array_equal(output, (a + b) / 2)


@pytest.mark.parametrize('true_gradient', [False, True])
def test_shake_drop_keeps_or_multiplies(true_gradient):
  x = jnp.ones((4000, 1, 1, 1))
  layer = shake.ShakeDrop(0.7, train=True, true_gradient=true_gradient)
  output, vjp_fn = jax.vjp(lambda x: _run(layer, x), x)
  forward, backward = (np.ravel(v) for v in (output, *vjp_fn(x)))
  kept = forward == 1
  # Five standard deviations of a Bernoulli mean.
  assert abs(kept.mean() - 0.7) < 5 * (0.7 * 0.3 / 4000) ** 0.5
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
  x = jnp.ones((2, 1, 1, 1))
  output = shake.ShakeDrop(0.7, train=False).apply({}, x)
  np.testing.assert_allclose(output, 0.7, rtol=1e-6)


def test_scaling_has_a_second_derivative_forward_over_reverse():
  forward, backward = jnp.array([2.0]), jnp.array([3.0])
  grad_fn = jax.grad(lambda x: (shake.scale(x, forward, backward) ** 2).sum())
  x = jnp.full((1, 1, 1, 1), 5.0)
  gradient, tangent = jax.jvp(grad_fn, (x,), (jnp.ones_like(x),))
  # d/dx (2x)^2 = 2 (2x) with the inner 2 replaced by 3; then again.
  assert float(gradient[0, 0, 0, 0]) == 2 * (2 * 5) * 3
  assert float(tangent[0, 0, 0, 0]) == 2 * 3 * 3


@pytest.mark.parametrize('architecture', ['shake_shake', 'shake_drop'])
def test_both_passes_see_the_same_network(architecture):
  variables = zoo.tiny_variables(architecture)
  ascent = zoo.tiny_pass(architecture, true_gradient=True)(variables, 3)
  descent = zoo.tiny_pass(architecture)(variables, 3)
  zoo.assert_close(ascent['logits'], descent['logits'], 1e-5)
  np.testing.assert_allclose(ascent['loss'], descent['loss'], rtol=1e-5)
  differences = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), ascent['grads'], descent['grads']
  )
  assert max(jax.tree.leaves(differences)) > 1e-3
  other = zoo.tiny_pass(architecture, true_gradient=True)(variables, 4)
  assert np.abs(other['logits'] - ascent['logits']).max() > 1e-3


@pytest.mark.parametrize('architecture', ['shake_shake', 'shake_drop'])
def test_the_true_gradient_is_that_of_the_loss(architecture):
  variables = zoo.tiny_variables(architecture)

  def relative_slope(true_gradient):
    """Of the loss along the gradient; 1 if that is the loss's own."""
    run = zoo.tiny_pass(architecture, true_gradient=true_gradient)
    grads = run(variables, 3)['grads']
    norm = sum(float((g**2).sum()) for g in jax.tree.leaves(grads)) ** 0.5
    step = 1e-3 / norm

    def loss_at(distance):
      moved = jax.tree.map(
        lambda p, g: p + distance * g, variables['params'], grads
      )
      return float(run({**variables, 'params': moved}, 3)['loss'])

    return (loss_at(step) - loss_at(-step)) / (2 * step) / norm**2

  # Along the true gradient the loss rises by its squared norm.
  assert abs(relative_slope(True) - 1) < 0.05
  assert abs(relative_slope(False) - 1) > 0.1
