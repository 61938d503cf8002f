"""Methods that look into the loss: the trials of a network with examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sam_jax import keys, methods
from sam_jax.methods import parts
from sam_jax.training import train_step
from tests import steps
from tests.methods import rows_losses
from tests.methods.table import INFO, MOMENTUM, RATE, STEPS, Row

B, M, MICROBATCH, SEED = 16, 8, 4, 1
FLAG = 99.0  # of inputs whose outputs do not depend on the parameters
_WITH_ORACLE = pytest.mark.parametrize(
  'row', [row for row in rows_losses.ROWS if row.oracle], ids=str
)


class _Net(nn.Module):
  """The network of `rows_losses`."""

  @nn.compact
  def __call__(self, x, *, train, true_gradient=False):
    del train, true_gradient
    is_there = x[:, :1] != FLAG
    x = jnp.tanh(nn.Dense(rows_losses.HIDDEN, name='d1')(x))
    return is_there * nn.Dense(rows_losses.CLASSES, name='d2')(x)


@functools.cache
def _data():
  rng = np.random.default_rng(2)
  shape = (STEPS, B)
  images = rng.normal(size=(*shape, rows_losses.FEATURES)).astype(np.float32)
  labels = rng.integers(0, 5, shape).astype(np.int32)
  domains = rng.integers(0, 3, shape).astype(np.int32)
  domains[0, :M] = domains[0, :M] % 2  # a group without the last one
  # Every step is an epoch, which leaves out 4 of 20.
  numbers = [5 * rng.permutation(20)[:B].astype(np.int32) for _ in range(STEPS)]
  variables = _Net().init(jax.random.key(0), images[0], train=True)
  return jax.tree.map(np.asarray, dict(variables)), [
    {'image': x, 'label': y, 'domain': d, 'example': n}
    for x, y, d, n in zip(images, labels, domains, numbers, strict=True)
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
      batch['example'][rows],
      jax.random.fold_in(key, i),
    )


@functools.cache
def _cached(name, fields):
  return _stepper(Row(name, dict(fields), None).create())


def _stepper_of(name, fields):
  return _cached(name, tuple(fields.items()))


def _walk(name, fields):
  return [
    _vector(s.state.params) for s in _stepper_of(name, fields).run(*_data())
  ]


@_WITH_ORACLE
def test_every_step_is_the_papers_formula(row):
  variables, batches = _data()
  w, memory = _vector(variables['params']), None
  velocity = np.zeros_like(w)
  actual = _walk(row.name, row.fields)
  for step, batch in enumerate(batches):
    grad, memory = row.oracle(w, memory, list(_groups(batch, step)), step)
    velocity = MOMENTUM * velocity + grad
    w = w - RATE * velocity
    np.testing.assert_allclose(actual[step], w, rtol=1e-5, atol=2e-6)
  # A test that SGD or SAM passes would be none.
  for other in (('sgd', {}), ('sam', {'rho': 0.3})):
    assert np.abs(actual[-1] - _walk(*other)[-1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('row', rows_losses.ROWS, ids=str)
def test_with_some_fields_it_is_another_method(row):
  same = _walk(row.name, row.fields | row.equal)
  np.testing.assert_allclose(same, _walk(*row.other), rtol=2e-6, atol=2e-6)


@_WITH_ORACLE
def test_a_zero_gradient_stays_zero_and_nan_stays_nan(row):
  """In the program of the other trials, which is compiled once."""
  stepper = _stepper_of(row.name, row.fields)
  variables, batches = _data()
  zero = jax.tree.map(np.zeros_like, variables)  # without a penalty, too
  flagged = [b | {'image': np.full_like(b['image'], FLAG)} for b in batches]
  last = stepper.run(zero, flagged)[-1].state
  assert not _vector(last.params).any()
  assert np.isfinite(_vector((last.opt_state, last.method_state))).all()
  nans = [b | {'image': np.full_like(b['image'], np.nan)} for b in batches[:1]]
  assert np.isnan(_vector(stepper.run(variables, nans)[-1].state.params)).all()
  assert stepper.compiled._cache_size() == 1


@pytest.mark.slow
@_WITH_ORACLE
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_parameters_and_state_keep_their_dtypes(row, dtype):
  variables, batches = _data()
  params = jax.tree.map(lambda p: p.astype(dtype), variables['params'])
  stepper = _stepper(row.create(), params)
  dtypes = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
  for step in stepper.run({'params': params}, batches[:2]):
    assert dtypes(step.state.params) == dtypes(params)
    assert dtypes(step.state.method_state) == dtypes(row.create().init(params))


@pytest.mark.slow
@_WITH_ORACLE
def test_it_costs_what_it_says(row):
  """The compiler's count of a training step with two microbatches in a loop."""
  width, rows = 64, 256
  params = {f'w{i}': np.eye(width, dtype=np.float32) for i in range(3)}
  batch = {'image': np.ones((rows, width), np.float32)} | {
    name: np.zeros(rows, np.int32)
    for name in ('label', 'domain', 'position', 'example')
  }

  def apply_fn(variables, x, **options):
    del options
    for w in variables['params'].values():
      x = jnp.tanh(x @ w)
    return x, {}

  @functools.cache
  def flops(method):
    stepper = _stepper(method, params, apply_fn, rows, m=rows, b=rows // 2)
    state = train_step.init_state({'params': params}, stepper.fns)
    compiled = stepper.compiled.lower(state, batch).compile()
    return compiled.cost_analysis()['flops']

  method = row.create(**{'classes': width} if row.name == 'saf' else {})
  ratio = flops(method) / flops('sgd')
  # The first layer has no gradient with respect to its input.
  assert ratio == pytest.approx(method.gradient_evaluations, rel=0.08)


# --- Further identities, and what is made by hand ---


def _one_domain(name, fields):
  info = INFO | {'domains': ['only']}
  stepper = _stepper(Row(name, fields, None).create(), info=info)
  variables, batches = _data()
  alone = [b | {'domain': np.zeros_like(b['domain'])} for b in batches[:1]]
  (step,) = stepper.run(variables, alone)
  return _vector(step.state.params)


def test_one_domain_makes_sam_of_disam_and_its_mean_with_sgd_of_dgsam():
  sgd, sam = (_walk(n, f)[0] for n, f in (('sgd', {}), ('sam', {'rho': 0.3})))
  found = _one_domain('disam', {'rho': 0.3, 'lam': 2.0})
  np.testing.assert_allclose(found, sam, rtol=2e-6, atol=2e-6)
  found = _one_domain('dgsam', {'rho': 0.3, 'domains': 1})
  # The first gradient is SGD's, and the only other one is SAM's.
  np.testing.assert_allclose(found, (sgd + sam) / 2, rtol=2e-6, atol=2e-6)


def test_functional_sam_sees_the_batch_norm_of_each_microbatch():
  """One group of two microbatches, whose statistics belong to the outputs."""
  rng = np.random.default_rng(3)
  images = rng.normal(size=(M, 6)).astype(np.float32)
  labels = rng.integers(0, 5, M).astype(np.int32)
  model = steps.Mlp()
  variables = dict(model.init(jax.random.key(1), images, train=True))
  pieces = list(
    zip(images.reshape(2, -1, 6), labels.reshape(2, -1), strict=True)
  )

  def outputs(params, x):
    variables_ = {**variables, 'params': params}
    return model.apply(variables_, x, train=True, mutable=['batch_stats'])[0]

  def loss(logits, y):
    picked = jnp.take_along_axis(logits, y[:, None], axis=1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked[:, 0])

  def mean(gradients):
    return jax.tree.map(lambda *g: sum(g) / len(g), *gradients)

  w = variables['params']
  loss_of = lambda p, x, y: loss(outputs(p, x), y)
  g = mean([jax.grad(loss_of)(w, x, y) for x, y in pieces])
  length = np.linalg.norm(_vector(g))
  moved = jax.tree.map(lambda p, d: p + 0.3 * d / length, w, g)
  pulled = []
  for x, y in pieces:
    _, pull = jax.vjp(functools.partial(outputs, x=x), moved)
    pulled += pull(jax.grad(loss)(outputs(w, x), y))
  expected = mean(pulled)
  stepper = _stepper(
    'functional_sam', w, model.apply, M, weight_decay=0.0, rho=0.3
  )
  start = _vector(w)  # the state is donated
  (step,) = stepper.run(
    jax.tree.map(np.asarray, variables),
    [{'image': images, 'label': labels} | {'domain': np.zeros(M, np.int32)}],
  )
  update = start - _vector(step.state.params)
  np.testing.assert_allclose(
    update, RATE * _vector(expected), rtol=1e-4, atol=1e-6
  )
  assert np.abs(_vector(expected) - _vector(g)).max() > 1e-2


def test_functional_sam_of_a_linear_model_is_sgd():
  def linear(variables, x, **options):
    del options
    return x @ variables['params']['w'], {}

  params = {'w': np.ones((6, 5), np.float32) / 3}
  found = [
    _stepper(method, params, linear, weight_decay=0.0)
    .run({'params': params}, _data()[1])[-1]
    .state.params['w']
    for method in (methods.create('functional_sam', rho=0.3), 'sgd')
  ]
  np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-6)


