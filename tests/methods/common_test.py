"""Every method goes through every trial; a new one is a row of the table."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import methods, tree
from tests import steps
from tests.methods import (
  rows_combines,
  rows_directions,
  rows_losses,
  rows_metrics,
  rows_sam,
  rows_times,
)
from tests.methods.table import INFO, KEY, MOMENTUM, RATE, STEPS, Moment, Row

ROWS = [
  *rows_sam.ROWS,
  *rows_directions.ROWS,
  *rows_times.ROWS,
  *rows_combines.ROWS,
  *rows_metrics.ROWS,
  *rows_losses.ROWS,
]
_LOOKSAM = next(row for row in ROWS if row.name == 'looksam')
_OF_LOSS = [row for row in ROWS if not row.is_of_network]
_EVERY = pytest.mark.parametrize('row', _OF_LOSS, ids=str)
_EACH_METHOD = pytest.mark.parametrize(
  'row', {row.name: row for row in reversed(ROWS)}.values(), ids=str
)

A = np.diag([4.0, 2.0, 1.0, 0.5, 0.25]) + 0.2
SHIFT = np.array([1.0, -0.5, 0.3, -0.2, 0.7])
START = np.array([1.0, -2.0, 0.5, 3.0, -1.5])


def _tree(vector, dtype=jnp.float32):
  w = jnp.asarray(vector, dtype)
  return {'a': w[:2], 'b': {'c': w[2:]}}


def _dtype(x):
  return x.dtype


def _vector(tree):
  leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
  return np.concatenate(leaves)


def _quadratic(params, scale=1.0):
  w = jnp.concatenate([params['a'], params['b']['c']])
  hessian, shift = jnp.asarray(A, w.dtype), jnp.asarray(SHIFT, w.dtype)
  return scale * (0.5 * w @ hessian @ w + shift @ w)


def _rate(step):
  return RATE * (1 - step / STEPS)


def _grad_fn(method, fun=_quadratic, **options):
  needed = {
    'key': KEY,
    'num_steps': STEPS,
    'learning_rate': _rate,
    'peak_learning_rate': RATE,
    'takes_momentum': True,
  }
  return jax.jit(method.value_and_grad(fun, **needed | options))


def _walk(method, dtype=jnp.float32, grad_fn=None):
  """Yields parameters, gradient and state of steps of gradient descent."""
  grad_fn = grad_fn or _grad_fn(method)
  params = _tree(START, dtype)
  state, velocity = method.init(params), jax.tree.map(jnp.zeros_like, params)
  for _ in range(STEPS):
    _, grads, state = grad_fn(state, params, momentum=velocity)
    yield params, grads, state
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
    params = jax.tree.map(lambda p, v: p - RATE * v, params, velocity)


@_EVERY
def test_on_a_quadratic_every_step_is_the_papers_formula(row):
  w, memory, velocity = START, None, np.zeros_like(START)
  for step, (params, grads, _) in enumerate(_walk(row.create())):
    moment = Moment(
      step, lambda w: A @ w + SHIFT, A, _rate(step) / RATE, velocity
    )
    np.testing.assert_allclose(_vector(params), w, rtol=1e-5, atol=1e-6)
    expected, memory = row.oracle(w, memory, moment)
    np.testing.assert_allclose(_vector(grads), expected, rtol=2e-5, atol=1e-5)
    velocity = MOMENTUM * velocity + expected
    w = w - RATE * velocity
  plain = [_vector(params) for params, *_ in _walk(methods.sgd())]
  if row.oracle is not rows_sam.sgd:  # a test that SGD passes would be none
    assert np.abs(_vector(params) - plain[-1]).max() > 1e-2


@pytest.mark.parametrize(
  'row', [row for row in _OF_LOSS if row.equal is not None], ids=str
)
def test_with_some_fields_it_is_another_method(row):
  name, fields = row.other
  same = _walk(row.create(**row.equal))
  for (_, grads, _), (_, expected, _) in zip(
    same, _walk(methods.create(name, **fields)), strict=True
  ):
    np.testing.assert_allclose(
      _vector(grads), _vector(expected), rtol=2e-6, atol=2e-6
    )


@_EVERY
def test_all_steps_are_one_program(row):
  grad_fn = _grad_fn(row.create())
  list(_walk(row.create(), grad_fn=grad_fn))
  assert grad_fn._cache_size() == 1


@_EVERY
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_gradient_and_state_keep_their_dtypes(row, dtype):
  method = row.create()
  before = jax.tree.map(_dtype, method.init(_tree(START, dtype)))
  for params, grads, state in _walk(method, dtype):
    assert jax.tree.map(_dtype, grads) == jax.tree.map(_dtype, params)
    assert jax.tree.map(_dtype, state) == before
  assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(grads))


@_EVERY
def test_a_zero_gradient_stays_zero_and_nan_stays_nan(row):
  method = row.create()
  params = _tree(START)
  fun = lambda params, scale: scale * sum(map(jnp.sum, jax.tree.leaves(params)))
  grad_fn = _grad_fn(method, fun)
  for scale, is_expected in ((0.0, lambda x: x == 0), (math.nan, np.isnan)):
    state = method.init(params)
    for _ in range(4):
      _, grads, state = grad_fn(state, params, scale, momentum=params)
      assert is_expected(_vector(grads)).all()
      if scale == 0:
        assert np.isfinite(_vector(state)).all()


@_EVERY
def test_it_costs_what_it_says(row):
  """The compiler's count of a network, the mean over the steps of a period."""
  width, rows = 64, 1024
  params = {f'w{i}': jnp.eye(width) for i in range(3)}
  x = jnp.ones((rows, width))

  def fun(params, x):
    for w in params.values():
      x = jnp.tanh(x @ w)
    return jnp.mean(x**2)

  def flops(method, step):
    # The step is a constant of the program: one branch is left of a `cond`.
    ctx = methods.Context(
      np.int32(step),
      num_steps=STEPS,
      key=KEY,
      step_key=KEY,
      learning_rate=RATE,
      peak_learning_rate=RATE,
      momentum=params,
    )
    state = method.init(params)

    def run(params, x):
      grad_fn = jax.value_and_grad(lambda p: (fun(p, x), ()), has_aux=True)
      # What training measures: without it the gradient of the first pass of
      # 'random' would be compiled away.
      diagnose = lambda params, out, info: {
        'cosine': tree.cosine(info.ascent_grads, info.descent_grads)
      }
      problem = methods.Problem(grad_fn, grad_fn, diagnose)
      result = method.gradient(problem, state, params, ctx)
      return method.finish(state, result, ctx), result.diagnostics

    compiled = jax.jit(run).lower(params, x).compile()
    return compiled.cost_analysis()['flops']

  method = row.create()
  costs = [flops(method, step) for step in range(row.period)]
  ratio = np.mean(costs) / flops(methods.sgd(), 0)
  # The first layer has no gradient with respect to its input.
  assert ratio == pytest.approx(method.gradient_evaluations, rel=0.08)


