import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax.training import optimizers
from tests import reference

PARAMS = {
  'conv': {'kernel': np.array([[1.0, -2.0]], np.float32)},
  'bn': {
    'scale': np.array([3.0], np.float32),
    'bias': np.array([0.5], np.float32),
  },
}
KERNELS = '(bias|scale)$'


def _update(optimizer, grads, params):
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  return optax.apply_updates(params, updates)


def _assert_trees_close(a, b, rtol=1e-6):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7), a, b
  )


def test_nesterov_momentum_is_that_of_the_release():
  misc = reference.load('misc.npz')
  rates = jnp.asarray(misc['nesterov/lrs'])
  optimizer = optimizers.create(
    'sgd', PARAMS, learning_rate=lambda step: rates[step]
  )
  params = jnp.asarray(misc['nesterov/w0'])
  state = optimizer.init(params)
  for grads, expected in zip(
    misc['nesterov/grads'], misc['nesterov/trajectory'], strict=True
  ):
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, expected, rtol=1e-6, atol=1e-7)


def _walk(optimizer, params, grads):
  """Parameters after each of the gradients."""
  params, walked = jnp.asarray(params), []
  state = optimizer.init(params)
  for g in grads:
    updates, state = optimizer.update(g, state, params)
    params = optax.apply_updates(params, updates)
    walked.append(params)
  return walked


def _rmsprop(name, lr_in_momentum, rates=None):
  """Our steps of a walk of the release, and what is stored of it."""
  stored = reference.select(reference.load('misc.npz'), f'rmsprop/{name}')
  _, momentum, decay, eps = map(float, stored['hp_lr_beta_beta2_eps'])
  rates = jnp.asarray(stored['lrs'] if rates is None else rates)
  optimizer = optimizers.create(
    'rmsprop_tf',
    PARAMS,
    learning_rate=lambda step: rates[step],
    decay=decay,
    momentum=momentum,
    eps=eps,
    lr_in_momentum=lr_in_momentum,
  )
  return _walk(optimizer, stored['w0'], stored['grads']), stored