class _Rows(methods.Method):
  """Remembers the numbers of the last batch."""

  def memory(self, params):
    return jnp.full(B, -1)

  def gradient(self, problem, *rest):
    result = super().gradient(problem, *rest)
    return result._replace(rows=problem.get('examples'))

  def conclude(self, memory, result, ctx):
    return result.grads, result.rows


def test_rows_are_those_of_the_batch_in_its_order():
  variables, batches = _data()
  stepper = _stepper(_Rows(), devices=4)
  for step, batch in zip(stepper.run(variables, batches), batches, strict=True):
    np.testing.assert_array_equal(
      step.state.method_state.memory, batch['example']
    )


# --- What is refused ---


class _Fixed(parts.Direction):
  """A direction that is there without a gradient."""

  needs_gradient = False


@pytest.mark.parametrize(
  'name, what',
  [
    ('functional_sam', "derivative of the loss by the model's outputs"),
    ('mesa', "model's outputs"),
    ('saf', 'number of each example in the training set'),
    ('imb_sam', 'number of training examples of each class'),
    ('focal_sam', 'number of training examples of each class'),
    ('disam', 'loss of each example'),
    ('dgsam', 'domain of each example'),
  ],
)
def test_a_function_of_the_parameters_is_not_enough(name, what):
  fields = {'start': 0.0} if name == 'mesa' else {}
  method = methods.create(name, **fields)
  grad_fn = method.value_and_grad(lambda w: jnp.sum(w**2))
  w = jnp.ones(2)
  with pytest.raises(ValueError, match=f'the method needs the {what}'):
    grad_fn(method.init(w), w)


