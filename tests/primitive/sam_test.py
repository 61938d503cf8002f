import functools
import inspect
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import sam_jax
from sam_jax import perturbations, sam

RHO = 0.4
A = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])
W = np.array([1.0, -2.0, 0.5])


class Pair(NamedTuple):
  first: jax.Array
  second: tuple[jax.Array, ...]


def _quadratic(w):
  # Ranks and precision are said: a float32 matmul is exact enough on CPU.
  return 0.5 * w @ jnp.asarray(A, w.dtype) @ w


def _logistic(params, x, y, *, scale=1.0):
  """A loss with tree parameters, positional and keyword arguments."""
  logits = x @ params['kernel'] + params['bias']
  return scale * jnp.mean(jnp.logaddexp(0.0, -y * logits))


def _logistic_inputs(examples=8):
  rng = np.random.default_rng(0)
  params = {'kernel': rng.normal(size=3), 'bias': np.zeros(1) + 0.3}
  x = rng.normal(size=(examples, 3))
  y = np.sign(rng.normal(size=examples))
  return jax.tree.map(jnp.float32, (params, x, y))


def _numpy_sam(grad_fn, w, perturb, steps=1):
  """The algorithm again, in float64: gradient and epsilon at the flat w."""
  epsilon = np.zeros_like(w)
  for _ in range(steps):
    epsilon = epsilon + perturb(grad_fn(w + epsilon)) / steps
  return grad_fn(w + epsilon), epsilon


def _assert_trees_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert jax.tree.structure(a) == jax.tree.structure(b)


# --- What it computes


@pytest.mark.parametrize('steps', [1, 2, 5])
@pytest.mark.parametrize(
  'p, ball',
  [
    (1, lambda g: RHO * np.sign(g) * (np.abs(g) == np.abs(g).max())),
    (
      1.5,
      lambda g: RHO * np.sign(g) * g**2 / np.sum(np.abs(g) ** 3) ** (2 / 3),
    ),
    (2, lambda g: RHO * g / np.sqrt(np.sum(g**2))),
    (
      3,
      lambda g: (
        RHO
        * np.sign(g)
        * np.sqrt(np.abs(g))
        / np.sum(np.abs(g) ** 1.5) ** (1 / 3)
      ),
    ),
    (np.inf, lambda g: RHO * np.sign(g)),
  ],
)
def test_the_gradient_of_a_quadratic_is_that_of_the_formulas(p, ball, steps):
  grads, epsilon = _numpy_sam(lambda w: A @ w, W, ball, steps)
  value, actual, info = sam_jax.value_and_grad(
    _quadratic, sam_jax.lp(RHO, p), ascent_steps=steps, with_info=True
  )(jnp.float32(W))
  # Numbers of order 1 in float32, a few roundings each.
  close = functools.partial(np.testing.assert_allclose, rtol=5e-6, atol=5e-7)
  close(value, 0.5 * W @ A @ W)
  close(info.epsilon, epsilon)
  close(actual, grads)
  close(info.ascent_grads, A @ W)
  close(info.perturbed_value, 0.5 * (W + epsilon) @ A @ (W + epsilon))
  assert np.linalg.norm(info.epsilon, p) <= RHO * (1 + 1e-6)


