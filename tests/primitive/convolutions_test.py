"""Convolutions in the order of axes that is fast in branches on a CPU."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sam_jax import convolutions

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 6)), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 6, 8)), jnp.float32)


def _loss(options):
  def loss(w, x):
    shape = (*w.shape[:2], w.shape[2] // options.get('feature_group_count', 1))
    w = w[:, :, : shape[2]]
    convolved = lax.conv_general_dilated(
      x,
      w,
      options.get('window_strides', (1, 1)),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=options.get('feature_group_count', 1),
      rhs_dilation=options.get('rhs_dilation', (1, 1)),
    )
    # A function that is compiled apart, as many of jax.numpy are.
    return jnp.sum(jax.jit(jnp.tanh)(convolved) ** 2)

  return loss


def _convolutions(jaxpr):
  """Yields the axes of all convolutions of a program."""
  for eqn in jaxpr.eqns:
    if eqn.primitive is lax.conv_general_dilated_p:
      yield tuple(eqn.params['dimension_numbers'])
    for value in eqn.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from _convolutions(inner)


CANONICAL = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'window_strides': (2, 2)},
    {'rhs_dilation': (2, 1)},
    {'feature_group_count': 2},
  ],
  ids=str,
)
def test_gradients_are_the_same_with_all_axes_in_order(options):
  fun = jax.value_and_grad(_loss(options), (0, 1))
  changed = convolutions.canonical(fun)
  found = set(_convolutions(jax.make_jaxpr(changed)(W, X).jaxpr))
  assert found == {CANONICAL}
  assert set(_convolutions(jax.make_jaxpr(fun)(W, X).jaxpr)) != found
  expected, actual = jax.jit(fun)(W, X), jax.jit(changed)(W, X)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4),
    actual,
    expected,
  )


def test_what_is_computed_again_going_backward_is_in_order_too():
  fun = jax.grad(jax.checkpoint(_loss({})), (0, 1))
  changed = convolutions.canonical(fun)
  made = jax.make_jaxpr(changed)(W, X).jaxpr
  assert set(_convolutions(made)) == {CANONICAL}
  # One convolution and its two gradients are in the part computed again.
  (again,) = (e for e in made.eqns if convolutions._is_remat(e))
  assert len(list(_convolutions(again.params['jaxpr']))) == 3
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4),
    jax.jit(changed)(W, X),
    jax.jit(fun)(W, X),
  )


def test_any_order_of_axes_is_brought_into_it():
  x, w = X[:2, :4, :5, :3], W[:, :2, :3, :4]
  expected = lax.conv_general_dilated(
    x, w, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  orders = [('NCHW', 'OIHW', 'CNWH'), ('CWNH', 'IHWO', 'NCHW')]
  for lhs, rhs, out in orders:
    given = lax.transpose(x, ['NHWC'.index(c) for c in lhs])
    kernel = lax.transpose(w, ['HWIO'.index(c) for c in rhs])

    def convolve(given=given, kernel=kernel, numbers=(lhs, rhs, out)):
      # Space is named in the order of the input: H and W may be exchanged.
      return lax.conv_general_dilated(
        given, kernel, (1, 1), 'VALID', dimension_numbers=numbers
      )

    found = convolutions.canonical(convolve)()
    np.testing.assert_allclose(found, convolve(), rtol=1e-5, atol=1e-5)
    assert found.size == expected.size


def test_what_is_closed_over_differentiates_and_maps_as_before():
  def fun(scale):
    branch = convolutions.canonical(lambda: scale * _loss({})(W, X))
    return lax.cond(scale > 0, branch, lambda: 0.0)

  scales = jnp.array([0.5, -1.0, 2.0])
  slope = _loss({})(W, X)
  np.testing.assert_allclose(
    jax.vmap(fun)(scales), slope * jnp.maximum(scales, 0), rtol=1e-6
  )
  np.testing.assert_allclose(jax.grad(fun)(2.0), slope, rtol=1e-6)


def test_a_function_without_convolutions_and_another_device_stay(monkeypatch):
  calls = itertools.count()

  def fun(x):
    next(calls)
    return {'y': x + 1}

  assert convolutions.canonical(fun)(1.0) == {'y': 2.0}
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert convolutions.canonical(fun) is fun
