"""Errors of other implementations that no trial of the table has the name of.

Those of single methods are beside these, in the tests of each family; here is
what concerns the step of all of them, and LookSAM, which most get wrong.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import methods
from tests import steps
from tests.methods.table import HESSIAN, SHIFT, START

RHO, ALPHA = 0.3, 0.7


# --- A branch that is not taken (optax.contrib.sam blends the two) ---


@pytest.mark.parametrize(
  'name, fields',
  [
    ('sam_k', {'every': 2}),
    ('looksam', {'every': 2}),
    ('ss_sam', {'probability': 0.0}),
    ('ae_sam', {'lambda_1': 1e6, 'lambda_2': 1e6}),
  ],
)
def test_a_nan_of_the_branch_that_is_not_taken_stays_there(name, fields):
  """The perturbed parameters are beyond the end of the square root."""
  method = methods.create(name, rho=2.0, **fields)
  loss = lambda w: -jnp.sum(jnp.sqrt(w))
  w = jnp.ones(2)
  state = method.init(w)._replace(step=jnp.int32(1))
  grad_fn = jax.jit(
    method.value_and_grad(loss, key=jax.random.key(0), num_steps=4)
  )
  value, grads, state = grad_fn(state, w)
  np.testing.assert_allclose(grads, [-0.5, -0.5])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, state)))
  perturbed = methods.sam(2.0)
  _, grads, _ = perturbed.value_and_grad(loss)(perturbed.init(w), w)
  assert np.isnan(grads).all()


class _KeepsKey(methods.Method):
  """Remembers a typed PRNG key, of which no sum or product is defined."""

  def memory(self, params):
    return {'key': jax.random.key(3)}

  def conclude(self, memory, result, ctx):
    return result.grads, {'key': jax.random.split(memory['key'])[0]}


def _linear(variables, images, **_):
  """Logits of a linear model, and statistics that it leaves alone."""
  return images @ variables['params']['w'], {}


def _stepper(method, **options):
  variables = {'params': {'w': np.eye(3, 5, dtype=np.float32)}}
  stepper = steps.make(
    _linear, variables['params'], 4, method=method, **options
  )
  return stepper, variables


def _batch(value=1.0):
  images = np.full((4, 3), value, np.float32)
  return {'image': images, 'label': np.arange(4, dtype=np.int32)}


def test_a_typed_key_can_be_selected_where_a_step_is_skipped():
  stepper, variables = _stepper(_KeepsKey(), skips_nonfinite=True)
  made, skipped = stepper.run(variables, [_batch(), _batch(np.nan)])
  first = jax.random.split(jax.random.key(3))[0]
  for step in (made, skipped):
    key = step.state.method_state.memory['key']
    assert (jax.random.key_data(key) == jax.random.key_data(first)).all()
  assert int(skipped.state.step) == 2


@pytest.mark.parametrize('name', ['sam_k', 'looksam'])
def test_a_typed_key_in_aux_can_be_selected(name):
  method = methods.create(name, every=2)
  key = jax.random.key(3)
  loss = lambda w: (jnp.sum(w**2), {'key': key})
  grad_fn = jax.jit(method.value_and_grad(loss, has_aux=True))
  state = method.init(jnp.ones(2))
  for _ in range(2):
    (_, aux), _, state = grad_fn(state, jnp.ones(2))
    assert (jax.random.key_data(aux['key']) == jax.random.key_data(key)).all()


# --- A loss that is exactly 0 (Composer leaves the update out) ---


@pytest.mark.parametrize('name', ['sgd', 'sam', 'looksam'])
def test_a_loss_of_exactly_0_is_one_like_any_other(name):
  method = methods.create(name)
  grad_fn = jax.jit(method.value_and_grad(lambda w: w[0] - w[1]))
  state = method.init(jnp.ones(2))
  for step in range(3):
    value, grads, state = grad_fn(state, jnp.ones(2))
    assert value == 0
    np.testing.assert_array_equal(grads, [1, -1])
    assert int(state.step) == step + 1


@pytest.mark.parametrize('skips_nonfinite', [False, True])
def test_a_training_step_with_a_loss_of_exactly_0_updates(skips_nonfinite):
  stepper, variables = _stepper(
    'sam', weight_decay=0.5, rho=0.1, skips_nonfinite=skips_nonfinite
  )
  start = np.array(variables['params']['w'])
  sure = {'image': 1e3 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]}
  sure['label'] = np.array([0, 1, 2, 0], np.int32)
  (step,) = stepper.run(variables, [sure])
  assert step.metrics['loss'] == step.metrics['perturbed_loss'] == 0
  # What is left is the penalty, at the perturbed parameters, and Nesterov's
  # first step of 1.9.
  moved = start * (1 + 0.1 / np.linalg.norm(start))
  np.testing.assert_allclose(
    step.state.params['w'], start - 0.1 * 1.9 * 0.5 * moved, rtol=1e-5
  )
  assert int(step.state.step) == int(step.state.method_state.step) == 1


# --- Weights of examples (Keras drops them in the second pass) ---


class _Weighted(steps.Task):
  """A task whose batches have a weight for each example."""

  def example_losses(self, outputs, batch):
    return batch['weight'] * super().example_losses(outputs, batch)


@pytest.mark.parametrize(
  'method',
  [methods.sam(0.5), methods.esam(0.5, beta=1.0)],
  ids=['sam', 'esam'],
)
def test_weights_of_examples_are_those_of_both_passes(method):
  """An example of weight 0 may be anything, as padding is."""
  stepper, variables = _stepper(method)
  task = _Weighted(
    augment=lambda key, images, positions: images,
    mix=lambda key, images, labels: (images, labels),
    label_smoothing=0.0,
    more={},
  )
  fns = dataclasses.replace(stepper.fns, task=task)
  stepper = steps.Stepper(fns, stepper.parallel)
  weight = np.array([2, 1, 0, 0], np.float32)
  ends = []
  for padding in (0.0, 7.0):
    batch = _batch() | {'weight': weight}
    batch['image'] = batch['image'].copy()
    batch['image'][2:] = padding
    (step,) = stepper.run(jax.tree.map(np.copy, variables), [batch])
    ends.append(step.state.params['w'])
  np.testing.assert_array_equal(*ends)
  assert np.abs(ends[0] - variables['params']['w']).max() > 1e-2


# --- LookSAM (INFTY, kozistr's and anonymous JAX versions) ---


def _gradient(w):
  return HESSIAN @ w + SHIFT


def _unit(g):
  return g / np.linalg.norm(g)


def _by_tensor(fn, *vectors):
  parts = (slice(0, 2), slice(2, 5))
  return np.concatenate([fn(*(v[part] for v in vectors)) for part in parts])


def _across(s, g):
  return s - (s @ g) / (g @ g) * g


def _longer(g, v):
  return g + ALPHA * np.linalg.norm(g) / np.linalg.norm(v) * v


# What is kept of (g_s, g), and the gradient of (g, g_v); the paper has
# `_across` and `_longer`, and a row in the table of methods.
_ERRORS = {
  'the gradient is doubled': (_across, lambda g, v: _longer(2 * g, v)),
  'only g is doubled': (_across, lambda g, v: _longer(g, v) + g),
  'g_v is not applied': (_across, lambda g, v: g),
  'lengths of each tensor': (
    _across,
    functools.partial(_by_tensor, _longer),
  ),
  'projection of each tensor': (
    functools.partial(_by_tensor, _across),
    _longer,
  ),
  'projection by elementwise squares': (
    lambda s, g: s - (s @ g) / g**2 * g,
    _longer,
  ),
}


@functools.cache
def _looksam():
  """Returns the gradient of the step after the one that perturbs."""
  method = methods.looksam(RHO, every=2, alpha=ALPHA)

  def loss(params):
    w = jnp.concatenate(params)
    return w @ jnp.float32(HESSIAN) @ w / 2 + jnp.float32(SHIFT) @ w

  grad_fn = jax.jit(method.value_and_grad(loss))
  params = [jnp.float32(START[:2]), jnp.float32(START[2:])]
  _, _, state = grad_fn(method.init(params), params)
  return np.concatenate(grad_fn(state, params)[1])


def _of(keep, apply):
  g = _gradient(START)
  return apply(g, keep(_gradient(START + RHO * _unit(g)), g))


@pytest.mark.parametrize('error', _ERRORS)
def test_looksam_is_without_the_error_that(error):
  difference = _looksam() - _of(*_ERRORS[error])
  assert np.linalg.norm(difference) > 0.1