def test_a_tree_of_parameters_gets_the_gradient_of_a_float64_program():
  params, x, y = _logistic_inputs()
  features = np.c_[np.float64(x), np.ones(len(x))]

  def numpy_grad(w):
    return -features.T @ (y / (1 + np.exp(y * (features @ w)))) / len(x)

  start = np.append(np.float64(params['kernel']), np.float64(params['bias']))
  expected, epsilon = _numpy_sam(
    numpy_grad, start, lambda g: RHO * g / np.linalg.norm(g)
  )
  _, grads, info = sam_jax.value_and_grad(
    _logistic, sam_jax.l2(RHO), with_info=True
  )(params, x, y)
  for tree, flat in ((grads, expected), (info.epsilon, epsilon)):
    np.testing.assert_allclose(tree['kernel'], flat[:3], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(tree['bias'], flat[3:], rtol=1e-5, atol=1e-7)
  assert np.abs(expected - numpy_grad(start)).max() > 1e-2  # it is not SGD


def test_value_and_aux_are_those_of_the_unperturbed_parameters():
  """The release logs those of the perturbed ones, Scenic keeps their state."""
  fun = lambda w: (_quadratic(w), {'norm': jnp.linalg.norm(w)})
  options = {'has_aux': True, 'ascent_steps': 2}
  with_info = sam_jax.value_and_grad(
    fun, sam_jax.l2(RHO), with_info=True, **options
  )
  without = sam_jax.value_and_grad(fun, sam_jax.l2(RHO), **options)
  out, grads, info = with_info(jnp.float32(W))
  _assert_trees_equal(without(jnp.float32(W)), (out, grads))
  (value, aux), moved = out, W + np.float64(info.epsilon)
  np.testing.assert_allclose(value, 0.5 * W @ A @ W, rtol=1e-6)
  np.testing.assert_allclose(aux['norm'], np.linalg.norm(W), rtol=1e-6)
  np.testing.assert_allclose(
    info.perturbed_aux['norm'], np.linalg.norm(moved), rtol=1e-6
  )
  np.testing.assert_allclose(
    info.perturbed_value, 0.5 * moved @ A @ moved, rtol=1e-6
  )


def test_both_passes_draw_the_same_random_numbers():
  def fun(w, key):
    mask = jax.random.bernoulli(key, 0.5, w.shape)
    return jnp.sum(jnp.where(mask, w, 0))  # the gradient is the mask

  _, grads, info = sam_jax.value_and_grad(
    fun, sam_jax.l2(RHO), ascent_steps=3, with_info=True
  )(jnp.ones(100), jax.random.key(0))
  assert 0 < grads.sum() < 100
  np.testing.assert_array_equal(grads, info.ascent_grads)


def test_a_zero_gradient_leaves_the_parameters_where_they_are():
  grads = sam_jax.grad(_quadratic, sam_jax.l2(RHO))(jnp.zeros(3))
  np.testing.assert_array_equal(grads, np.zeros(3))


def test_a_nan_in_the_gradient_reaches_the_result():
  fun = lambda w: jnp.sum(jnp.sqrt(w) * jnp.array([1.0, 1.0]))
  grads = sam_jax.grad(fun, sam_jax.l2(RHO))(jnp.array([1.0, -1.0]))
  assert np.isnan(grads).any()


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_mixed_dtypes_are_kept(dtype):
  params = {'half': jnp.ones(3, dtype), 'single': jnp.ones(3)}

  def fun(params):
    return jnp.sum(params['half'].astype(jnp.float32) ** 2 * params['single'])

  grads = sam_jax.grad(fun, sam_jax.l2(RHO))(params)
  dtypes = jax.tree.map(lambda g: g.dtype, grads)
  assert dtypes == jax.tree.map(lambda p: p.dtype, params)
  # g = (2, 1), |g|^2 = 15: 2 (1 + 2 d)(1 + d) and (1 + 2 d)^2 at d = rho / |g|.
  d = RHO / np.sqrt(15)
  np.testing.assert_allclose(
    grads['single'], (1 + 2 * d) ** 2, rtol=2 * float(jnp.finfo(dtype).eps)
  )


def test_the_perturbed_parameters_have_the_dtype_of_the_parameters():
  seen = []

  def fun(w):
    seen.append(w.dtype)
    return jnp.sum(w.astype(jnp.float32) ** 2)

  in_float32 = lambda grads, params: jnp.full(2, 0.1, jnp.float32)
  sam_jax.grad(fun, in_float32, ascent_steps=2)(jnp.ones(2, jnp.bfloat16))
  assert seen == [jnp.bfloat16] * 3


@pytest.mark.parametrize('steps', [1, 2])
@pytest.mark.parametrize('name', ['bfloat16', 'float16', 'float8_e4m3fn'])
def test_info_has_what_rounding_leaves_of_the_perturbation(name, steps):
  passed = []

  def differentiate(fun, has_aux):
    def value_and_grad(w):
      passed.append(np.asarray(w, np.float64))
      return jax.value_and_grad(fun, has_aux=has_aux)(w)

    return value_and_grad

  resolution = float(jnp.finfo(name).eps)
  w = jnp.array([1.0, resolution], name)
  fun = lambda w: jnp.sum(w.astype(jnp.float32) * jnp.array([1.0, 1.0]))
  _, _, info = sam_jax.value_and_grad(
    fun,
    sam_jax.lp(resolution / 4, np.inf),
    ascent_steps=steps,
    differentiate=differentiate,
    with_info=True,
  )(w)
  epsilon = np.asarray(info.epsilon, np.float64)
  np.testing.assert_array_equal(epsilon, passed[-1] - passed[0])
  assert epsilon[0] == 0 and epsilon[1] == resolution / 4
  assert info.epsilon.dtype == w.dtype


def test_none_in_parameters_or_perturbation_is_left_alone():
  params = {'moved': jnp.ones(2), 'fixed': jnp.ones(2), 'absent': None}
  fun = lambda p: jnp.sum(p['moved'] ** 2 * p['fixed'])
  only_moved = lambda grads, params: {
    'moved': sam_jax.l2(RHO)(grads['moved'], None),
    'fixed': None,
    'absent': None,
  }
  _, grads, info = sam_jax.value_and_grad(
    fun, only_moved, ascent_steps=2, with_info=True
  )(params)
  moved = 1 + RHO / np.sqrt(2)
  np.testing.assert_allclose(grads['moved'], 2 * moved, rtol=1e-6)
  np.testing.assert_allclose(grads['fixed'], moved**2, rtol=1e-6)
  assert grads['absent'] is None and info.epsilon['fixed'] is None
  plain = sam_jax.grad(fun, sam_jax.l2(RHO))(params)
  assert plain['absent'] is None


# --- A drop-in


@pytest.mark.parametrize('has_aux', [False, True])
def test_it_returns_what_jax_returns(has_aux):
  params, x, y = _logistic_inputs()
  params = Pair(params['kernel'], (params['bias'],))

  def fun(pair, x, y, *, scale=1.0):
    """Says what it is."""
    tree = {'kernel': pair.first, 'bias': pair.second[0]}
    loss = _logistic(tree, x, y, scale=scale)
    return (loss, {'x': (x, [y])}) if has_aux else loss

  for ours, theirs in (
    (sam_jax.value_and_grad, jax.value_and_grad),
    (sam_jax.grad, jax.grad),
  ):
    transformed = ours(fun, sam_jax.l2(RHO), has_aux=has_aux)
    actual = transformed(params, x, y=y, scale=2.0)
    expected = theirs(fun, has_aux=has_aux)(params, x, y=y, scale=2.0)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    shapes = lambda t: jax.tree.map(lambda a: (a.shape, a.dtype), t)
    assert shapes(actual) == shapes(expected)
    assert transformed.__name__ == 'fun'
    assert transformed.__doc__ == 'Says what it is.'
    assert inspect.signature(transformed) == inspect.signature(fun)


def test_keyword_arguments_reach_both_passes():
  params, x, y = _logistic_inputs()
  grad_fn = sam_jax.grad(_logistic, sam_jax.l2(RHO))
  doubled = grad_fn(params, x, y, scale=2.0)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-6),
    doubled,
    grad_fn(params, x, y),
  )