# --- In the training step ---

B, M, MICROBATCH = 16, 8, 4


@functools.cache
def _problem():
  """A smooth network with BatchNorm, and batches for it."""
  rng = np.random.default_rng(0)
  batches = [
    {
      'image': rng.normal(size=(B, 6)).astype(np.float32),
      'label': rng.integers(0, 5, B).astype(np.int32),
      'domain': rng.integers(0, 3, B).astype(np.int32),
    }
    for _ in range(STEPS)
  ]
  variables = steps.Mlp().init(jax.random.key(0), jnp.zeros((2, 6)), train=True)
  return jax.tree.map(np.asarray, dict(variables)), batches


def _stepper(row, devices, *, loop='unroll', parallel_name='shard_map', **more):
  variables, _ = _problem()
  return steps.make(
    steps.Mlp().apply,
    variables['params'],
    B,
    m=M,
    b=MICROBATCH,
    devices=devices,
    loop=loop,
    parallel_name=parallel_name,
    method=row.create(),
    num_steps=STEPS,
    info=INFO,
    **{'schedule': 'cosine'} | more,
  )


@functools.cache
def _alone(name):
  row = next(row for row in ROWS if str(row) == name)
  return _stepper(row, 1).run(*_problem())


def _assert_same(row, devices, **options):
  spread = _stepper(row, devices, **options).run(*_problem())
  for a, b in zip(spread, _alone(str(row)), strict=True):
    assert steps.largest_difference(a.state, b.state) < 5e-6
    assert a.metrics == pytest.approx(b.metrics, abs=5e-5)


