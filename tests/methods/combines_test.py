"""What the table of trials does not see of what is made of the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import methods
from sam_jax.methods import parts
from tests import steps

_W = jnp.array([1.0, -2.0, 0.5])


def _quartic(w):
  return jnp.sum(w**4) / 4


def _step(method, fun, params, state=None, **options):
  """Returns gradient and state of a step, by default the first one."""
  grad_fn = method.value_and_grad(
    fun,
    learning_rate=0.1,
    **{'takes_momentum': False, 'num_steps': 4} | options,
  )
  state = method.init(params) if state is None else state
  _, grads, state = grad_fn(state, params)
  return grads, state


def _unit(v):
  return v / np.linalg.norm(v)


def test_the_radius_of_gsam_follows_the_actual_learning_rate():
  """Not the schedule without its factor, as in big_vision before its PR 8."""
  rng = np.random.default_rng(0)
  batches = [
    {
      'image': rng.normal(size=(8, 6)).astype(np.float32),
      'label': rng.integers(0, 5, 8).astype(np.int32),
    }
  ] * 3
  walked = steps.run(
    lambda variables, x, **_: (x @ variables['params']['kernel'], {}),
    {'params': {'kernel': np.ones((6, 5), np.float32)}},
    batches,
    method=methods.gsam(rho=0.3, rho_min=0.1),
    learning_rate=0.02,
    schedule='cosine',
    num_steps=4,
  )
  rates = [step.metrics['learning_rate'] for step in walked]
  assert rates[0] == pytest.approx(0.02) and rates[2] == pytest.approx(0.01)
  assert [step.metrics['perturbation_norm'] for step in walked] == (
    pytest.approx([0.1 + 0.2 * rate / 0.02 for rate in rates], rel=1e-5)
  )


def test_cr_sam_weighs_the_curvature_and_the_slope():
  """On a quadratic the curvature is the same everywhere."""
  w = np.float64(_W)
  epsilon = 0.3 * _unit(w**3)
  ahead, behind = (w + epsilon) ** 3, (w - epsilon) ** 3
  expected = ahead + 0.5 * (ahead + behind - 2 * w**3) + 0.2 * (ahead - behind)
  method = methods.cr_sam(rho=0.3, gamma=0.5, beta=0.2)
  grads, _ = _step(method, _quartic, _W)
  np.testing.assert_allclose(grads, expected, rtol=1e-5)


@pytest.mark.parametrize('name', ['cr_sam', 'gsam', 'sagm', 'saner', 'wsam'])
def test_what_is_combined_are_gradients_of_one_function(name):
  """A penalty of the descent alone would be weighed as if it were sharpness."""
  method = methods.create(name, rho=0.3)
  whole, _ = _step(method, _quartic, _W)
  part, _ = _step(method, _quartic, _W, ascent_fun=lambda w: _quartic(w) - w[0])
  np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize(
  'name, fields, combine',
  [
    ('gsam', {'alpha': 0.4, 'rho_schedule': 'constant'}, 'gsam(0.4)'),
    (
      'gsam',
      {'alpha': 0.4, 'rho_schedule': 'constant', 'minimize_fp': False},
      'gsam(0.4, minimize_fp=False)',
    ),
    ('wsam', {'gamma': 0.8}, 'wsam(0.8)'),
    ('stable_sam', {}, 'stable'),
    ('sagm', {'alpha': 0.0}, 'mean'),
  ],
)
def test_each_is_a_choice_of_every_method_too(name, fields, combine):
  grads, _ = _step(methods.create(name, rho=0.3, **fields), _quartic, _W)
  same, _ = _step(methods.sam(rho=0.3, combine=combine), _quartic, _W)
  np.testing.assert_allclose(grads, same, rtol=1e-6)
  other, _ = _step(methods.asam(rho=0.3, combine=combine), _quartic, _W)
  assert np.abs(other - grads).max() > 1e-3


# --- SANER -------------------------------------------------------------------


@pytest.mark.parametrize('scale', [1.0, 1e-15])
@pytest.mark.parametrize(
  'method',
  [
    methods.saner(rho=2.0, alpha=0.8, warmup=0.0),
    methods.sam(rho=2.0, combine='saner(0.8)'),
  ],
  ids=['saner', 'combine'],
)
def test_saner_weakens_what_shrinks_and_keeps_its_sign(method, scale):
  """However small; the authors' ratio is wrong from about 1e-8 down."""
  slope = jnp.array([1.0, -1.0, 1.0, -1.0])
  curvature = jnp.array([1.0, -0.25, -0.5, -1.75])

  def fun(w):  # epsilon is the slope, and the ratio 1 + curvature
    return scale * jnp.sum(slope * w + curvature * w**2 / 2)

  grads, _ = _step(method, fun, jnp.zeros(4))
  expected = np.array([2.0, -0.75 * 0.2, 0.5 * 0.2, 0.75])
  np.testing.assert_allclose(grads / scale, expected, rtol=1e-5)


# --- XSAM --------------------------------------------------------------------