def test_grad_is_the_gradient_of_value_and_grad():
  fun = lambda w: (_quadratic(w), w[0])
  options = {'has_aux': True, 'ascent_steps': 2}
  (_, aux), grads = sam_jax.value_and_grad(fun, sam_jax.l2(RHO), **options)(
    jnp.float32(W)
  )
  _assert_trees_equal(
    sam_jax.grad(fun, sam_jax.l2(RHO), **options)(jnp.float32(W)), (grads, aux)
  )
  with pytest.raises(TypeError, match='value_and_grad'):
    sam_jax.grad(fun, sam_jax.l2(RHO), with_info=True)


@pytest.mark.parametrize('rho', [0, 0.0, np.float32(0)])
@pytest.mark.parametrize('transform', [lambda f: f, jax.jit])
def test_a_static_rho_of_zero_is_bit_for_bit_jax(transform, rho):
  inputs = _logistic_inputs()
  _assert_trees_equal(
    transform(sam_jax.value_and_grad(_logistic, sam_jax.l2(rho)))(*inputs),
    transform(jax.value_and_grad(_logistic))(*inputs),
  )


@pytest.mark.parametrize('p', [1, 1.5, 2, np.inf])
def test_a_traced_rho_of_zero_is_bit_for_bit_jax(p):
  inputs = _logistic_inputs()
  ours = lambda rho: sam_jax.value_and_grad(_logistic, sam_jax.lp(rho, p))
  _assert_trees_equal(
    jax.jit(lambda rho, *args: ours(rho)(*args))(0.0, *inputs),
    jax.jit(jax.value_and_grad(_logistic))(*inputs),
  )


