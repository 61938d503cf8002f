"""Every method goes through every trial; a new one is a row of the table."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import methods
from tests import steps
from tests.methods import (
  problems,
  rows_combines,
  rows_directions,
  rows_losses,
  rows_metrics,
  rows_sam,
  rows_times,
)
from tests.methods.table import (
  HESSIAN,
  HESSIANS,
  INFO,
  KEY,
  MOMENTUM,
  RATE,
  SHIFT,
  SHIFTS,
  START,
  STEPS,
  Moment,
  Row,
)

ROWS = [
  *rows_sam.ROWS,
  *rows_directions.ROWS,
  *rows_times.ROWS,
  *rows_combines.ROWS,
  *rows_metrics.ROWS,
  *rows_losses.ROWS,
]
_LOOKSAM = next(row for row in ROWS if row.name == 'looksam')
_AE_SAM = next(row for row in ROWS if row.name == 'ae_sam')
_OF_LOSS = [row for row in ROWS if not row.is_of_network]
_EVERY = pytest.mark.parametrize('row', _OF_LOSS, ids=str)
# A training step takes seconds to compile: those of the others are slow.
_QUICK = ('sgd', 'sam', 'random', 'looksam')
_EACH_METHOD = pytest.mark.parametrize(
  'row',
  [
    pytest.param(row, marks=() if name in _QUICK else pytest.mark.slow)
    for name, row in {row.name: row for row in reversed(ROWS)}.items()
  ],
  ids=str,
)


def _tree(vector, dtype=jnp.float32):
  w = jnp.asarray(vector, dtype)
  return {'a': {'kernel': w[:2]}, 'norm': {'scale': w[2:, None]}}


def _dtype(x):
  return x.dtype


def _vector(tree):
  leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
  return np.concatenate(leaves)


def _quadratic(params, example=(HESSIAN, SHIFT)):
  w = jnp.concatenate([params['a']['kernel'], params['norm']['scale'][:, 0]])
  hessian, shift = (jnp.asarray(x, w.dtype) for x in example)
  return 0.5 * w @ hessian @ w + shift @ w


def _rate(step):
  return RATE * (1 - step / STEPS)


def _grad_fn(method, fun=_quadratic, needs_examples=False):
  needed = {
    'key': KEY,
    'num_steps': STEPS,
    'learning_rate': _rate,
    'peak_learning_rate': RATE,
    'takes_momentum': True,
  }
  if needs_examples:
    losses_fn = jax.vmap(fun, (None, 0))
    return jax.jit(problems.value_and_grad(method, losses_fn, **needed))
  return jax.jit(method.value_and_grad(fun, **needed))


def _walk(method, dtype=jnp.float32, grad_fn=None, needs_examples=False):
  """Yields parameters, gradient and state of steps of gradient descent."""
  grad_fn = grad_fn or _grad_fn(method, needs_examples=needs_examples)
  examples = ((HESSIANS, SHIFTS),) if needs_examples else ()
  params = _tree(START, dtype)
  state, velocity = method.init(params), jax.tree.map(jnp.zeros_like, params)
  for _ in range(STEPS):
    _, grads, state = grad_fn(state, params, *examples, momentum=velocity)
    yield params, grads, state
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
    params = jax.tree.map(lambda p, v: p - RATE * v, params, velocity)


@_EVERY
def test_on_a_quadratic_every_step_is_the_papers_formula(row):
  w, memory, velocity = START, None, np.zeros_like(START)
  method, needs_examples = row.create(), row.needs_examples
  grad_fn = _grad_fn(method, needs_examples=needs_examples)
  walk = _walk(method, grad_fn=grad_fn, needs_examples=needs_examples)
  for step, (params, grads, _) in enumerate(walk):
    moment = Moment(
      step,
      lambda w: HESSIAN @ w + SHIFT,
      HESSIAN,
      _rate(step) / RATE,
      velocity,
    )
    np.testing.assert_allclose(_vector(params), w, rtol=1e-5, atol=1e-6)
    expected, memory = row.oracle(w, memory, moment)
    np.testing.assert_allclose(_vector(grads), expected, rtol=2e-5, atol=1e-5)
    velocity = MOMENTUM * velocity + expected
    w = w - RATE * velocity
  assert grad_fn._cache_size() == 1  # all steps are one program
  if row.oracle is not rows_sam.sgd:  # a test that SGD passes would be none
    assert np.abs(_vector(params) - _end_of_sgd()).max() > 1e-2


@functools.cache
def _end_of_sgd():
  *_, (params, _, _) = _walk(methods.sgd())
  return _vector(params)


@pytest.mark.parametrize(
  'row', [row for row in _OF_LOSS if row.equal is not None], ids=str
)
def test_with_some_fields_it_is_another_method(row):
  name, fields = row.other
  same = _walk(row.create(**row.equal), needs_examples=row.needs_examples)
  for (_, grads, _), (_, expected, _) in zip(
    same, _walk(methods.create(name, **fields)), strict=True
  ):
    np.testing.assert_allclose(
      _vector(grads), _vector(expected), rtol=2e-6, atol=2e-6
    )


@_EVERY
@pytest.mark.parametrize(
  'dtype',
  [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)],
)
def test_gradient_and_state_keep_their_dtypes(row, dtype):
  method = row.create()
  before = jax.tree.map(_dtype, method.init(_tree(START, dtype)))
  walk = _walk(method, dtype, needs_examples=row.needs_examples)
  for params, grads, state in walk:
    assert jax.tree.map(_dtype, grads) == jax.tree.map(_dtype, params)
    assert jax.tree.map(_dtype, state) == before
  assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(grads))


@_EVERY
def test_a_zero_gradient_stays_zero_and_nan_stays_nan(row):
  method = row.create()
  params = _tree(START)
  # Not a plane, whose gradient a NaN in the perturbation would not reach.
  fun = lambda params, scale: (
    scale * sum(jnp.vdot(p, p) for p in jax.tree.leaves(params))
  )
  grad_fn = _grad_fn(method, fun, row.needs_examples)
  for scale, is_expected in ((0.0, lambda x: x == 0), (math.nan, np.isnan)):
    state = method.init(params)
    if row.needs_examples:
      scale = np.full(len(SHIFTS), scale)
    for _ in range(4):
      _, grads, state = grad_fn(state, params, scale, momentum=params)
      assert is_expected(_vector(grads)).all()
      if np.all(scale == 0):
        assert np.isfinite(_vector(state)).all()


@_EVERY
def test_it_costs_what_it_says(row):
  """The compiler's count of a network, the mean over the steps of a period."""
  width, rows = 64, 1024
  params = {f'norm{i}': {'scale': jnp.eye(width)} for i in range(3)}
  x = jnp.ones((rows, width))

  def losses_fn(params, x):
    for layer in params.values():
      x = jnp.tanh(x @ layer['scale'])
    return jnp.mean(x**2, axis=-1)

  def flops(method, number=None):
    """Of the step with that number, a constant: one branch is left of a cond.

    Of any step without one: the dearest branch, and what is outside of all.
    """
    options = dict(
      num_steps=STEPS,
      key=KEY,
      step_key=KEY,
      learning_rate=RATE,
      peak_learning_rate=RATE,
      momentum=params,
    )
    state = method.init(params)  # no constant: a zero in it would save work

    def run(params, x, state):
      step = state.step if number is None else np.int32(number)
      ctx = methods.Context(step, **options)
      # What training measures: without it the gradient of the first pass of
      # 'random' would be compiled away.
      problem = problems.create(losses_fn, x, is_measured=True)
      result = method.gradient(problem, state, params, ctx)
      return method.finish(state, result, ctx), result.diagnostics

    compiled = jax.jit(run).lower(params, x, state).compile()
    return compiled.cost_analysis()['flops']

  method = row.create()
  if row.is_chance:  # the compiler counts the dearer of two branches
    share = method.when.share
    cost = share * flops(method, 0) + (1 - share) * flops(methods.sgd(), 0)
  else:
    costs = [flops(method, number) for number in range(row.period)]
    cost = np.mean(costs)
    # No gradient is made in all steps and used in some. (A branch shares no
    # forward pass with what is outside of it, as a constant step does.)
    assert row.period == 1 or flops(method) < 1.25 * max(costs)
  ratio = cost / flops(methods.sgd(), 0)
  # The first layer has no gradient with respect to its input.
  counted = method.gradient_evaluations - row.uncounted
  assert ratio == pytest.approx(counted, rel=0.08)


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
      'example': (np.arange(B, dtype=np.int32) + 3 * step) % (B + 4),
    }
    for step in range(STEPS)
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
  """A stepper on one device, and the run that it makes."""
  row = next(row for row in ROWS if str(row) == name)
  stepper = _stepper(row, 1, loop='scan')
  return stepper, stepper.run(*_problem())


