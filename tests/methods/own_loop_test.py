"""A method in a loop that knows nothing of ours: jax and numpy alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sam_jax
from sam_jax import methods

W = np.array([1.0, -2.0], np.float32)
SCALES = np.array([[3.0, 1.0], [1.0, 2.0], [0.5, 4.0], [2.0, 2.0]], np.float32)


def _loss(w, scale):
  return 0.5 * jnp.sum(scale * w**2) + w[0]


def test_sam_is_the_primitive():
  method = methods.sam(rho=0.3)
  value, grads, state = method.value_and_grad(_loss)(
    method.init(W), W, SCALES[0]
  )
  expected = sam_jax.value_and_grad(_loss, sam_jax.l2(0.3))(W, SCALES[0])
  np.testing.assert_array_equal(value, expected[0])
  np.testing.assert_array_equal(grads, expected[1])
  assert state.step == 1


def test_aux_is_that_of_the_unperturbed_parameters():
  method = methods.looksam(rho=0.3)
  fun = lambda w, scale: (_loss(w, scale), {'w': w})
  grad_fn = method.value_and_grad(fun, has_aux=True)
  (value, aux), _, _ = grad_fn(method.init(W), W, SCALES[0])
  np.testing.assert_array_equal(aux['w'], W)
  np.testing.assert_array_equal(value, _loss(W, SCALES[0]))


def test_the_perturbation_is_made_from_the_ascent_function():
  method = methods.sam(rho=0.3)
  ascent = lambda w, scale: w[1]
  grad_fn = method.value_and_grad(_loss, ascent_fun=ascent)
  _, grads, _ = grad_fn(method.init(W), W, SCALES[0])
  moved = W + np.float32([0, 0.3])
  np.testing.assert_allclose(grads, SCALES[0] * moved + [1, 0], rtol=1e-6)


def test_keywords_of_the_loss_do_not_meet_ours():
  method = methods.sgd()
  fun = lambda w, *, state, params, key: state * jnp.sum(w) + params + key
  value, grads, _ = method.value_and_grad(fun)(
    method.init(W), W, state=2.0, params=1.0, key=3.0
  )
  np.testing.assert_allclose(value, 2 * W.sum() + 4)
  np.testing.assert_allclose(grads, [2, 2])


def test_a_random_direction_needs_a_key_and_changes_with_the_step():
  method = methods.random(rho=0.3)
  with pytest.raises(ValueError, match='needs key; give key=...'):
    method.value_and_grad(_loss)(method.init(W), W, SCALES[0])
  grad_fn = method.value_and_grad(_loss, key=jax.random.key(0))
  state, found = method.init(W), []
  for _ in range(3):
    _, grads, state = grad_fn(state, W, SCALES[0])
    epsilon = (np.asarray(grads) - [1, 0]) / SCALES[0] - W
    np.testing.assert_allclose(np.linalg.norm(epsilon), 0.3, rtol=1e-4)
    found.append(tuple(np.asarray(epsilon)))
  assert len(set(found)) == 3


def test_the_learning_rate_may_be_a_number_or_a_schedule():
  method = methods.gsam(rho=0.3, alpha=0.0)
  full, half = (
    method.value_and_grad(_loss, learning_rate=rate, peak_learning_rate=peak)(
      method.init(W), W, SCALES[0]
    )[1]
    for rate, peak in ((0.1, None), (lambda step: 0.05 * (1 + step), 0.1))
  )
  for rho, grads in ((0.3, full), (0.15, half)):
    expected = sam_jax.grad(_loss, sam_jax.l2(rho))(W, SCALES[0])
    np.testing.assert_allclose(grads, expected, rtol=1e-6)


def _walk(grad_fn, state, scales):
  w, path = jnp.asarray(W), []
  for _ in range(4):
    _, grads, state = grad_fn(state, w, scales)
    w = w - 0.1 * grads
    path.append(np.asarray(w))
  return path


@pytest.mark.parametrize('name', ['sam', 'looksam'])
def test_devices_with_a_group_each_average_by_reduce(name):
  """As the mean over the groups, computed one after the other."""
  method = methods.create(name, rho=0.3)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ('data',))
  spec = jax.sharding.PartitionSpec
  mean = functools.partial(jax.lax.pmean, axis_name='data')
  step = method.value_and_grad(lambda w, s: _loss(w, s[0]), reduce=mean)

  def on_devices(state, w, scales):
    w = jax.lax.pcast(w, 'data', to='varying')
    value, grads, state = step(state, w, scales)
    return mean(value), grads, state

  spread = jax.jit(
    jax.shard_map(
      on_devices,
      mesh=mesh,
      in_specs=(spec(), spec(), spec('data')),
      out_specs=spec(),
    )
  )

  def in_turn(state, w, scales):
    ctx = methods.Context(state.step)
    results = []
    for scale in scales:
      grad_fn = jax.value_and_grad(
        lambda w, s=scale: (_loss(w, s), ()), has_aux=True
      )
      problem = methods.Problem(grad_fn, grad_fn, lambda *_: {})
      results.append(method.gradient(problem, state, w, ctx))
    result = jax.tree.map(lambda *x: sum(x) / len(x), *results)
    return result.out[0], *method.finish(state, result, ctx)

  expected = _walk(in_turn, method.init(W), jnp.asarray(SCALES))
  actual = _walk(spread, method.init(W), jnp.asarray(SCALES))
  np.testing.assert_allclose(actual, expected, rtol=1e-5)
  # One group of all examples is another run.
  whole = lambda w, s: jnp.mean(jax.vmap(_loss, (None, 0))(w, s))
  other = _walk(method.value_and_grad(whole), method.init(W), SCALES)
  assert np.abs(np.asarray(other) - expected).max() > 1e-3


def test_arguments_of_the_loss_may_be_static():
  method = methods.sam(rho=0.3)
  fun = lambda w, scale, is_double: (1 + is_double) * _loss(w, scale)
  grad_fn = jax.jit(method.value_and_grad(fun), static_argnames='is_double')
  state = method.init(W)
  once, _, _ = grad_fn(state, W, SCALES[0], is_double=False)
  twice, _, _ = grad_fn(state, W, SCALES[0], is_double=True)
  assert twice == 2 * once


def test_parameters_may_be_cut_over_explicit_axes():
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(jax.sharding.AxisType.Explicit,)
  )
  method = methods.looksam(rho=0.3, every=2)
  fun = lambda w: jnp.sum(w**4)
  start = np.arange(1, 5, dtype=np.float32)
  grad_fn = jax.jit(method.value_and_grad(fun))
  expected = grad_fn(method.init(start), start)
  with jax.set_mesh(mesh):
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    w = jax.device_put(start, cut)
    value, grads, state = grad_fn(method.init(w), w)
  np.testing.assert_allclose(grads, expected[1], rtol=1e-6)
  np.testing.assert_allclose(state.memory, expected[2].memory, rtol=1e-3)
  assert value == pytest.approx(float(expected[0]))


def test_weight_decay_of_the_descent_alone_is_not_stretched_by_looksam():
  """Its g_v is of one loss: a linear one has none."""
  method = methods.looksam(rho=0.1, every=2)
  c = jnp.array([1.0, 0.0])
  fun = lambda w: c @ w + 0.05 * w @ w
  grad_fn = method.value_and_grad(fun, ascent_fun=lambda w: c @ w)
  w, state = jnp.array([0.0, 1.0]), method.init(W)
  for _ in range(2):
    _, grads, state = grad_fn(state, w)
  assert abs(float(grads[1])) < 0.7


@pytest.mark.parametrize('parallel', ['shard_map', 'unchecked', 'pmap', 'jit'])
def test_a_state_is_the_same_on_eight_devices(parallel):
  """Of whole batches with m the batch of a device, or with one group."""
  method = methods.looksam(rho=0.3, every=2)
  mesh = jax.make_mesh((8,), ('data',), (jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec
  scales = np.random.default_rng(0).uniform(1, 4, (8, 2)).astype(np.float32)
  mean = functools.partial(jax.lax.pmean, axis_name='data')

  def step(state, w, scales, cast=lambda w: w):
    w = cast(w)
    one = lambda w, scales: _loss(w, scales[0])
    _, grads, state = method.value_and_grad(one, reduce=mean)(state, w, scales)
    return grads, state

  def whole(state, w, scales):
    loss = lambda w: jnp.mean(jax.vmap(_loss, (None, 0))(w, scales))
    _, grads, state = method.value_and_grad(loss)(state, w)
    return grads, state

  def in_turn(state, w, scales):
    """The devices as a mapped axis of one."""
    stacked = jax.vmap(step, (None, None, 0), axis_name='data')
    return jax.tree.map(lambda x: x[0], stacked(state, w, scales[:, None]))

  if parallel == 'jit':
    run, reference = jax.jit(whole), jax.jit(whole)
    split = jax.sharding.NamedSharding(mesh, spec('data'))
    data = jax.device_put(scales, split)
  elif parallel == 'pmap':
    mapped = jax.pmap(step, 'data', in_axes=(None, None, 0))
    run = lambda *args: jax.tree.map(lambda x: x[0], mapped(*args))
    reference, data = jax.jit(in_turn), scales[:, None]
  else:
    cast = lambda w: jax.lax.pcast(w, 'data', to='varying')
    is_checked = parallel == 'shard_map'
    run = jax.jit(
      jax.shard_map(
        functools.partial(step, cast=cast) if is_checked else step,
        mesh=mesh,
        in_specs=(spec(), spec(), spec('data')),
        out_specs=spec(),
        check_vma=is_checked,
      )
    )
    reference, data = jax.jit(in_turn), scales
  w, state, expected_state = jnp.asarray(W), method.init(W), method.init(W)
  for _ in range(3):
    grads, state = run(state, w, data)
    expected, expected_state = reference(expected_state, w, scales)
    np.testing.assert_allclose(grads, expected, rtol=1e-5)
    np.testing.assert_allclose(
      state.memory, expected_state.memory, rtol=1e-4, atol=1e-6
    )
    w = w - 0.1 * np.asarray(grads)
  assert np.abs(np.asarray(state.memory)).max() > 1e-2


KINDS = {
  'complex': np.array([1 + 1j, -2j], np.complex64),
  'integer': 2,
  'none': None,
  'norm': {'scale': jnp.ones(2, jnp.bfloat16)},
  'python': 1.0,
}


def _of_kinds(params):
  return jnp.float32(params['integer']) * (
    jnp.sum(jnp.abs(params['complex']) ** 2)
    + jnp.sum(params['norm']['scale'].astype(jnp.float32) ** 4)
    + jnp.float32(params['python']) ** 2
  )


# Those that look at examples, or into the loss: what a function of parameters
# does not have. With these fields they do not, where there are any.
NEED_EXAMPLES = {
  'dgsam': None,
  'disam': None,
  'esam': {'descent_share': 1.0},
  'focal_sam': None,
  'functional_sam': None,
  'imb_sam': None,
  'k_sam': {'loss_share': 1.0},
  'mesa': None,
  'quarter_sam': {'ascent_share': 1.0},
  'saf': None,
  'ssam_f': None,
}


@pytest.mark.parametrize('name', NEED_EXAMPLES)
def test_a_method_that_needs_examples_says_so(name):
  method = methods.create(name)
  grad_fn = method.value_and_grad(_loss, key=jax.random.key(0), num_steps=1)
  with pytest.raises(ValueError, match='the method needs .* does not offer'):
    grad_fn(method.init(W), W, SCALES[0])


@pytest.mark.parametrize(
  'name',
  sorted(
    {*methods.names()} - {n for n, f in NEED_EXAMPLES.items() if f is None}
  ),
)
def test_a_method_takes_every_kind_of_leaf(name):
  method = methods.create(name, **NEED_EXAMPLES.get(name, {}))
  given = {
    'key': jax.random.key(0),
    'num_steps': 3,
    'learning_rate': 0.1,
    'allow_int': True,
    'takes_momentum': True,
  }
  plain = jax.grad(_of_kinds, allow_int=True)(KINDS)
  with jax.numpy_dtype_promotion('strict'):
    grad_fn = method.value_and_grad(_of_kinds, **given)
    step = jax.jit(lambda state: grad_fn(state, KINDS, momentum=KINDS))
    state = method.init(KINDS)
    for _ in range(2):
      _, grads, state = step(state)
  kinds = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype), t)
  assert kinds(grads) == kinds(plain)
  assert all(
    np.isfinite(x).all()
    for x in jax.tree.leaves(grads)
    if x.dtype != jax.dtypes.float0
  )