@pytest.mark.parametrize(
  'rho, steps, calls', [(0.0, 1, 1), (0.0, 3, 1), (RHO, 1, 2), (RHO, 3, 4)]
)
def test_a_pass_is_run_only_if_needed(rho, steps, calls):
  called = []

  def fun(w):
    called.append(w)
    return _quadratic(w)

  _, _, info = sam_jax.value_and_grad(
    fun, sam_jax.l2(rho), ascent_steps=steps, with_info=True
  )(jnp.float32(W))
  assert len(called) == calls
  assert bool(info.epsilon.any()) == (rho > 0)


def test_a_schedule_of_rho_does_not_recompile():
  traces = []

  @jax.jit
  def step(w, rho):
    traces.append(rho)
    return sam_jax.grad(_quadratic, sam_jax.l2(rho))(w)

  for rho in (0.1, 0.2, 0.0):
    expected, _ = _numpy_sam(
      lambda w: A @ w, W, lambda g, r=rho: r * g / np.linalg.norm(g)
    )
    np.testing.assert_allclose(step(jnp.float32(W), rho), expected, rtol=1e-6)
  assert len(traces) == 1


# --- Options


def test_ascent_fun_makes_epsilon_value_and_aux():
  penalised = lambda w: (_quadratic(w) + 0.05 * w @ w, {'penalty': 1.0})
  plain = lambda w: (_quadratic(w), {'penalty': 0.0})
  (value, aux), grads, info = sam_jax.value_and_grad(
    penalised,
    sam_jax.l2(RHO),
    has_aux=True,
    ascent_fun=plain,
    ascent_steps=2,
    with_info=True,
  )(jnp.float32(W))
  _, epsilon = _numpy_sam(
    lambda w: A @ w, W, lambda g: RHO * g / np.linalg.norm(g), steps=2
  )
  np.testing.assert_allclose(value, 0.5 * W @ A @ W, rtol=1e-6)
  np.testing.assert_allclose(info.epsilon, epsilon, rtol=1e-5)
  np.testing.assert_allclose(
    grads, (A + 0.1 * np.eye(3)) @ (W + epsilon), rtol=1e-5, atol=1e-6
  )
  assert (aux['penalty'], info.perturbed_aux['penalty']) == (0, 1)


def test_without_an_ascent_value_aux_and_gradient_are_those_of_fun():
  ascent_fun = lambda w: (jnp.nan * w[0], 'never used')
  fun = lambda w: (_quadratic(w), 7.0)
  (value, aux), grads = sam_jax.value_and_grad(
    fun, sam_jax.l2(0), has_aux=True, ascent_fun=ascent_fun
  )(jnp.float32(W))
  np.testing.assert_allclose(value, 0.5 * W @ A @ W, rtol=1e-6)
  np.testing.assert_allclose(grads, A @ W, rtol=1e-6)
  assert aux == 7


def test_ascent_reduce_applies_to_every_ascent_gradient_and_no_other():
  reduced = []

  def reverse(grads):
    reduced.append(grads)
    return grads[::-1]

  _, grads, info = sam_jax.value_and_grad(
    _quadratic,
    sam_jax.l2(RHO),
    ascent_steps=3,
    ascent_reduce=reverse,
    with_info=True,
  )(jnp.float32(W))
  expected, epsilon = _numpy_sam(
    lambda w: A @ w,
    W,
    lambda g: RHO * g[::-1] / np.linalg.norm(g),
    steps=3,
  )
  assert len(reduced) == 3
  np.testing.assert_allclose(info.ascent_grads, (A @ W)[::-1], rtol=1e-6)
  np.testing.assert_allclose(info.epsilon, epsilon, rtol=1e-5)
  np.testing.assert_allclose(grads, expected, rtol=1e-5, atol=1e-6)


def test_combine_sees_the_first_ascent_and_the_descent_gradient():
  options = {'ascent_steps': 3, 'with_info': True}
  grad_fn = functools.partial(
    sam_jax.value_and_grad, _quadratic, sam_jax.l2(RHO), **options
  )
  _, descent_grads, info = grad_fn()(jnp.float32(W))
  _, grads, _ = grad_fn(combine=lambda a, d: (a, d))(jnp.float32(W))
  _assert_trees_equal(grads, (info.ascent_grads, descent_grads))
  np.testing.assert_allclose(grads[0], A @ W, rtol=1e-6)