@pytest.mark.parametrize('name', 'ab')
def test_rmsprop_with_the_rate_outside_the_momentum_is_the_releases(name):
  walked, stored = _rmsprop(name, lr_in_momentum=False)
  # Relative to the largest weight, which is of order one: some cross zero.
  np.testing.assert_allclose(walked, stored['trajectory'], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', 'ab')
def test_rmsprop_with_the_rate_in_the_momentum_is_tensorflows(name):
  """ApplyRMSProp of TensorFlow 1, in float64."""
  walked, stored = _rmsprop(name, lr_in_momentum=True)
  _, momentum, rho, epsilon = stored['hp_lr_beta_beta2_eps'].astype(float)
  var = stored['w0'].astype(float)
  ms, mom = np.ones_like(var), np.zeros_like(var)
  for lr, grad, actual in zip(
    stored['lrs'], stored['grads'].astype(float), walked, strict=True
  ):
    ms += (grad**2 - ms) * (1 - rho)
    mom = momentum * mom + lr * grad / np.sqrt(ms + epsilon)
    var -= mom
    # Ten steps of float32 rounding, on values of order one.
    np.testing.assert_allclose(actual, var, rtol=1e-6, atol=1e-6)


def test_where_the_rate_is_matters_only_if_it_changes():
  constant = np.full(10, 0.1, np.float32)
  same = [_rmsprop('a', inside, constant)[0] for inside in (True, False)]
  np.testing.assert_allclose(*same, rtol=1e-6, atol=1e-6)
  first, *others = zip(
    *[_rmsprop('a', inside)[0] for inside in (True, False)], strict=True
  )
  np.testing.assert_allclose(*first, rtol=1e-6)
  for inside, outside in others:
    assert jnp.abs(inside - outside).max() > 1e-3


def test_rmsprop_has_the_releases_constants_and_tensorflows_order():
  grads = np.array([[1.0, -0.02], [0.1, 3.0], [0.5, 0.5]], np.float32)
  rate = optax.linear_schedule(0.1, 0.0, 4)
  ours = optimizers.create('rmsprop_tf', PARAMS, learning_rate=rate)
  stated = optimizers.rmsprop_tf(rate, 0.9, 0.9, 1e-3, lr_in_momentum=True)
  walk = lambda optimizer: _walk(optimizer, np.zeros(2, np.float32), grads)
  np.testing.assert_array_equal(walk(ours), walk(stated))


@pytest.mark.parametrize('limit', [0, 0.5, 1000])
def test_clipping_is_that_of_the_release(limit):
  misc = reference.load('misc.npz')
  grads = {name: jnp.asarray(misc[f'tree/{name}']) for name in 'ab'}
  optimizer = optimizers.create(
    'sgd',
    PARAMS,
    learning_rate=1.0,
    gradient_clipping=limit,
    momentum=0.0,
    nesterov=False,
  )
  moved = _update(optimizer, grads, jax.tree.map(jnp.zeros_like, grads))
  for name in 'ab':
    np.testing.assert_allclose(
      -moved[name], misc[f'clip/{limit}/{name}'], rtol=1e-6
    )


@pytest.mark.parametrize('nesterov', [False, True])
@pytest.mark.parametrize('momentum', [0.0, 0.5])
def test_momentum_and_nesterov_are_options(momentum, nesterov):
  optimizer = optimizers.create(
    'sgd', PARAMS, learning_rate=0.1, momentum=momentum, nesterov=nesterov
  )
  expected, velocity = np.zeros(2), np.zeros(2)
  params = jnp.zeros(2)
  state = optimizer.init(params)
  for grads in np.array([[1.0, -2.0], [0.5, 4.0]]):
    velocity = momentum * velocity + grads
    expected -= 0.1 * (grads + momentum * velocity if nesterov else velocity)
    updates, state = optimizer.update(jnp.float32(grads), state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params, expected, rtol=1e-6)


@pytest.mark.parametrize('exclude', ['', KERNELS])
def test_gradient_decay_is_added_after_clipping_and_before_momentum(exclude):
  optimizer = optimizers.create(
    'sgd',
    PARAMS,
    learning_rate=0.1,
    gradient_clipping=1.0,
    weight_decay=0.2,
    weight_decay_place='gradient',
    weight_decay_exclude=exclude,
    momentum=0.5,
    nesterov=False,
  )
  grads = jax.tree.map(lambda p: 10 * jnp.ones_like(p), PARAMS)
  clipped = 10 / np.sqrt(4 * 100)  # 4 entries of 10, to norm 1
  params, state = PARAMS, optimizer.init(PARAMS)
  velocity = jax.tree.map(np.zeros_like, PARAMS)
  decayed = optimizers.decay_mask(PARAMS, exclude)
  expected = jax.tree.map(np.float64, PARAMS)
  for _ in range(2):
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    velocity = jax.tree.map(
      lambda v, p, d: 0.5 * v + clipped + 0.2 * d * p,
      velocity,
      expected,
      decayed,
    )
    expected = jax.tree.map(lambda p, v: p - 0.1 * v, expected, velocity)
  _assert_trees_close(params, expected)


@pytest.mark.parametrize('name', ['adamw', 'lion', 'nadamw', 'lamb'])
def test_only_decoupled_decay_reaches_the_optimizer(name):
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  moved = lambda place, exclude='': _update(
    optimizers.create(
      name,
      PARAMS,
      learning_rate=0.1,
      weight_decay=0.5 if place != 'gradient' else 0.0,
      weight_decay_place=place,
      weight_decay_exclude=exclude,
    ),
    zeros,
    PARAMS,
  )
  for place in ('loss', 'descent', 'gradient'):
    # optax.adamw alone would decay by 1e-4, optax.lion by 1e-3.
    _assert_trees_close(moved(place), PARAMS, rtol=0)
  decayed = moved('decoupled', KERNELS)
  _assert_trees_close(decayed['bn'], PARAMS['bn'], rtol=0)
  kernel = PARAMS['conv']['kernel']
  assert (jnp.abs(decayed['conv']['kernel']) < jnp.abs(kernel)).all()
  if name != 'lamb':  # which rescales the decay, too
    np.testing.assert_allclose(
      decayed['conv']['kernel'], (1 - 0.1 * 0.5) * kernel, rtol=1e-6
    )


@pytest.mark.parametrize('name', ['lars', 'adadelta'])
def test_the_mask_reaches_optimizers_that_call_it_otherwise(name):
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  optimizer = optimizers.create(
    name,
    PARAMS,
    learning_rate=0.1,
    weight_decay=0.5,
    weight_decay_place='decoupled',
    weight_decay_exclude=KERNELS,
  )
  moved = _update(optimizer, zeros, PARAMS)
  _assert_trees_close(moved['bn'], PARAMS['bn'], rtol=0)
  assert (moved['conv']['kernel'] != PARAMS['conv']['kernel']).all()


def test_an_optimizer_of_optax_takes_its_own_options():
  grads = jax.tree.map(lambda p: 0.3 * p, PARAMS)
  options = {'b1': 0.8, 'eps': 0.1, 'weight_decay_place': 'loss'}
  ours = optimizers.create(
    'adam', PARAMS, learning_rate=0.1, b2=None, **options
  )
  theirs = optax.adam(0.1, b1=0.8, eps=0.1)
  _assert_trees_close(
    _update(ours, grads, PARAMS), _update(theirs, grads, PARAMS)
  )


def test_decoupled_decay_without_an_optimizer_for_it_is_refused():
  options = {'learning_rate': 0.1, 'weight_decay_place': 'decoupled'}
  for name in ('adam', 'sgd'):
    with pytest.raises(ValueError, match=f'{name!r} has no decoupled.*adamw'):
      optimizers.create(name, PARAMS, weight_decay=0.1, **options)
    optimizers.create(name, PARAMS, weight_decay=0.0, **options)


@pytest.mark.parametrize(
  'name', ['adamm', 'chain', 'clip', 'constant_schedule', '__name__', 'contrib']
)
def test_an_unknown_optimizer_is_refused(name):
  with pytest.raises(ValueError, match=f'{name!r}; use sgd, rmsprop_tf, ad'):
    optimizers.create(name, PARAMS, learning_rate=0.1)


def test_unknown_arguments_are_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="'sgd' takes no b1; it takes momentum"):
    optimizers.create('sgd', PARAMS, learning_rate=0.1, b1=0.9)