def test_the_angle_of_xsam_is_a_number_where_the_cosine_is_rounded_up():
  """The authors' arccos of it is NaN."""
  rng = np.random.default_rng(0)
  slopes = rng.normal(size=(40, 7)).astype(np.float32)
  units = slopes / np.sqrt(np.sum(slopes**2, 1, keepdims=True))
  assert (np.sum(units * units, 1) > 1).any()
  method = methods.xsam(rho=0.3, search_every=1)
  for alpha in (0.0, 1.0, 1.7):
    state = methods.State(jnp.int32(1), {'search': jnp.float32(alpha)})
    state = state._replace(memory=method.init(slopes[0]).memory | state.memory)

    def gradient(slope, state=state):
      zeros = jnp.zeros_like(slope)
      return _step(method, lambda w: slope @ w, zeros, state)[0]

    found = jax.jit(jax.vmap(gradient))(slopes)
    np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-5)


def test_a_search_that_finds_no_number_changes_nothing():
  method = methods.xsam(rho=0.3, rho_max=0.5, search_every=1)
  _, state = _step(method, _quartic, _W)
  found = float(state.memory['search'])
  assert found not in (0.0, 1.0)

  def bounded(w):
    return jnp.where(jnp.linalg.norm(w - _W) > 0.4, jnp.nan, _quartic(w))

  grads, state = _step(method, bounded, _W, state)
  assert np.isfinite(grads).all()
  assert float(state.memory['search']) == pytest.approx(found)


def test_a_step_that_does_not_perturb_searches_nothing():
  method = methods.xsam(rho=0.3, search_every=1, every=2)
  _, first = _step(method, _quartic, _W)
  grads, second = _step(method, lambda w: _quartic(w - 0.5), _W, first)
  np.testing.assert_allclose(grads, (_W - 0.5) ** 3, rtol=1e-6)
  assert second.memory['search'] == first.memory['search'] != 1.0


# --- Trees -------------------------------------------------------------------


@pytest.mark.parametrize(
  'name, fields',
  [
    ('cr_sam', {}),
    ('gsam', {'minimize_fp': False}),
    ('sagm', {}),
    ('sam_sps', {'largest': 1e3, 'lower_bound': -10.0}),
    ('saner', {'warmup': 0.5}),
    ('stable_sam', {}),
    ('wsam', {}),
    ('xsam', {'search_every': 1}),
  ],
)
def test_complex_numbers_are_pairs_and_integers_are_left_alone(name, fields):
  """In the second step too, which knows what the first one found."""
  method = methods.create(name, rho=0.3, **fields)

  def of_pair(params):
    return jnp.sum(params['x'] ** 4 + params['y'] ** 2 * params['x'])

  def of_complex(params):
    return of_pair({'x': params['z'].real, 'y': params['z'].imag})

  x, y = jnp.array([1.0, -0.5]), jnp.array([0.3, 2.0])
  pair, params = {'x': x, 'y': y}, {'z': x + 1j * y, 'n': jnp.arange(2)}
  _, state = _step(method, of_pair, pair)
  pair, state = _step(method, of_pair, pair, state)
  _, other = _step(method, of_complex, params, allow_int=True)
  grads, other = _step(method, of_complex, params, other, allow_int=True)
  jax.tree.map(np.testing.assert_allclose, state, other)
  assert grads['n'].dtype == jax.dtypes.float0
  assert grads['z'].dtype == jnp.complex64
  conjugate = pair['x'] - 1j * pair['y']
  np.testing.assert_allclose(grads['z'], conjugate, rtol=2e-5)


# --- Values that are not allowed ---------------------------------------------


class _Remembering(parts.Mask):
  def remember(self, memory, stats, grads, ctx):
    return memory


class _Blind(parts.Direction):
  needs_gradient = False


@pytest.mark.parametrize(
  'name, fields, message',
  [
    ('wsam', {'gamma': 1.0}, r'gamma is 1.0; .* give a number in \[0, 1\)'),
    ('wsam', {'gamma': -0.1}, 'gamma is -0.1; it is the weight of'),
    ('sagm', {'alpha': -1.0}, 'alpha is -1.0; it must be a number >= 0'),
    ('gsam', {'alpha': -1.0}, 'alpha is -1.0; it must be a number >= 0'),
    ('cr_sam', {'gamma': -1.0}, 'gamma is -1.0; it must be a number >= 0'),
    ('cr_sam', {'beta': float('nan')}, 'beta is nan; it must be a number >='),
    ('xsam', {'rho_max': 0.0}, 'rho_max is 0.0; it is a radius'),
    ('xsam', {'search_every': 0}, 'search_every is 0; it must be a whole'),
    ('sam_sps', {'largest': 0.0}, 'largest is 0.0; it is a step size'),
    ('sam_sps', {'lower_bound': float('inf')}, 'lower_bound is inf; it must'),
    ('saner', {'alpha': 1.5}, r'alpha is 1.5; .* give a number in \[0, 1\]'),
    ('saner', {'warmup': -0.1}, 'warmup is -0.1; it is a share of the run'),
    ('saner', {'direction': 'previous'}, 'and combine would need one'),
    ('sagm', {'metric': 'l2'}, "method 'sagm' takes no metric"),
    ('xsam', {'combine': 'stable'}, "method 'xsam' takes no combine"),
    ('sam_sps', {'every': 2}, "method 'sam_sps' takes no every"),
    ('sam_sps', {'mask': _Remembering()}, 'a mask that remembers nothing'),
    ('cr_sam', {'direction': _Blind()}, 'needs a gradient at the parameters'),
  ],
)
def test_wrong_values_are_refused_by_name(name, fields, message):
  with pytest.raises(ValueError, match=message):
    methods.create(name, **fields)