@pytest.mark.parametrize('has_aux', [False, True])
def test_differentiate_replaces_jax_in_both_passes(has_aux):
  seen = []

  def doubled(fun, has_aux):
    seen.append((fun, has_aux))

    def value_and_grad(params, *args):
      out, grads = jax.value_and_grad(fun, has_aux=has_aux)(params, *args)
      return out, jax.tree.map(lambda g: 2 * g, grads)

    return value_and_grad

  fun = lambda w: (_quadratic(w), ()) if has_aux else _quadratic(w)
  ascent_fun = lambda w: fun(w)
  _, grads, info = sam_jax.value_and_grad(
    fun,
    sam_jax.l2(RHO),
    has_aux=has_aux,
    ascent_fun=ascent_fun,
    differentiate=doubled,
    with_info=True,
  )(jnp.float32(W))
  expected, _ = _numpy_sam(
    lambda w: 2 * A @ w, W, lambda g: RHO * g / np.linalg.norm(g)
  )
  np.testing.assert_allclose(grads, expected, rtol=1e-6)
  np.testing.assert_allclose(info.ascent_grads, 2 * A @ W, rtol=1e-6)
  assert [aux for _, aux in seen] == [has_aux, has_aux]
  assert seen[0][0] is fun and seen[1][0].__wrapped__ is ascent_fun


# --- The second-order term


def _through(fun, perturbation, ascent_fun=None):
  """The loss at the perturbed parameters, differentiated by JAX as it is."""
  gradient_fn = jax.grad(ascent_fun or fun)

  def perturbed(params, *args):
    epsilon = perturbation(gradient_fn(params, *args), params)
    return fun(jax.tree.map(jnp.add, params, epsilon), *args)

  return jax.grad(perturbed)


def _adaptive(grads, params):
  """Depends on the parameters directly, too."""
  scaled = jax.tree.map(lambda g, p: g * p**2, grads, params)
  return sam_jax.l2(RHO)(scaled, params)


@pytest.mark.parametrize(
  'perturbation',
  [sam_jax.l2(RHO), sam_jax.lp(RHO, 3), _adaptive],
  ids=['l2', 'l3', 'adaptive'],
)
def test_the_second_order_term_is_the_derivative_through_epsilon(perturbation):
  inputs = _logistic_inputs()
  expected = jax.jit(_through(_logistic, perturbation))(*inputs)
  grad_fn = sam_jax.value_and_grad(_logistic, perturbation, second_order=True)
  _, grads = jax.jit(grad_fn)(*inputs)
  _, without = jax.jit(sam_jax.value_and_grad(_logistic, perturbation))(*inputs)
  for name in ('kernel', 'bias'):
    np.testing.assert_allclose(grads[name], expected[name], rtol=2e-5)
    # A term of this size cannot be missed.
    assert np.abs(without[name] - expected[name]).max() > 0.003


def test_the_second_order_term_has_the_hessian_of_the_ascent_loss():
  ascent_fun = lambda w: _quadratic(w) + jnp.sum(jnp.cos(w))
  perturbation = sam_jax.l2(RHO)
  expected = _through(_quadratic, perturbation, ascent_fun)(jnp.float32(W))
  _, grads, info = sam_jax.value_and_grad(
    _quadratic,
    perturbation,
    ascent_fun=ascent_fun,
    second_order=True,
    with_info=True,
  )(jnp.float32(W))
  np.testing.assert_allclose(grads, expected, rtol=1e-5)
  np.testing.assert_allclose(
    info.ascent_grads, jax.grad(ascent_fun)(jnp.float32(W))
  )
  # Without the term.
  np.testing.assert_allclose(
    info.descent_grads, A @ (W + info.epsilon), rtol=1e-5
  )


def test_the_second_order_term_leaves_what_is_not_perturbed_none():
  """Half of the parameters are perturbed; the Hessian couples both."""
  params = {'a': jnp.float32(1.0), 'b': jnp.float32(2.0)}
  fun = lambda p: p['a'] ** 2 * p['b'] ** 2 + p['b'] ** 3
  half = lambda g, p: {'a': g['a'] / 8, 'b': None}
  _, grads = sam_jax.value_and_grad(fun, half, second_order=True)(params)

  def perturbed(p):
    return fun({'a': p['a'] + jax.grad(fun)(p)['a'] / 8, 'b': p['b']})

  expected = jax.grad(perturbed)(params)
  for name in params:
    np.testing.assert_allclose(grads[name], expected[name], rtol=1e-6)