@pytest.mark.parametrize(
  'name, fields, message',
  [
    ('imb_sam', {'eta': -1.0}, 'eta is -1.0'),
    ('focal_sam', {'gamma': -1.0}, 'gamma is -1.0'),
    ('focal_sam', {'lam': float('nan')}, 'lam is nan'),
    ('focal_sam', {'combine': 'gsam'}, "'focal_sam' takes no combine"),
    ('disam', {'lam': -0.1}, 'lam is -0.1'),
    ('dgsam', {'domains': 0}, 'domains is 0'),
    ('mesa', {'tau': 0.0}, 'tau is 0.0; it must be a number > 0'),
    ('mesa', {'decay': 1.0}, 'decay is 1.0'),
    ('mesa', {'start': 1.5}, 'start is 1.5'),
    ('saf', {'lam': -1.0}, 'lam is -1.0; it must be a number >= 0'),
    ('saf', {'epochs': 0}, 'epochs is 0; it must be a whole number >= 1'),
    ('saf', {'examples': 0}, 'examples is 0'),
    ('saf', {'classes': 1}, 'classes is 1; it must be a whole number >= 2'),
    ('saf', {'start': -0.1}, 'start is -0.1'),
    (
      'functional_sam',
      {'direction': _Fixed()},
      'needs a gradient at the parameters',
    ),
  ],
)
def test_values_out_of_range_are_refused(name, fields, message):
  with pytest.raises(ValueError, match=message):
    methods.create(name, **fields)


@pytest.mark.slow
@pytest.mark.parametrize(
  'devices, loop, parallel_name',
  [(1, 'vmap', 'pmap'), (2, 'unroll', 'shard_map'), (4, 'scan', 'pmap')],
)
@_WITH_ORACLE
def test_it_is_the_same_everywhere(row, devices, loop, parallel_name):
  spread = _stepper(
    row.create(), devices=devices, loop=loop, parallel_name=parallel_name
  )
  found = [_vector(s.state.params) for s in spread.run(*_data())]
  expected = _walk(row.name, row.fields)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