def _assert_same(row, devices, **options):
  spread = _stepper(row, devices, **options).run(*_problem())
  for a, b in zip(spread, _alone(str(row))[1], strict=True):
    assert steps.largest_difference(a.state, b.state) < 5e-6
    assert a.metrics == pytest.approx(b.metrics, abs=5e-5)


# With the run on one device: every number of devices, loop and kind of
# parallelism, but not every combination; LookSAM has more below.
@_EACH_METHOD
@pytest.mark.parametrize(
  'devices, options',
  [(2, {'loop': 'unroll'}), (4, {'loop': 'vmap', 'parallel_name': 'pmap'})],
  ids=['2-unroll', '4-vmap-pmap'],
)
def test_devices_and_loops_do_not_change_the_run(row, devices, options):
  _assert_same(row, devices, **options)


# Any two of them together, with those above.
@pytest.mark.slow
@pytest.mark.parametrize(
  'devices, loop, parallel_name',
  [
    (1, 'unroll', 'pmap'),
    (1, 'vmap', 'shard_map'),
    (2, 'scan', 'pmap'),
    (2, 'vmap', 'shard_map'),
    (4, 'scan', 'shard_map'),
    (4, 'unroll', 'pmap'),
  ],
)
def test_looksam_is_the_same_everywhere(devices, loop, parallel_name):
  _assert_same(_LOOKSAM, devices, loop=loop, parallel_name=parallel_name)


@pytest.mark.slow
@pytest.mark.parametrize('loop', ['unroll', 'scan'])
def test_groups_that_share_devices_may_decide_differently(monkeypatch, loop):
  """The mean over the devices of a group is within one of two branches."""
  flat, shares = steps.flat, []

  def noting(metrics):
    shares.append(float(metrics.share))
    return flat(metrics)

  monkeypatch.setattr(steps, 'flat', noting)
  _assert_same(_AE_SAM, 4, loop=loop)
  assert 0.5 in shares[:STEPS]


@_EACH_METHOD
def test_a_run_resumes_with_the_same_bits(row):
  stepper, expected = _alone(str(row))
  _, batches = _problem()
  for i in range(1, STEPS):
    resumed = stepper.resume(expected[i - 1].state, batches[i:])
    jax.tree.map(
      np.testing.assert_array_equal, resumed[-1].state, expected[-1].state
    )


def test_metrics_of_the_perturbation_are_those_of_the_steps_that_have_one():
  sam = _stepper(Row('sam', {'rho': 0.3}, rows_sam.sam), 1).run(*_problem())
  _, looks = _alone(str(_LOOKSAM))
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
