"""Methods that look into the loss: the trials of a network with examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sam_jax import keys
from sam_jax.training import train_step
from tests import steps
from tests.methods import rows_losses
from tests.methods.table import INFO, MOMENTUM, RATE, STEPS, Row

B, M, MICROBATCH, SEED = 16, 8, 4, 1
_EVERY = pytest.mark.parametrize('row', rows_losses.ROWS, ids=str)


class _Net(nn.Module):
  """The network of `rows_losses`."""

  @nn.compact
  def __call__(self, x, *, train, true_gradient=False):
    del train, true_gradient
    x = jnp.tanh(nn.Dense(rows_losses.HIDDEN, name='d1')(x))
    return nn.Dense(rows_losses.CLASSES, name='d2')(x)


@functools.cache
def _data():
  rng = np.random.default_rng(2)
  shape = (STEPS, B)
  images = rng.normal(size=(*shape, rows_losses.FEATURES)).astype(np.float32)
  labels = rng.integers(0, 5, shape).astype(np.int32)
  domains = rng.integers(0, 3, shape).astype(np.int32)
  domains[0, :M] = domains[0, :M] % 2  # a group without the last one
  variables = _Net().init(jax.random.key(0), images[0], train=True)
  return jax.tree.map(np.asarray, dict(variables)), [
    {'image': x, 'label': y, 'domain': d}
    for x, y, d in zip(images, labels, domains, strict=True)
  ]


def _stepper(method, params=None, apply_fn=None, batch_size=B, **more):
  options = {
    'm': M,
    'b': MICROBATCH,
    'loop': 'scan',
    'info': INFO,
    'learning_rate': RATE,
    'num_steps': STEPS,
    'optimizer_options': {'momentum': MOMENTUM, 'nesterov': False},
    'weight_decay': rows_losses.DECAY,
    'seed': SEED,
  }
  return steps.make(
    apply_fn or _Net().apply,
    _data()[0]['params'] if params is None else params,
    batch_size,
    method=method,
    **options | more,
  )


def _vector(tree):
  leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
  return np.concatenate(leaves)


def _groups(batch, step):
  key = jax.random.fold_in(keys.make(SEED), 2)  # the stream of the method
  key = jax.random.fold_in(key, step)
  for i in range(B // M):
    rows = slice(i * M, (i + 1) * M)
    yield rows_losses.Group(
      batch['image'][rows].astype(np.float64),
      batch['label'][rows],
      batch['domain'][rows],
      jax.random.fold_in(key, i),
    )


@functools.cache
def _walk(name, fields):
  method = Row(name, dict(fields), None).create()
  stepper = _stepper(method)
  found = [_vector(s.state.params) for s in stepper.run(*_data())]
  assert stepper.compiled._cache_size() == 1
  return found


def _steps_of(name, fields):
  return _walk(name, tuple(fields.items()))


@pytest.mark.parametrize(
  'row', [row for row in rows_losses.ROWS if row.oracle], ids=str
)
def test_every_step_is_the_papers_formula(row):
  variables, batches = _data()
  w, memory = _vector(variables['params']), None
  velocity = np.zeros_like(w)
  actual = _steps_of(row.name, row.fields)
  for step, batch in enumerate(batches):
    grad, memory = row.oracle(w, memory, list(_groups(batch, step)), step)
    velocity = MOMENTUM * velocity + grad
    w = w - RATE * velocity
    np.testing.assert_allclose(actual[step], w, rtol=1e-5, atol=2e-6)
  # A test that SGD or SAM passes would be none.
  for other in (('sgd', {}), ('sam', {'rho': 0.3})):
    assert np.abs(actual[-1] - _steps_of(*other)[-1]).max() > 1e-3


@_EVERY
def test_with_some_fields_it_is_another_method(row):
  same = _steps_of(row.name, row.fields | row.equal)
  np.testing.assert_allclose(same, _steps_of(*row.other), rtol=2e-6, atol=2e-6)


class _Constant:
  """Stands for a network whose outputs are the first feature, many times."""

  @staticmethod
  def apply(variables, x, **options):
    del options
    total = sum(jnp.sum(p) for p in jax.tree.leaves(variables['params']))
    return x[:, :1] * total * jnp.linspace(0.0, 1.0, 5)[None], {}


def _filled(value):
  variables, batches = _data()
  filled = [{**b, 'image': np.full_like(b['image'], value)} for b in batches]
  return variables, filled[:2]


@_EVERY
def test_a_zero_gradient_stays_zero_and_nan_stays_nan(row):
  stepper = _stepper(row.create(), apply_fn=_Constant.apply, weight_decay=0.0)
  variables, zeros = _filled(0.0)
  last = stepper.run(variables, zeros)[-1].state
  np.testing.assert_array_equal(
    _vector(last.params), _vector(variables['params'])
  )
  assert np.isfinite(_vector((last.method_state, last.opt_state))).all()
  last = stepper.run(*_filled(np.nan))[-1].state
  assert np.isnan(_vector(last.params)).all()


@_EVERY
@pytest.mark.parametrize(
  'dtype',
  [
    jnp.bfloat16,
    pytest.param(jnp.float16, marks=pytest.mark.slow),
  ],
)
def test_parameters_and_state_keep_their_dtypes(row, dtype):
  variables, batches = _data()
  params = jax.tree.map(lambda p: p.astype(dtype), variables['params'])
  stepper = _stepper(row.create(), params)
  dtypes = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
  for step in stepper.run({'params': params}, batches[:2]):
    assert dtypes(step.state.params) == dtypes(params)
    assert dtypes(step.state.method_state) == dtypes(row.create().init(params))


@_EVERY
def test_it_costs_what_it_says(row):
  """The compiler's count of a training step with two microbatches in a loop."""
  width, rows = 64, 256
  params = {f'w{i}': np.eye(width, dtype=np.float32) for i in range(3)}
  batch = {'image': np.ones((rows, width), np.float32)} | {
    name: np.zeros(rows, np.int32) for name in ('label', 'domain', 'position')
  }

  def apply_fn(variables, x, **options):
    del options
    for w in variables['params'].values():
      x = jnp.tanh(x @ w)
    return x, {}

  def flops(method):
    stepper = _stepper(method, params, apply_fn, rows, m=rows, b=rows // 2)
    state = train_step.init_state({'params': params}, stepper.fns)
    compiled = stepper.compiled.lower(state, batch).compile()
    return compiled.cost_analysis()['flops']

  method = row.create()
  ratio = flops(method) / flops('sgd')
  # The first layer has no gradient with respect to its input.
  assert ratio == pytest.approx(method.gradient_evaluations, rel=0.08)
