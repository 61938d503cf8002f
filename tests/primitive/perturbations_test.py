import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sam_jax
from sam_jax import perturbations
from tests import reference

PS = (1, 1.5, 2, 3, np.inf)
HALF = (jnp.bfloat16, jnp.float16)


def _grads(seed=0):
  rng = np.random.default_rng(seed)
  return {'a': rng.normal(size=(3, 4)), 'b': {'c': rng.normal(size=5)}}


def _float32(tree):
  return jax.tree.map(jnp.float32, tree)


def _flat(tree):
  leaves = [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
  return np.concatenate(leaves)


def _dual(p):
  return {1: np.inf, np.inf: 1.0}.get(p, p / (p - 1) if p > 1 else None)


def _formula(g, rho, p):
  """Equation 2 of the paper in float64, its limits written out."""
  if p == 1:
    return rho * np.sign(g) * (np.abs(g) == np.abs(g).max())
  if p == 2:
    return rho * g / np.sqrt(np.sum(g**2))
  if p == np.inf:
    return rho * np.sign(g)
  q = p / (p - 1)
  scale = np.sum(np.abs(g) ** q) ** (1 / p)
  return rho * np.sign(g) * np.abs(g) ** (q - 1) / scale


@pytest.mark.parametrize('p', PS)
def test_epsilon_is_that_of_equation_2_and_as_long_as_rho(p):
  grads = _grads()
  epsilon = sam_jax.lp(0.3, p)(_float32(grads), None)
  expected = _formula(_flat(grads), 0.3, p)
  # The gradient is rounded to float32 (6e-8), powers cost a few roundings.
  np.testing.assert_allclose(_flat(epsilon), expected, rtol=3e-6, atol=1e-7)
  assert np.linalg.norm(_flat(epsilon), p) == pytest.approx(0.3, rel=1e-6)
  assert jax.tree.structure(epsilon) == jax.tree.structure(grads)


@pytest.mark.parametrize('p', PS)
def test_no_point_of_the_ball_climbs_higher(p):
  grads, rho = _grads(1), 0.3
  g = _flat(grads)
  reached = g @ _flat(sam_jax.lp(rho, p)(_float32(grads), None))
  # Hoelder: the maximum over the ball is rho times the dual norm.
  assert reached == pytest.approx(rho * np.linalg.norm(g, _dual(p)), rel=1e-6)
  points = np.random.default_rng(2).normal(size=(1000, g.size))
  points *= rho / np.linalg.norm(points, p, axis=1, keepdims=True)
  near = _formula(g, rho, p) + 0.01 * points
  near *= rho / np.linalg.norm(near, p, axis=1, keepdims=True)
  assert (points @ g).max() < reached
  assert (near @ g).max() <= reached * (1 + 1e-6)


def test_l2_is_lp_of_2_and_the_dual_vector_of_the_release(misc):
  grads = {'a': misc['tree/a'], 'b': misc['tree/b']}
  for perturbation in (sam_jax.l2(1.0), sam_jax.lp(1.0, 2)):
    epsilon = perturbation(_float32(grads), None)
    for name in 'ab':
      np.testing.assert_allclose(epsilon[name], misc[f'dual/{name}'], rtol=1e-6)
  # The release gives NaN for a zero gradient; ours does not, see below.
  assert np.isnan(misc['dual_of_zero']).all()


@pytest.mark.parametrize('p', PS)
def test_a_zero_gradient_gives_zero_also_when_differentiated(p):
  zeros = {'a': jnp.zeros((2, 2)), 'b': jnp.zeros(3)}

  def some_of(grads):
    epsilon = sam_jax.lp(0.1, p)(grads, None)
    return jnp.sum(epsilon['a']) + jnp.sum(epsilon['b'] * jnp.arange(1.0, 4.0))

  assert not _flat(sam_jax.lp(0.1, p)(zeros, None)).any()
  assert np.isfinite(_flat(jax.grad(some_of)(zeros))).all()


@pytest.mark.parametrize('p', PS)
def test_a_zero_entry_among_others_gives_no_nan(p):
  grads = jnp.array([0.0, -2.0, 1.0])
  np.testing.assert_allclose(
    sam_jax.lp(0.1, p)(grads, None),
    _formula(np.array([0.0, -2.0, 1.0]), 0.1, p),
    rtol=1e-6,
  )


@pytest.mark.parametrize('p', PS)
def test_a_nan_stays_a_nan(p):
  grads = {'a': jnp.array([1.0, jnp.nan]), 'b': jnp.ones(3)}
  assert np.isnan(sam_jax.lp(0.1, p)(grads, None)['a'][1])


@pytest.mark.parametrize('p', PS)
def test_only_the_direction_of_the_gradient_matters(p):
  grads = _float32(_grads())
  epsilon = sam_jax.lp(0.1, p)(grads, None)
  for factor in (1e-12, 1e12):
    scaled = jax.tree.map(lambda g, f=factor: f * g, grads)
    np.testing.assert_allclose(
      _flat(sam_jax.lp(0.1, p)(scaled, None)), _flat(epsilon), rtol=3e-6
    )


def test_lp_does_not_overflow_for_p_near_1():
  # q = 101: 10 ** 101 is no float32.
  epsilon = sam_jax.lp(0.1, 1.01)(jnp.array([10.0, 5.0]), None)
  np.testing.assert_allclose(epsilon, [0.1, 0.0], atol=1e-7)


def test_ties_for_the_largest_gradient_share_rho():
  epsilon = sam_jax.lp(0.3, 1)({'a': jnp.array([2.0, -2.0]), 'b': 2.0}, None)
  np.testing.assert_allclose(epsilon['a'], [0.1, -0.1], rtol=1e-6)
  np.testing.assert_allclose(epsilon['b'], 0.1, rtol=1e-6)


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('p', PS)
def test_half_precision_leaves_keep_their_dtype(p, dtype):
  grads = jax.tree.map(lambda g: jnp.asarray(g, dtype), _grads())
  epsilon = sam_jax.lp(0.3, p)(grads, None)
  assert {x.dtype for x in jax.tree.leaves(epsilon)} == {jnp.dtype(dtype)}
  resolution = float(jnp.finfo(dtype).eps)
  np.testing.assert_allclose(
    _flat(epsilon), _formula(_flat(grads), 0.3, p), rtol=2 * resolution
  )


def test_norms_of_half_precision_leaves_are_float32():
  # 1000 squares of 300 overflow float16, 1000 squares of 1.0078125 rounded
  # to bfloat16 each are off by 1e-3: both would show in the float32 leaf.
  for dtype, value in ((jnp.float16, 300.0), (jnp.bfloat16, 1.0078125)):
    grads = {'half': jnp.full((1000,), value, dtype), 'single': jnp.ones(1)}
    epsilon = sam_jax.l2(0.5)(grads, None)
    expected = 0.5 / np.sqrt(1000 * value**2 + 1)
    np.testing.assert_allclose(epsilon['single'], [expected], rtol=1e-6)
    assert epsilon['half'].dtype == dtype
    assert epsilon['single'].dtype == jnp.float32


@pytest.mark.parametrize('p', PS)
def test_a_none_leaf_stays_none(p):
  grads = {'a': jnp.array([3.0, 4.0]), 'b': None}
  epsilon = sam_jax.lp(0.1, p)(grads, None)
  assert epsilon['b'] is None
  expected = _formula(np.array([3.0, 4.0]), 0.1, p)
  np.testing.assert_allclose(epsilon['a'], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('p', PS)
def test_a_traced_rho_gives_the_same_and_is_not_compiled_in(p):
  traces = []

  @jax.jit
  def perturb(rho, grads):
    traces.append(rho)
    return sam_jax.lp(rho, p)(grads, None)

  grads = _float32(_grads())
  for rho in (0.05, 0.5, 0.0):
    expected = sam_jax.lp(rho, p)(grads, None)
    np.testing.assert_allclose(
      _flat(perturb(rho, grads)), _flat(expected), rtol=1e-6
    )
  assert len(traces) == 1


@pytest.mark.parametrize('rho', [-0.1, np.nan, np.inf, -np.float32(1)])
@pytest.mark.parametrize(
  'make',
  [sam_jax.l2, lambda rho: sam_jax.lp(rho, 1), lambda rho: sam_jax.lp(rho, 3)],
)
def test_a_rho_that_is_no_radius_is_refused(make, rho):
  with pytest.raises(ValueError, match=r'^rho is .*; .* give a number >= 0$'):
    make(rho)


@pytest.mark.parametrize('p', [0.5, 0, -1, np.nan])
def test_a_p_below_1_is_refused(p):
  with pytest.raises(ValueError, match=r'^p is .* p in \[1, inf\]$'):
    sam_jax.lp(0.1, p)


@pytest.fixture(scope='module')
def misc():
  return reference.load('misc.npz')


@pytest.mark.slow
def test_the_program_grows_with_the_number_of_leaves_and_not_its_square():
  def program_size(count):
    # Small leaves are joined into one, so that large ones have to show it.
    params = [jnp.ones(2**13 + i) for i in range(count)]

    def perturb(params):
      grads = jax.tree.map(jnp.cos, params)
      epsilon = sam_jax.l2(0.1)(grads, params)
      return jax.tree.map(jnp.add, params, epsilon)

    compiled = jax.jit(perturb).lower(params).compile()
    return compiled.as_text().count(' = ')

  # XLA:CPU copies the sum over all leaves into each, unless kept from it.
  assert program_size(32) < 2.5 * program_size(16)


def test_a_random_perturbation_is_uniform_on_the_sphere():
  """Of 400 draws in 3 dimensions, over leaves of two shapes and dtypes."""
  shapes = {'a': jnp.zeros(2), 'b': jnp.zeros(1, jnp.bfloat16)}

  def draw(key):
    return perturbations.random(2.0, key)(shapes, None)

  drawn = jax.vmap(draw)(jax.random.split(jax.random.key(0), 400))
  assert drawn['b'].dtype == jnp.bfloat16
  points = np.concatenate([drawn['a'], np.float32(drawn['b'])], axis=1)
  # bfloat16 has 8 bits.
  np.testing.assert_allclose(np.linalg.norm(points, axis=1), 2.0, rtol=4e-3)
  # Each coordinate has mean 0 and mean square 4 / 3; five standard deviations.
  np.testing.assert_array_less(np.abs(points.mean(axis=0)), 5 * 1.155 / 20)
  np.testing.assert_allclose(
    (points**2).mean(axis=0), 4 / 3, atol=5 * 1.193 / 20
  )


def test_a_random_perturbation_of_radius_zero_is_none():
  key = jax.random.key(0)
  assert perturbations.random(0, key) is perturbations.none
  with pytest.raises(ValueError, match='rho is -1'):
    perturbations.random(-1, key)


# --- ASAM's ball -------------------------------------------------------------


@pytest.mark.parametrize('eta', [0.0, 0.01, 0.5])
@pytest.mark.parametrize('p', PS)
def test_the_asam_epsilon_is_the_highest_point_of_the_stretched_ball(p, eta):
  grads, params, rho = _grads(1), _grads(2), 0.3
  epsilon = sam_jax.asam(rho, eta, p)(*map(_float32, (grads, params)))
  stretch = np.abs(_flat(params)) + eta
  expected = stretch * _formula(stretch * _flat(grads), rho, p)
  np.testing.assert_allclose(_flat(epsilon), expected, rtol=5e-6, atol=1e-7)
  unstretched = _flat(epsilon) / stretch
  assert np.linalg.norm(unstretched, p) == pytest.approx(rho, rel=1e-5)
  # Hoelder, in the coordinates in which the ball is round.
  dual = np.linalg.norm(stretch * _flat(grads), _dual(p))
  assert _flat(grads) @ _flat(epsilon) == pytest.approx(rho * dual, rel=1e-5)


def test_the_asam_epsilon_scales_with_the_layer():
  grads, params = map(_float32, (_grads(1), _grads(2)))
  perturb = sam_jax.asam(0.3, eta=0.0)
  epsilon = perturb(grads, params)
  scaled = perturb(
    {'a': grads['a'] / 4, 'b': grads['b']}, {'a': params['a'] * 4, **_b(params)}
  )
  np.testing.assert_allclose(scaled['a'], 4 * epsilon['a'], rtol=1e-6)
  np.testing.assert_allclose(scaled['b']['c'], epsilon['b']['c'], rtol=1e-6)


def _b(params):
  return {'b': params['b']}


def test_the_asam_perturbation_keeps_the_guarantees():
  params = {'a': jnp.array([0.0, -2.0]), 'b': jnp.ones(1, jnp.bfloat16)}
  zero = sam_jax.asam(0.1)(jax.tree.map(jnp.zeros_like, params), params)
  assert not _flat(zero).any()
  grads = {'a': jnp.array([1.0, np.nan]), 'b': jnp.ones(1, jnp.bfloat16)}
  epsilon = sam_jax.asam(0.1)(grads, params)
  assert np.isnan(epsilon['a'][1]) and epsilon['b'].dtype == jnp.bfloat16
  partly = sam_jax.asam(0.1)({'a': params['a'], 'b': None}, params)
  assert partly['b'] is None and np.isfinite(partly['a']).all()
  assert sam_jax.asam(0) is sam_jax.l2(0)


def test_an_eta_below_zero_is_refused():
  with pytest.raises(ValueError, match='^eta is -1; .* give a number >= 0$'):
    sam_jax.asam(0.1, eta=-1)


# --- Some of the parameters --------------------------------------------------


def _names_with_c(params):
  return {'a': False, 'b': jax.tree.map(lambda p: p.ndim == 1, params['b'])}


@pytest.mark.parametrize(
  'mask',
  [
    {'a': False, 'b': True},
    {'a': np.False_, 'b': {'c': True}},
    _names_with_c,
  ],
)
@pytest.mark.parametrize('p', PS)
def test_what_is_masked_out_is_not_moved_and_not_in_the_norm(p, mask):
  grads = _float32(_grads())
  epsilon = sam_jax.masked(sam_jax.lp(0.3, p), mask)(grads, grads)
  np.testing.assert_array_equal(epsilon['a'], np.zeros((3, 4)))
  alone = sam_jax.lp(0.3, p)(grads['b'], grads['b'])
  np.testing.assert_array_equal(epsilon['b']['c'], alone['c'])


def test_masks_may_be_nested_and_leave_none_where_there_is_none():
  grads = {'a': jnp.ones(2), 'b': jnp.ones(1), 'c': None}
  inner = sam_jax.masked(sam_jax.asam(0.3), {'a': True, 'b': False, 'c': True})
  epsilon = sam_jax.masked(inner, lambda params: True)(grads, grads)
  assert epsilon['c'] is None and not epsilon['b'].any()
  alone = sam_jax.asam(0.3)(grads['a'], grads['a'])
  np.testing.assert_array_equal(epsilon['a'], alone)
  nothing = sam_jax.masked(sam_jax.l2(0.3), False)(grads, grads)
  assert not _flat(nothing).any()
  assert sam_jax.masked(sam_jax.l2(0), True) is perturbations.none