def test_at_a_minimum_the_second_order_term_is_zero():
  _, grads = sam_jax.value_and_grad(
    _quadratic, sam_jax.l2(RHO), second_order=True
  )(jnp.zeros(3))
  np.testing.assert_array_equal(grads, 0)


def test_several_ascent_steps_have_no_second_order_term():
  with pytest.raises(ValueError, match='for one ascent step, .* is 2'):
    sam_jax.value_and_grad(
      _quadratic, sam_jax.l2(RHO), ascent_steps=2, second_order=True
    )


@pytest.mark.parametrize('steps', [0, -1])
def test_less_than_one_ascent_step_is_refused(steps):
  with pytest.raises(ValueError, match=f'ascent_steps is {steps}; .* least 1'):
    sam_jax.value_and_grad(_quadratic, sam_jax.l2(RHO), ascent_steps=steps)


# --- Many devices


def _shards(devices=4):
  """Parameters, and data and labels that differ from device to device."""
  params, x, y = _logistic_inputs(2 * devices)
  return params, x, y * jnp.where(jnp.arange(2 * devices) < devices, 1.0, 3.0)


def _mapped(fn, out_specs, check_vma=True, devices=4):
  mesh = jax.make_mesh(
    (devices,),
    ('data',),
    (jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  return jax.jit(
    jax.shard_map(
      fn,
      mesh=mesh,
      in_specs=(P(), P('data'), P('data')),
      out_specs=out_specs,
      check_vma=check_vma,
    )
  )


def _grad_fn(**options):
  return sam_jax.grad(_logistic, sam_jax.l2(RHO), **options)


def _stacked(fn):
  """The result of each device, stacked."""
  return lambda *args: jax.tree.map(lambda g: g[None], fn(*args))


def _one_by_one(params, x, y, devices=4):
  """Each device's SAM gradient, computed without any parallelism."""
  grads = [
    _grad_fn()(params, a, b)
    for a, b in zip(jnp.split(x, devices), jnp.split(y, devices), strict=True)
  ]
  return jax.tree.map(lambda *g: jnp.stack(g), *grads)


def _assert_trees_close(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b
  )


def _advised_line():
  """The line that the error message gives."""
  with pytest.raises(ValueError, match='JAX sums') as error:
    _mapped(_grad_fn(), P())(*_shards())
  return re.search(r'local = jax\.tree\.map\(.*\)$', str(error.value)).group()


def test_replicated_parameters_are_refused_with_the_line_that_helps():
  namespace = {}
  source = f'def cast(params):\n  {_advised_line()}\n  return local\n'
  exec(source, {'jax': jax}, namespace)
  grad_fn = lambda params, *data: _grad_fn()(namespace['cast'](params), *data)
  actual = _mapped(_stacked(grad_fn), P('data'))(*_shards())
  _assert_trees_close(actual, _one_by_one(*_shards()))


def test_what_is_refused_is_another_algorithm(monkeypatch):
  monkeypatch.setattr(sam, '_check_differentiated_locally', lambda *_: None)
  wrong = _mapped(_grad_fn(), P())(*_shards())
  # m is the global batch, and the gradient is summed over the 4 devices.
  summed = jax.tree.map(lambda g: 4 * g, _grad_fn()(*_shards()))
  _assert_trees_close(wrong, summed)
  mean = jax.tree.map(lambda g: g.mean(0), _one_by_one(*_shards()))
  assert np.abs(wrong['kernel'] / 4 - mean['kernel']).max() > 1e-2


def test_without_vma_checks_each_device_has_its_own_epsilon():
  actual = _mapped(_stacked(_grad_fn()), P('data'), check_vma=False)(*_shards())
  _assert_trees_close(actual, _one_by_one(*_shards()))


def test_under_pmap_each_device_has_its_own_epsilon():
  params, x, y = _shards()
  split = lambda a: a.reshape(4, 2, *a.shape[1:])
  actual = jax.pmap(_grad_fn(), in_axes=(None, 0, 0), axis_name='data')(
    params, split(x), split(y)
  )
  _assert_trees_close(actual, _one_by_one(*_shards()))


def test_a_loss_that_is_averaged_over_devices_gives_global_sam():
  def global_loss(params, x, y):
    return jax.lax.pmean(_logistic(params, x, y), 'data')

  grad_fn = sam_jax.grad(global_loss, sam_jax.l2(RHO))
  _assert_trees_close(_mapped(grad_fn, P())(*_shards()), _grad_fn()(*_shards()))


@pytest.mark.parametrize('second_order', [False, True])
def test_ascent_reduce_shares_one_epsilon_between_devices(second_order):
  options = {'second_order': second_order}

  def grad_fn(params, *data):
    mean = lambda tree: jax.lax.pmean(tree, 'data')
    params = jax.tree.map(
      lambda p: jax.lax.pcast(p, ('data',), to='varying'), params
    )
    return mean(_grad_fn(ascent_reduce=mean, **options)(params, *data))

  _assert_trees_close(
    _mapped(grad_fn, P())(*_shards()), _grad_fn(**options)(*_shards())
  )


# --- Against optax.contrib.sam


def _train_optax(loss, params, base, steps=5):
  """Trajectory of optax's SAM, in the mode that takes a gradient function."""
  adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
  optimizer = optax.contrib.sam(base, adversary, 2, opaque_mode=True)
  state, trajectory = optimizer.init(params), []
  grad_fn = jax.grad(lambda params, step: loss(params))
  for _ in range(steps):
    updates, state = optimizer.update(
      jax.grad(loss)(params), state, params, grad_fn=grad_fn
    )
    params = optax.apply_updates(params, updates)
    trajectory.append(params)
  return trajectory


def _train(loss, params, base, perturbation, steps=5):
  state, trajectory = base.init(params), []
  for _ in range(steps):
    grads = sam_jax.grad(loss, perturbation)(params)
    updates, state = base.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    trajectory.append(params)
  return trajectory


@pytest.mark.parametrize('momentum', [None, 0.9])
@pytest.mark.parametrize('problem', ['quadratic', 'logistic'])
def test_it_equals_optax_and_differs_from_sgd(problem, momentum):
  params, x, y = _logistic_inputs()
  loss, start = {
    'quadratic': (_quadratic, jnp.float32(W)),
    'logistic': (lambda p: _logistic(p, x, y), params),
  }[problem]
  base = optax.sgd(0.1, momentum)
  theirs = _train_optax(loss, start, base)
  _assert_trees_close(_train(loss, start, base, sam_jax.l2(RHO)), theirs)
  # Without this a plain SGD would pass on a problem that both solve.
  sgd = _train(loss, start, base, perturbations.none)
  gap = lambda a, b: float(optax.tree.norm(optax.tree.sub(a, b)))
  assert min(map(gap, sgd, theirs)) > 1e-3


def test_a_zero_gradient_is_finite_where_optax_gives_nan():
  adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
  optimizer = optax.contrib.sam(optax.sgd(0.1), adversary, 2)
  zeros = jnp.zeros(3)
  updates, _ = optimizer.update(zeros, optimizer.init(zeros), zeros)
  assert np.isnan(updates).all()
  (end,) = _train(_quadratic, zeros, optax.sgd(0.1), sam_jax.l2(RHO), steps=1)
  np.testing.assert_array_equal(end, zeros)


# --- JAX's own switches


@pytest.mark.parametrize(
  'name, value',
  [
    ('jax_debug_nans', True),
    ('jax_disable_jit', True),
    ('jax_enable_checks', True),
    ('jax_numpy_dtype_promotion', 'strict'),
    ('jax_check_tracer_leaks', True),
    ('jax_enable_x64', True),
  ],
)
def test_switches_that_find_errors_find_none(name, value):
  """At a zero gradient too, where a norm is zero."""
  expected = sam_jax.grad(_quadratic, sam_jax.l2(RHO))(jnp.float32(W))
  before = getattr(jax.config, name)
  jax.config.update(name, value)
  try:
    perturbation = sam_jax.lp(RHO, 1.5)
    grad_fn = jax.jit(sam_jax.grad(_quadratic, perturbation, second_order=True))
    assert not grad_fn(jnp.zeros(3, jnp.float32)).any()
    method = sam_jax.methods.looksam(RHO, every=2)
    grad_fn = jax.jit(method.value_and_grad(_quadratic))
    state = method.init(jnp.float32(W))
    _, grads, state = grad_fn(state, jnp.float32(W))
    np.testing.assert_allclose(grads, expected, rtol=1e-5)
    assert np.isfinite(grad_fn(state, jnp.float32(W))[1]).all()
  finally:
    jax.config.update(name, before)
