import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import tree


def _trees():
  rng = np.random.default_rng(0)
  make = lambda: {'a': rng.normal(size=(3, 4)), 'b': (rng.normal(size=5),)}
  return make(), make()


def _concatenate(t):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)])


def test_products_norms_and_cosines_are_those_of_the_concatenated_leaves():
  a, b = _trees()
  flat_a, flat_b = _concatenate(a), _concatenate(b)
  norms = np.linalg.norm(flat_a), np.linalg.norm(flat_b)
  as_float32 = lambda t: jax.tree.map(jnp.float32, t)
  a, b = as_float32(a), as_float32(b)
  # 17 products in float32: a few roundings of 6e-8.
  np.testing.assert_allclose(tree.vdot(a, b), flat_a @ flat_b, rtol=1e-6)
  np.testing.assert_allclose(tree.norm(a), norms[0], rtol=1e-6)
  np.testing.assert_allclose(
    tree.cosine(a, b), flat_a @ flat_b / np.prod(norms), rtol=1e-6
  )


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision_is_accumulated_in_float32(dtype):
  # In float16 the squares overflow; in bfloat16 9e6 + 1 is 9e6.
  x = {'a': jnp.full((100,), 300, dtype), 'b': jnp.ones((), dtype)}
  assert tree.vdot(x, x).dtype == jnp.float32
  assert float(tree.vdot(x, x)) == 100 * 300**2 + 1


def test_float64_stays_float64():
  with jax.enable_x64(True):
    x = jnp.array([1.0, 1e-9], jnp.float64)
    assert tree.vdot(x, x).dtype == jnp.float64
    assert float(tree.vdot(x, x)) == 1 + 1e-18
    assert float(tree.norm({'a': x[1:]})) == pytest.approx(1e-9, rel=1e-15)


def test_none_leaves_and_empty_trees_count_nothing():
  x = {'a': jnp.array([3.0]), 'b': None, 'c': jnp.array([4.0])}
  assert float(tree.norm(x)) == 5
  assert float(tree.norm({})) == 0


def test_the_cosine_with_a_zero_tree_is_zero_and_with_nan_is_nan():
  x = jnp.array([1.0, 2.0])
  assert float(tree.cosine(x, jnp.zeros(2))) == 0
  assert np.isnan(tree.cosine(x, jnp.array([jnp.nan, 0.0])))
  gradient = jax.grad(lambda y: tree.cosine(x, y))(jnp.zeros(2))
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize('spec', [('data',), (None, 'data')])
def test_leaves_that_are_cut_along_explicit_axes_are_taken_as_they_are(spec):
  mesh = jax.make_mesh(
    (4,), ('data',), axis_types=(jax.sharding.AxisType.Explicit,)
  )
  values = np.arange(64, dtype=np.float32).reshape(8, 8)
  with jax.set_mesh(mesh):
    cut = jax.device_put(values, jax.P(*spec))
    leaves = {'cut': cut, 'whole': jnp.ones(3)}
    norm = jax.jit(tree.norm)(leaves)
  np.testing.assert_allclose(norm, np.sqrt((values**2).sum() + 3), rtol=1e-6)


def test_the_derivative_of_a_product_is_the_other_tree():
  a, b = (jax.tree.map(jnp.float32, t) for t in _trees())
  grads = jax.grad(tree.vdot)(a, b)
  jax.tree.map(np.testing.assert_array_equal, grads, b)
  # Forward over reverse, as Hessian-vector products go.
  squared = lambda t: tree.vdot(t, t)
  _, product = jax.jvp(jax.grad(squared), (a,), (b,))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, 2 * y, rtol=1e-6), product, b
  )