@_EACH_METHOD
@pytest.mark.parametrize(
  'devices, options',
  [
    pytest.param(1, {'loop': 'scan'}, marks=pytest.mark.slow),
    pytest.param(2, {'loop': 'vmap'}, marks=pytest.mark.slow),
    (4, {}),  # two devices share each group
    pytest.param(4, {'parallel_name': 'pmap'}, marks=pytest.mark.slow),
  ],
  ids=['1-scan', '2-vmap', '4-shared', '4-pmap'],
)
def test_devices_and_loops_do_not_change_the_run(row, devices, options):
  _assert_same(row, devices, **options)


@pytest.mark.slow
@pytest.mark.parametrize('parallel_name', ['shard_map', 'pmap'])
@pytest.mark.parametrize('loop', ['unroll', 'vmap', 'scan'])
@pytest.mark.parametrize('devices', [1, 2, 4])
def test_looksam_is_the_same_everywhere(devices, loop, parallel_name):
  _assert_same(_LOOKSAM, devices, loop=loop, parallel_name=parallel_name)


@_EACH_METHOD
def test_a_run_resumes_with_the_same_bits(row):
  stepper = _stepper(row, 1)
  _, batches = _problem()
  expected = _alone(str(row))
  for i in range(1, STEPS):
    resumed = stepper.resume(expected[i - 1].state, batches[i:])
    jax.tree.map(
      np.testing.assert_array_equal, resumed[-1].state, expected[-1].state
    )


def test_metrics_of_the_perturbation_are_those_of_the_steps_that_have_one():
  sam = _stepper(Row('sam', {'rho': 0.3}, rows_sam.sam), 1).run(*_problem())
  looks = _alone(str(_LOOKSAM))
  perturbed = sam[0].metrics.keys() - looks[1].metrics.keys()
  assert {'perturbed_loss', 'sharpness', 'cosine', 'curvature'} <= perturbed
  for i, step in enumerate(looks):
    assert (perturbed <= step.metrics.keys()) == (i % 3 == 0)
  assert looks[0].metrics == pytest.approx(sam[0].metrics, rel=1e-5)


@pytest.mark.slow
def test_the_norms_of_looksam_are_those_of_the_averaged_gradients():
  """With two groups, whose gradients have other norms than their mean."""
  options = {
    'optimizer_options': {'momentum': 0.0, 'nesterov': False},
    'schedule': 'constant',
  }
  variables, batches = _problem()
  first, second, *_ = _stepper(_LOOKSAM, 1, **options).run(variables, batches)
  plain = _stepper(Row('sgd', {}, rows_sam.sgd), 1, **options)
  (sgd,) = plain.run(first.variables, batches[1:2])
  start = _vector(first.state.params)
  g = start - _vector(sgd.state.params)
  added = start - g - _vector(second.state.params)
  g_v = _vector(first.state.method_state.memory)
  length = 0.7 * np.linalg.norm(g) / np.linalg.norm(g_v)
  np.testing.assert_allclose(added, length * g_v, atol=1e-6)
  assert np.abs(added).max() > 1e-3