def test_a_negative_clipping_is_refused():
  with pytest.raises(ValueError, match='is -1; give a norm, or 0 for none'):
    optimizers.create('sgd', PARAMS, learning_rate=0.1, gradient_clipping=-1)


def test_the_mask_goes_by_parameter_path():
  everything = optimizers.decay_mask(PARAMS, '')
  assert everything == jax.tree.map(lambda _: True, PARAMS)
  assert optimizers.decay_mask(PARAMS, KERNELS) == {
    'conv': {'kernel': True},
    'bn': {'scale': False, 'bias': False},
  }
  assert optimizers.decay_mask(PARAMS, '^bn/s') == {
    'conv': {'kernel': True},
    'bn': {'scale': False, 'bias': True},
  }


@pytest.mark.parametrize(
  'exclude, message',
  [
    ('batch_norm', "'batch_norm' matches no parameter; .* like bn/bias, bn/sc"),
    ('(', r"'\(' is no regular expression"),
  ],
)
def test_a_mask_that_excludes_nothing_is_refused(exclude, message):
  with pytest.raises(ValueError, match=message):
    optimizers.decay_mask(PARAMS, exclude)


@pytest.mark.parametrize(
  'place, ascent, descent',
  [
    ('loss', True, True),
    ('descent', False, True),
    ('gradient', False, False),
    ('decoupled', False, False),
  ],
)
@pytest.mark.parametrize('exclude, squares', [('', 14.25), (KERNELS, 5.0)])
def test_penalties_go_where_the_place_says(
  place, ascent, descent, exclude, squares
):
  penalties = optimizers.create(
    'adamw' if place == 'decoupled' else 'sgd',
    PARAMS,
    learning_rate=0.1,
    weight_decay=0.2,
    weight_decay_place=place,
    weight_decay_exclude=exclude,
  )
  for penalty, expected in (
    (penalties.ascent_penalty, ascent),
    (penalties.descent_penalty, descent),
  ):
    assert (penalty is not None) == expected
    if expected:
      np.testing.assert_allclose(penalty(PARAMS), 0.1 * squares, rtol=1e-6)


def test_an_unknown_place_is_refused_with_the_known_ones():
  known = re.escape(', '.join(optimizers.WEIGHT_DECAYS))
  with pytest.raises(ValueError, match=f"'adamw'; known: {known}"):
    optimizers.create(
      'sgd', PARAMS, learning_rate=0.1, weight_decay_place='adamw'
    )


def test_the_penalty_counts_what_the_mask_selects():
  params = {'kernel': jnp.array([3.0, 4.0]), 'bias': jnp.array([7.0])}
  penalty = lambda **mask: float(optimizers.l2_penalty(params, 0.1, mask))
  assert penalty(kernel=True, bias=False) == pytest.approx(0.05 * 25)
  assert penalty(kernel=True, bias=True) == pytest.approx(0.05 * 74)
  assert penalty(kernel=False, bias=False) == 0
  assert optimizers.l2_penalty(params, 0, None) == 0
