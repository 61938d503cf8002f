"""Choices that go together, and those that cannot and are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax import methods
from tests import steps

W = {'a': jnp.array([1.0, -2.0, 0.5]), 'b': jnp.array([3.0])}
CTX = methods.Context(jnp.int32(0), num_steps=10)


@pytest.mark.parametrize('name', ['sampa', 'msam', 's2sam'])
def test_a_share_that_a_method_would_ignore_is_refused(name):
  with pytest.raises(ValueError, match='takes no loss_share'):
    methods.create(name, loss_share=0.5)


@pytest.mark.parametrize('name', ['sampa', 'dgsam'])
def test_a_mask_that_a_method_would_not_apply_is_refused(name):
  with pytest.raises(ValueError, match='takes a mask that is fixed'):
    methods.create(name, mask='bernoulli(0.5)')
  methods.create(name, mask='kernels')


@pytest.mark.parametrize('name', ['msam', 's2sam'])
@pytest.mark.parametrize('mask', ['squared_gradient', 'dynamic'])
def test_a_mask_of_a_gradient_that_is_not_made_is_refused(name, mask):
  with pytest.raises(ValueError, match='needs no gradient .* and mask would'):
    methods.create(name, mask=mask)


def test_a_nan_limit_is_refused():
  with pytest.raises(ValueError, match='eta is nan'):
    methods.imb_sam(eta=float('nan'))


def _problem(log, name='all'):
  """Whose ascent and descent are told apart, also of its shares."""

  def gradient(kind):
    def gradient_fn(params):
      log.append(f'{name}.{kind}')
      grads = jax.tree.map(lambda p: 2 * p + (kind == 'descend'), params)
      return (jnp.float32(0), ()), grads

    return gradient_fn

  def losses(params):
    return jnp.arange(4.0) * params['b']

  def create(name, ascends_descent=False):
    ascend = gradient('descend' if ascends_descent else 'ascend')

    def scored(params):
      return *ascend(params), losses(params)

    return methods.Problem(
      descend=gradient('descend'),
      ascend=ascend,
      diagnose=lambda *_: {},
      example_losses=losses,
      scored=scored,
      first=lambda share: create('first', ascends_descent),
      chosen=lambda scores, share: create('chosen', ascends_descent),
      trained=lambda: create(name, True),
    )

  return create(name)


@pytest.mark.parametrize(
  'name', ['gsam', 'wsam', 'stable_sam', 'sagm', 'looksam']
)
@pytest.mark.parametrize(
  'shares', [{}, {'ascent_share': 0.5}, {'descent_share': 0.5}]
)
def test_gradients_that_are_compared_are_of_one_loss(name, shares):
  if name == 'looksam' and 'descent_share' in shares:
    return
  log = []
  method = methods.create(name, rho_schedule='constant', **shares)
  method.gradient(_problem(log), method.init(W), W, CTX)
  assert log and not any(kind.endswith('.ascend') for kind in log)


def test_steps_that_perturb_and_others_remember_the_same_loss():
  method = methods.vasso(every=2)
  state, found = method.init(W), []
  for step in range(2):
    ctx = CTX._replace(step=jnp.int32(step))
    result = method.gradient(_problem([]), state, W, ctx)
    found.append(result.stats)
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_the_mask_of_a_loop_of_ones_own_is_that_of_the_device():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ('data',))
  spec = jax.sharding.PartitionSpec
  method = methods.esam(rho=1.0, beta=0.5, descent_share=1.0)
  w = jnp.ones(64)
  grad_fn = method.value_and_grad(
    lambda w, x: 0.5 * jnp.sum(w**2) + 0 * x[0], key=jax.random.key(0)
  )

  def on_device(state, w, x):
    w = jax.lax.pcast(w, 'data', to='varying')
    return grad_fn(state, w, x)[1]

  grads = jax.jit(
    jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=(spec(), spec(), spec('data')),
      out_specs=spec('data'),
    )
  )(method.init(w), w, jnp.zeros(2))
  first, second = np.split(np.asarray(grads), 2)
  assert (first != second).any()


def test_an_optimizer_with_two_momenta_is_none_of_sams_business():
  """The momentum is looked for if the method needs it."""
  stepper = functools.partial(
    steps.make, steps.Mlp().apply, _variables()['params'], 4, num_steps=3
  )
  fns = stepper(method='sam').fns
  two = optax.chain(optax.trace(0.9), optax.trace(0.9), optax.scale(-0.1))
  state = steps.train_step.init_state(_variables(), fns)
  state = state.replace(opt_state=two.init(state.params))
  assert fns.context(state).momentum is None


@functools.cache
def _variables():
  return steps.Mlp().init(jax.random.key(0), jnp.zeros((2, 6)), train=True)
