import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import methods

W = np.array([1.0, -2.0], np.float32)
SCALE = np.array([3.0, 1.0])
# Only the random method looks at it.
CONTEXT = methods.Context(step=0, key=jax.random.key(3), learning_rate=0.1)


def _fun(w):
  loss = 0.5 * jnp.sum(jnp.float32(SCALE) * w**2) + w[0]
  return loss, {'w': w}


def _ascent_fun(w):
  return 0.5 * jnp.sum(jnp.float32(SCALE) * w**2), {'w': w}


def _run(method, ctx=CONTEXT):
  grad_fn = method.value_and_grad(
    _fun,
    ctx,
    ascent_fun=_ascent_fun,
    differentiate=jax.value_and_grad,
  )
  return grad_fn(method.init(W), W)


def test_sgd_is_the_gradient_of_the_loss_and_has_no_info():
  (value, aux), grads, state, info = _run(methods.create('sgd'))
  np.testing.assert_allclose(value, _fun(W)[0])
  np.testing.assert_array_equal(aux['w'], W)
  np.testing.assert_allclose(grads, SCALE * W + np.array([1.0, 0.0]))
  assert (state, info) == ((), None)


@pytest.mark.parametrize('p', [1, 2, np.inf])
@pytest.mark.parametrize('steps', [1, 3])
def test_sam_climbs_the_ascent_loss_and_descends_the_loss(p, steps):
  (value, aux), grads, state, info = _run(
    methods.create('sam', rho=0.3, p=p, ascent_steps=steps)
  )
  epsilon = np.zeros(2)
  for _ in range(steps):
    g = SCALE * (W + epsilon)
    unit = {
      1: np.sign(g) * (np.abs(g) == np.abs(g).max()),
      2: g / np.linalg.norm(g),
      np.inf: np.sign(g),
    }[p]
    epsilon = epsilon + 0.3 * unit / steps
  moved = W + epsilon
  np.testing.assert_allclose(info.epsilon, epsilon, rtol=1e-6)
  np.testing.assert_allclose(grads, SCALE * moved + np.array([1.0, 0.0]))
  np.testing.assert_allclose(value, _ascent_fun(W)[0])
  np.testing.assert_array_equal(aux['w'], W)
  np.testing.assert_allclose(info.perturbed_aux['w'], moved, rtol=1e-6)
  assert state == ()


def test_sam_of_second_order_differentiates_through_epsilon():
  def perturbed(w):
    g = jax.grad(lambda w: _ascent_fun(w)[0])(w)
    return _fun(w + 0.3 * g / jnp.linalg.norm(g))[0]

  method = methods.create('sam', rho=0.3, second_order=True)
  _, grads, _, _ = _run(method)
  np.testing.assert_allclose(grads, jax.grad(perturbed)(W), rtol=1e-5)


def test_the_random_method_descends_at_a_random_point_of_the_sphere():
  method = methods.create('random', rho=0.3, p=3.0, ascent_steps=2)
  (value, _), grads, state, info = _run(method)
  np.testing.assert_allclose(value, _ascent_fun(W)[0])
  np.testing.assert_allclose(np.linalg.norm(info.epsilon), 0.3, rtol=1e-6)
  moved = W + info.epsilon
  np.testing.assert_allclose(
    grads, SCALE * moved + np.array([1.0, 0.0]), rtol=1e-6
  )
  # One key, one direction; another key, another one; not the gradient's.
  np.testing.assert_array_equal(_run(method)[3].epsilon, info.epsilon)
  other = _run(method, CONTEXT._replace(key=jax.random.key(4)))[3].epsilon
  unit = info.epsilon / 0.3
  for direction in (other, info.ascent_grads):
    cosine = unit @ direction / np.linalg.norm(direction)
    assert abs(cosine) < 0.99
  assert state == ()


def test_sam_with_rho_0_is_sgd():
  (_, aux), grads, _, _ = _run(methods.create('sam', rho=0))
  (_, sgd_aux), sgd_grads, _, _ = _run(methods.create('sgd'))
  np.testing.assert_array_equal(grads, sgd_grads)
  np.testing.assert_array_equal(aux['w'], sgd_aux['w'])


def test_a_method_is_evaluated_at_its_parameters():
  for name in ('sgd', 'sam'):
    method = methods.create(name, rho=0.1)
    assert method.eval_params(method.init(W), W) is W


def test_a_method_knows_what_a_step_costs():
  cost = lambda name, **kw: methods.create(name, **kw).gradient_evaluations
  assert cost('sgd') == cost('sam', rho=0.0) == 1
  assert cost('sam', rho=0.1) == 2
  assert cost('sam', rho=0.1, ascent_steps=3) == 4
  assert cost('sam', rho=0.1, second_order=True) == 4
  assert cost('random', rho=0.1) == 2
  assert cost('random', rho=0.0) == 1


def test_one_config_serves_every_method():
  options = {'rho': 0.1, 'p': 3.0, 'ascent_steps': 2}
  assert methods.create('sgd', **options).gradient_evaluations == 1
  assert methods.create('sam', **options).gradient_evaluations == 3


def test_an_option_that_no_method_has_is_refused():
  with pytest.raises(
    ValueError, match="option of a method 'roh'; known: .*rho"
  ):
    methods.create('sgd', roh=0.1)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'rho': -0.1}, 'rho is -0.1'),
    ({'rho': 0.1, 'p': 0.5}, 'p is 0.5'),
    ({'rho': 0.1, 'ascent_steps': 0}, 'ascent_steps is 0'),
    ({'rho': 0.1, 'ascent_steps': 2, 'second_order': True}, 'one ascent step'),
  ],
)
def test_options_out_of_range_are_refused_before_anything_runs(
  options, message
):
  with pytest.raises(ValueError, match=message):
    methods.create('sam', **options)


def test_an_unknown_method_is_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="'same'; known: random, sam, sgd"):
    methods.create('same')


def test_a_method_can_be_registered_once(monkeypatch):
  monkeypatch.setattr(methods, '_METHODS', dict(methods._METHODS))
  made = []
  methods.register('mine')(lambda rho: made.append(rho) or methods.sgd())
  methods.create('mine', rho=0.7, p=2.0)
  assert made == [0.7]
  for name in ('mine', 'sam'):
    with pytest.raises(ValueError, match=f'{name!r} is registered already'):
      methods.register(name)(methods.sgd)
