"""Methods that choose another direction: what is true of one or two alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax import methods
from sam_jax.runs import build
from sam_jax.training import optimizers
from tests import tiny

A = np.diag([4.0, 2.0, 1.0, 0.5]) + 0.2
W = np.array([1.0, -2.0, 0.5, 3.0])
NAMES = (
  'vasso',
  'friendly_sam',
  'msam',
  's2sam',
  'async_sam',
  'eigen_sam',
  'sampa',
)
# What these need in a loop of one's own.
_GIVEN = {'learning_rate': 0.1, 'takes_momentum': True}


def _loss(w):
  return 0.5 * w @ jnp.asarray(A, w.dtype) @ w


def _path(method, fun, params, count=4, **options):
  """Returns the gradients of steps of gradient descent, and the last state."""
  grad_fn = method.value_and_grad(fun, **_GIVEN | options)
  state, found = method.init(params), []
  velocity = jax.tree.map(jnp.zeros_like, params)
  for _ in range(count):
    _, grads, state = grad_fn(state, params, momentum=velocity)
    found.append(grads)
    moving = [g.dtype != jax.dtypes.float0 for g in jax.tree.leaves(grads)]
    moving = jax.tree.unflatten(jax.tree.structure(grads), moving)
    velocity = jax.tree.map(
      lambda is_moving, v, g: 0.5 * v + g if is_moving else v,
      moving,
      velocity,
      grads,
    )
    params = jax.tree.map(
      lambda is_moving, p, v: p - 0.1 * jnp.conj(v) if is_moving else p,
      moving,
      params,
      velocity,
    )
  return found, state


@pytest.mark.parametrize('name', NAMES)
def test_without_a_radius_it_is_sgd_at_its_cost(name):
  fields = {'rho': 0.0} | ({'lam': 0.0} if name == 'sampa' else {})
  method = methods.create(name, **fields)
  assert type(method) is methods.Method
  assert method.gradient_evaluations == 1


def test_sampa_without_a_radius_still_looks_ahead():
  (first, second), _ = _path(
    methods.sampa(rho=0.0, lam=0.4), _loss, jnp.asarray(W, jnp.float32), 2
  )
  g = A @ W
  np.testing.assert_allclose(first, g, rtol=1e-5)
  w = W - 0.1 * g
  expected = 0.6 * A @ w + 0.4 * A @ (w - 0.1 * g)
  np.testing.assert_allclose(second, expected, rtol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_parameters_without_a_gradient_are_left_alone(name):
  """And a complex one moves as its real and its imaginary part."""
  method = methods.create(
    name,
    rho=0.3,
    **{'refresh_every': 2, 'iterations': 1} if name == 'eigen_sam' else {},
  )
  z = np.array([1.0 + 2.0j, -0.5 + 1.5j], np.complex64)

  def of_complex(params):
    x, y = params['z'].real, params['z'].imag
    return _loss(jnp.concatenate([x, y])) + 0 * params['n'].sum()

  found, state = _path(
    method,
    of_complex,
    {'z': z, 'n': np.arange(3), 'frozen': None},
    allow_int=True,
  )
  if name == 'eigen_sam':  # which starts from another random vector
    vector = state.memory['direction']['vector']['z']
    assert np.linalg.norm(vector) == pytest.approx(1, rel=1e-5)
    return
  together = jnp.concatenate([z.real, z.imag])
  expected, _ = _path(method, _loss, together)
  for grads, real in zip(found, expected, strict=True):
    assert grads['n'].dtype == jax.dtypes.float0
    assert grads['frozen'] is None
    parts = [np.real(grads['z']), -np.imag(grads['z'])]
    np.testing.assert_allclose(np.concatenate(parts), real, rtol=1e-5)


@pytest.mark.parametrize(
  'direction, name, fields',
  [
    ('ema(0.4)', 'vasso', {'theta': 0.4}),
    ('minus_ema(0.8, lam=0.6)', 'friendly_sam', {'sigma': 0.8, 'lam': 0.6}),
    ('momentum', 'msam', {}),
    ('previous', 's2sam', {}),
    ('delayed(2)', 'async_sam', {'delay': 2}),
  ],
)
def test_a_direction_can_be_chosen_by_a_text(direction, name, fields):
  start = jnp.asarray(W, jnp.float32)
  by_text = methods.sam(rho=0.3, direction=direction)
  named = methods.create(name, rho=0.3, **fields)
  assert by_text.gradient_evaluations == named.gradient_evaluations
  for a, b in zip(
    _path(by_text, _loss, start)[0], _path(named, _loss, start)[0], strict=True
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  'name, fields, message',
  [
    ('vasso', {'theta': 0.0}, r'theta is 0.0; .* give a number in \(0, 1\]'),
    ('friendly_sam', {'sigma': -1.0}, 'sigma is -1.0; it must be'),
    ('friendly_sam', {'lam': 1.0}, r'lam is 1.0; .* in \[0, 1\)'),
    ('async_sam', {'delay': -1}, 'delay is -1; .* >= 0'),
    ('eigen_sam', {'alpha': -1.0}, 'alpha is -1.0'),
    ('eigen_sam', {'iterations': 0}, 'iterations is 0, and refresh_every'),
    ('eigen_sam', {'refresh_every': 3}, 'is 5, and refresh_every is 3'),
    ('sampa', {'lam': 1.5}, r'lam is 1.5; .* in \[0, 1\]'),
    ('sampa', {'momentum': -0.1}, 'momentum is -0.1'),
    ('sampa', {'ascent_share': 0.5}, 'takes no ascent_share'),
    ('msam', {'direction': 'gradient'}, 'takes no direction'),
    ('s2sam', {'ascent_share': 0.5}, 'takes no ascent_share'),
  ],
)
def test_what_is_out_of_range_is_refused(name, fields, message):
  with pytest.raises(ValueError, match=message):
    methods.create(name, **fields)


# --- Averages ---


@pytest.mark.parametrize('name', ['vasso', 'friendly_sam'])
def test_an_average_is_made_of_the_gradients_themselves(name):
  """A re-implementation of F-SAM averages the differences instead."""
  method = methods.create(
    name, rho=0.3, **{'theta': 0.4} if name == 'vasso' else {'lam': 0.6}
  )
  grad_fn = jax.jit(method.value_and_grad(_loss))
  state, average = method.init(jnp.float32(W)), None
  for i in range(3):
    w = jnp.float32(W) * (1 + i)
    _, _, state = grad_fn(state, w)
    g = A @ w
    average = g if average is None else 0.6 * average + 0.4 * g
    np.testing.assert_allclose(
      state.memory['direction']['average'], average, rtol=1e-5
    )


@pytest.mark.parametrize('name', ['vasso', 'friendly_sam'])
def test_the_first_gradient_counts_whole_whenever_it_comes(name):
  """Steps that were skipped are counted, and leave no average."""
  method, w = methods.create(name, rho=0.3), jnp.float32(W)
  state = method.init(w)._replace(step=jnp.int32(3))
  _, grads, state = method.value_and_grad(_loss)(state, w)
  np.testing.assert_allclose(
    state.memory['direction']['average'], A @ W, rtol=1e-6
  )
  unit = A @ W / np.linalg.norm(A @ W)
  np.testing.assert_allclose(grads, A @ (W + 0.3 * unit), rtol=1e-5)


def test_friendly_sam_sees_nothing_where_the_gradient_does_not_change():
  """Rounding of the average must not be stretched to the radius."""
  slope = jnp.float32([0.1, 0.7, -0.3, 1.1])
  method = methods.friendly_sam(rho=0.3)
  state, ctx = method.init(slope), methods.Context(jnp.int32(0))
  grad_fn = jax.jit(method.value_and_grad(lambda w: slope @ w))
  for _ in range(6):
    _, _, state = grad_fn(state, jnp.float32(W))
    left = method.direction(state.memory['direction'], slope, ctx)
    np.testing.assert_array_equal(left, 0)


# --- The momentum of an optimizer ---


def _optimizers():
  schedule = optax.linear_schedule(0.1, 0.0, 9)
  for rate in (0.1, schedule):
    kind = 'schedule' if callable(rate) else 'number'
    yield f'sgd-{kind}', optax.sgd(rate, 0.9), True
    yield f'nesterov-{kind}', optax.sgd(rate, 0.9, nesterov=True), True
    yield f'adamw-{kind}', optax.adamw(rate), True
    yield f'lion-{kind}', optax.lion(rate), True
    yield f'rmsprop-{kind}', optax.rmsprop(rate, momentum=0.9), False
    yield f'lars-{kind}', optax.lars(rate), False
  yield 'sgd-none', optax.sgd(0.1), False
  clipped = optax.chain(optax.clip_by_global_norm(9.0), optax.sgd(0.1, 0.9))
  yield 'clipped', clipped, True
  yield 'rmsprop_tf', optimizers.rmsprop_tf(schedule), False


@pytest.mark.parametrize(
  'optimizer, has_momentum',
  [pytest.param(o, has, id=name) for name, o, has in _optimizers()],
)
def test_a_momentum_points_uphill_or_counts_as_none(optimizer, has_momentum):
  """MSAM goes against it, so that its sign matters."""
  params, grads = jnp.zeros(4), jnp.float32(W)
  _, opt_state = optimizer.update(grads, optimizer.init(params), params)
  momentum = methods.momentum_of(opt_state)
  assert (momentum is not None) == has_momentum
  if has_momentum:
    cosine = momentum @ grads / jnp.linalg.norm(momentum)
    assert cosine > 0.99 * jnp.linalg.norm(grads)


_NEEDING = (('msam', {}), ('sampa', {'momentum': 0.9}))


@pytest.mark.parametrize('name, fields', _NEEDING)
def test_an_optimizer_without_momentum_is_refused_before_the_run(name, fields):
  fields = {f'method.{key}': value for key, value in fields.items()}
  make = functools.partial(tiny.config, **{'method.name': name}, **fields)
  for optimizer in ({'optimizer.momentum': 0.0}, {'optimizer.name': 'rmsprop'}):
    with pytest.raises(ValueError, match="needs the optimizer's momentum"):
      build.build(make(**optimizer))
  build.build(make(**{'optimizer.name': 'adamw', 'weight_decay.rate': 0.0}))


def test_a_loop_of_ones_own_is_told_how_to_give_the_momentum():
  method = methods.msam()
  with pytest.raises(ValueError, match=r'give momentum=methods.momentum_of\('):
    method.value_and_grad(_loss)(method.init(W), W)


@pytest.mark.parametrize('name', ['sgd', 'adam'])
def test_msam_is_its_formula_with_clipping_and_decay(name):
  """In float32, beside a loop in NumPy; what is kept is w, not w + epsilon."""
  base = optax.sgd(0.1, 0.9) if name == 'sgd' else optax.adam(0.1)
  optimizer = optax.chain(
    optax.clip_by_global_norm(4.0), optax.add_decayed_weights(0.1), base
  )
  method = methods.msam(rho=0.3)
  grad_fn = jax.jit(method.value_and_grad(_loss, takes_momentum=True))
  params = jnp.float32(W)
  state, opt_state = method.init(params), optimizer.init(params)
  w, v, square = W, np.zeros(4), np.zeros(4)
  for i in range(5):
    np.testing.assert_allclose(params, w, rtol=1e-4, atol=1e-5)
    momentum = methods.momentum_of(opt_state)
    _, grads, state = grad_fn(state, params, momentum=momentum)
    # What is evaluated and saved is what the optimizer has.
    assert method.eval_params(state, params) is params
    assert state.memory == ()
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)

    g = A @ (w - 0.3 * v / (np.linalg.norm(v) or 1))
    g = g * min(1, 4 / np.linalg.norm(g)) + 0.1 * w
    if name == 'sgd':
      v = 0.9 * v + g
      w = w - 0.1 * v
    else:
      v, square = 0.9 * v + 0.1 * g, 0.999 * square + 0.001 * g**2
      mean, scale = v / (1 - 0.9 ** (i + 1)), square / (1 - 0.999 ** (i + 1))
      w = w - 0.1 * mean / (np.sqrt(scale) + 1e-8)


# --- Others ---


def test_sampa_whose_y_stands_still_is_async_sam():
  w = jnp.float32(W)
  still = methods.sampa(rho=0.3, lam=0.0)
  late = methods.async_sam(rho=0.3, delay=1)
  found, _ = _path(still, _loss, w, learning_rate=0.0)
  expected, _ = _path(late, _loss, w)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_the_vector_of_eigen_sam_becomes_the_top_eigenvector():
  method = methods.eigen_sam(rho=0.3, refresh_every=20, iterations=20)
  assert method.gradient_evaluations == 4
  grad_fn = jax.jit(method.value_and_grad(_loss))
  w = jnp.float32(W)
  state = method.init(w)
  for _ in range(20):
    _, grads, state = grad_fn(state, w)
  top = np.linalg.eigh(A)[1][:, -1]
  vector = state.memory['direction']['vector']
  assert abs(vector @ top) == pytest.approx(1, abs=1e-5)
  _, grads, _ = grad_fn(state, w)
  unit = A @ W / np.linalg.norm(A @ W)
  turned = unit + 0.2 * abs(unit @ top) / (unit @ top) * (
    top - (unit @ top) * unit
  )
  np.testing.assert_allclose(grads, A @ (W + 0.3 * turned), rtol=1e-4)


def test_eigen_sam_without_curvature_is_sam():
  slope = jnp.array([0.1, 0.7, -0.3, 1.1])
  method = methods.eigen_sam(rho=0.3, refresh_every=2, iterations=1)
  found, state = _path(method, lambda w: slope @ w, jnp.float32(W))
  np.testing.assert_allclose(found[-1], slope)
  assert np.linalg.norm(state.memory['direction']['vector']) == pytest.approx(1)
