"""Methods add nothing but their formula to gradients written by hand.

The operations are those that the compiler counts in the compiled program. Two
gradients of the network below are about 5,500 for each parameter.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sam_jax
from sam_jax import methods
from tests.methods.common_test import ROWS
from tests.methods.table import KEY, RATE, STEPS

# Operations for each parameter that a formula may have: about two for an inner
# product or a norm, as many for a sum of two scaled trees, 20 for a quantile.
_FORMULA = 24
_WIDTH, _EXAMPLES = 64, 512
_PARAMS = {f'norm{i}': {'scale': jnp.eye(_WIDTH)} for i in range(3)}
_SIZE = len(_PARAMS) * _WIDTH**2
_INPUTS = jnp.ones((_EXAMPLES, _WIDTH))
# One row for each method whose every step has exactly two gradients.
_TWO = {
  row.name: row
  for row in reversed(ROWS)
  if row.period == 1
  and not row.is_of_network
  and row.create().gradient_evaluations == 2
}


def _loss(params, x):
  for layer in params.values():
    x = jnp.tanh(x @ layer['scale'])
  return jnp.mean(x**2)


def _operations(function):
  compiled = jax.jit(function).lower(_PARAMS, _INPUTS).compile()
  return compiled.cost_analysis()['flops']


@functools.cache
def _by_hand():
  """Two calls of `jax.value_and_grad`, with the formula of SAM."""
  grad_fn = jax.value_and_grad(_loss)

  def sam(params, x):
    value, grads = grad_fn(params, x)
    squares = [jnp.vdot(g, g) for g in jax.tree.leaves(grads)]
    factor = 0.05 / jnp.sqrt(sum(squares))
    moved = jax.tree.map(lambda w, g: w + factor * g, params, grads)
    return value, grad_fn(moved, x)[1]

  return _operations(sam)


def test_value_and_grad_is_two_gradients_and_a_formula():
  found = _operations(sam_jax.value_and_grad(_loss, sam_jax.l2(0.05)))
  assert abs(found - _by_hand()) <= _SIZE


def test_a_rho_of_0_is_one_gradient():
  found = _operations(sam_jax.value_and_grad(_loss, sam_jax.l2(0.0)))
  assert found == _operations(jax.value_and_grad(_loss))


@pytest.mark.parametrize('row', _TWO.values(), ids=str)
def test_a_method_is_two_gradients_and_its_formula(row):
  # In a step that makes no mask anew.
  method = row.create(**({'refresh': 9} if 'refresh' in row.fields else {}))
  grad_fn = method.value_and_grad(
    _loss,
    key=KEY,
    num_steps=STEPS,
    learning_rate=lambda step: RATE,
    peak_learning_rate=RATE,
    takes_momentum=True,
  )

  def run(params, x):
    state = methods.State(np.int32(1), method.memory(params))
    return grad_fn(state, params, x, momentum=params)

  try:
    found = _operations(run)
  except ValueError as error:  # it needs more than a function offers
    if 'does not offer' not in str(error):
      raise
    pytest.skip(str(error))
  assert found <= _by_hand() + _FORMULA * _SIZE
