"""Parameters of other libraries, with what they differentiate by."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.training import dynamic_scale

import sam_jax

X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(8, 2)
USES = [{'ascent_steps': 2}, {'second_order': True}]


class Net(nnx.Module):
  """Has statistics, and draws random numbers."""

  def __init__(self):
    rngs = nnx.Rngs(0)
    self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs)])
    self.norm = nnx.BatchNorm(3, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    return self.dropout(jnp.tanh(self.norm(self.layers[0](x))))


def _nnx_loss(model, x):
  return jnp.mean((model(x) - 1) ** 2)


def _leaves(state):
  """The numbers of a State, those of keys too."""
  is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return [
    np.asarray(jax.random.key_data(x) if is_key(x) else x)
    for x in jax.tree.leaves(state)
  ]


@pytest.mark.parametrize('options', USES, ids=str)
def test_a_module_of_nnx_gets_what_its_state_would(options):
  graph, params, rest = nnx.split(Net(), nnx.Param, ...)

  def pure(params, rest, x):
    model = nnx.merge(graph, params, rest, copy=True)
    loss = _nnx_loss(model, x)
    return loss, nnx.state(model, nnx.Not(nnx.Param))

  grad_fn = sam_jax.value_and_grad(
    pure, sam_jax.l2(0.5), has_aux=True, **options
  )
  (value, state), grads = jax.jit(grad_fn)(params, rest, X)

  model = Net()
  step = sam_jax.value_and_grad(
    _nnx_loss,
    sam_jax.l2(0.5),
    differentiate=nnx.value_and_grad,
    **options,
  )
  actual = nnx.jit(step)(model, X)
  np.testing.assert_allclose(actual[0], value, rtol=1e-6)
  for a, b in zip(_leaves(actual[1]), _leaves(grads), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  # Statistics and counts of random numbers are those of the first pass.
  after = _leaves(nnx.state(model, nnx.Not(nnx.Param)))
  for a, b in zip(after, _leaves(state), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_module_of_equinox_gets_what_its_arrays_would():
  options = {'second_order': True}
  model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
  loss = lambda model, x: jnp.mean((jax.vmap(model)(x) - 1) ** 2)
  params, static = eqx.partition(model, eqx.is_inexact_array)
  combined = lambda params, x: loss(eqx.combine(params, static), x)
  perturbation = sam_jax.asam(0.5)
  expected = jax.jit(sam_jax.value_and_grad(combined, perturbation, **options))
  actual = eqx.filter_jit(
    sam_jax.value_and_grad(
      loss,
      perturbation,
      differentiate=eqx.filter_value_and_grad,
      **options,
    )
  )(model, X)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    actual,
    expected(params, X),
  )
  assert actual[1].activation is None  # a function is no parameter


def test_a_method_takes_a_module_of_equinox():
  model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
  loss = lambda model, x: jnp.mean((jax.vmap(model)(x) - 1) ** 2)
  method = sam_jax.methods.looksam(rho=0.5, every=2)
  grad_fn = eqx.filter_jit(
    method.value_and_grad(loss, differentiate=eqx.filter_value_and_grad)
  )
  _, first, state = grad_fn(method.init(model), model, X)
  sam = sam_jax.grad(
    loss, sam_jax.l2(0.5), differentiate=eqx.filter_value_and_grad
  )(model, X)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    first,
    sam,
  )
  _, second, state = grad_fn(state, model, X)
  assert state.step == 2
  assert jax.tree.structure(second) == jax.tree.structure(sam)


def test_the_four_values_of_dynamic_scale_are_refused_with_what_to_do():
  scale = dynamic_scale.DynamicScale()
  grad_fn = sam_jax.value_and_grad(
    lambda w: jnp.sum(w**2), sam_jax.l2(0.5), differentiate=scale.value_and_grad
  )
  with pytest.raises(TypeError, match=r'returned 4 values; wrap it, .* aux'):
    grad_fn(jnp.ones(2))
