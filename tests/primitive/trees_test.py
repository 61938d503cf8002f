"""Every kind of leaf, with every perturbation and every way to use it.

One program for each tree has all of them, and each result is compared with an
oracle: the formulas in NumPy and float64, on one vector of all parameters. The
programs are traced where JAX refuses to promote dtypes: they would be the same
where it promotes silently, as in all other tests.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sam_jax
from tests.primitive import formulas

_EVERYTHING = {
  'array': jnp.array([3.0, -4.0]),
  'complex': jnp.array([3 + 1j, -4j]),
  'empty': jnp.zeros((0, 3)),
  'flag': True,
  'integer': jnp.array([1, 2]),
  'key': jax.random.key(1),
  'none': {'a': None, 'b': []},
  'numpy': (np.arange(1.0, 4.0), np.float64(3), np.float32(-2), np.int64(3)),
  'old key': jax.random.PRNGKey(1),
  'python': [3.5, 2, 2 - 1j],
}
_NARROW = {
  **{
    name: jnp.array([value, -2 * value], name)
    for name, value in [
      ('float16', 0.25),
      ('bfloat16', 0.375),
      ('float8_e4m3fn', 0.5),
      ('float8_e5m2', 0.75),
      ('float8_e4m3b11fnuz', 0.125),
      ('float8_e3m4', 0.625),
    ]
  },
  'float32': jnp.array([[0.5, 3.0], [1.5, -1.0]]),
  'python': 1.0,
}
_IN_64_BITS = (np.array([3.0, -4.0]), np.ones(2, np.float32), 2.0, 1 + 2j)


class Tree(NamedTuple):
  """Parameters, how to differentiate by them, and one use for the family."""

  params: Any
  options: dict[str, Any] = {}
  is_x64: bool = False
  use: str = 'one_step'


TREES = {
  'everything': Tree(_EVERYTHING, {'allow_int': True}),
  'narrow': Tree(_NARROW),
  '64 bits': Tree(_IN_64_BITS, is_x64=True, use='second_order'),
  'a number': Tree(-3.0),
  'nothing': Tree({}),
  'an empty leaf': Tree((3, None, jnp.zeros(0)), {'allow_int': True}),
}

ALL = formulas.PERTURBATIONS | formulas.FAMILY
USES = {
  'two_steps': {'ascent_steps': 2, 'with_info': True},
  'second_order': {'second_order': True},
}
ONE_STEP = {'one_step': {'with_info': True}}


def _cells(tree):
  """What is tried of a tree: balls in all ways, the family in one."""
  cells = [(name, use) for name in formulas.PERTURBATIONS for use in USES]
  return cells + [(name, tree.use) for name in formulas.FAMILY]


def _is_moved(leaf):
  dtype = getattr(leaf, 'dtype', None) or jnp.asarray(leaf).dtype
  return jnp.issubdtype(dtype, jnp.inexact)


def _matrix(n):
  return np.diag(1.0 + np.arange(n) % 3) + 0.1


def _loss(params):
  """A quadratic of the real and imaginary parts; integers are a factor."""
  dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
  parts, factor = [], 1
  for leaf in jax.tree.leaves(params):
    if not _is_moved(leaf):
      factor += 0 if jnp.shape(leaf) else 1
      continue
    x = jnp.asarray(leaf).ravel()
    parts += [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
  v = jnp.concatenate([p.astype(dtype) for p in parts] or [jnp.zeros(0, dtype)])
  return factor / 2 * v @ jnp.asarray(_matrix(v.size), dtype) @ v


def _flat(leaves):
  flat = [np.ravel(np.asarray(x, np.complex128)) for x in leaves]
  return np.concatenate([*flat, np.zeros(0)])


def _precision(leaf):
  return float(jnp.finfo(jnp.asarray(leaf).dtype).eps)


class Oracle:
  """The same on one vector, whose entries are the numbers of all leaves."""

  def __init__(self, params):
    leaves = jax.tree.leaves(params)
    self.leaves = [x for x in leaves if _is_moved(x)]
    self.z = _flat(self.leaves)
    self.factor = 1 + sum(not jnp.shape(x) and not _is_moved(x) for x in leaves)

  def pack(self, z):
    """The real vector that the loss has."""
    parts = []
    for leaf, x in zip(
      self.leaves, formulas.split(z, self.leaves), strict=True
    ):
      parts += [x.real, x.imag] if jnp.iscomplexobj(leaf) else [x.real]
    return np.concatenate([*parts, np.zeros(0)])

  def unpack(self, v):
    """Its inverse."""
    parts, i = [], 0
    for leaf in self.leaves:
      n = np.size(leaf)
      x = v[i : i + n] + 0j
      i += n
      if jnp.iscomplexobj(leaf):
        x = x + 1j * v[i : i + n]
        i += n
      parts.append(x)
    return np.concatenate([*parts, np.zeros(0)])

  def uphill(self, z):
    v = self.pack(z)
    return self.unpack(self.factor * _matrix(v.size) @ v)

  def epsilon(self, name, g, z):
    if name == 'random':
      return formulas.l2(self.drawn(), z, self.leaves)
    if name == 'masked':
      first = np.size(self.leaves[0]) if self.leaves else 0
      rest = np.arange(g.size) >= first
      return formulas.l2(g * rest, z, self.leaves) if rest.any() else 0 * g
    return ALL[name][1](g, z, self.leaves) if g.size else g

  def drawn(self):
    drawn = []
    for i, leaf in enumerate(self.leaves):
      key = jax.random.fold_in(jax.random.key(formulas.KEY), i)
      leaf = jnp.asarray(leaf)
      dtype = jnp.float64 if jnp.finfo(leaf.dtype).bits == 64 else jnp.float32
      draw = lambda *shape, k=key, d=dtype: jax.random.normal(k, shape, d)
      if jnp.iscomplexobj(leaf):
        real, imaginary = draw(2, *leaf.shape)
        drawn.append(real - 1j * imaginary)
      else:
        drawn.append(draw(*leaf.shape))
    return _flat(drawn)

  def gradient(self, name, use):
    """Gradient, as the way uphill, and epsilon."""
    z = self.z
    epsilon = self.epsilon(name, self.uphill(z), z)
    if use == 'two_steps':
      half = epsilon / 2
      # The ball is that of the unperturbed parameters.
      epsilon = half + self.epsilon(name, self.uphill(z + half), z) / 2
    grad = self.uphill(z + epsilon)
    if use == 'second_order' and name not in ('random', 'none'):
      grad = grad + self.through(name, self.pack(grad))
    return grad, epsilon

  def assert_close(self, actual, expected):
    """Within a few roundings of the leaf, and of the coarsest one a little."""
    expected = formulas.split(expected, self.leaves)
    largest = max((np.abs(x).max(initial=0) for x in expected), default=0)
    coarsest = max((_precision(x) for x in self.leaves), default=0)
    for leaf, a, b in zip(self.leaves, actual, expected, strict=True):
      tolerance = max(8 * _precision(leaf), coarsest) * largest
      np.testing.assert_allclose(_flat([a]), b, rtol=0, atol=tolerance)

  def through(self, name, along):
    """The transposed derivative of epsilon, by differences."""
    v, h = self.pack(self.z), 1e-6
    rows = []
    for unit in np.eye(v.size):
      ends = [
        self.pack(self.epsilon(name, self.uphill(z), z))
        for z in (self.unpack(v + h * unit), self.unpack(v - h * unit))
      ]
      rows.append((ends[0] - ends[1]) / (2 * h))
    return self.unpack(np.array(rows).reshape(v.size, v.size) @ along)


def _every_use(tree):
  """All cells of a tree."""
  return {
    (name, use): sam_jax.value_and_grad(
      _loss, ALL[name][0], **(USES | ONE_STEP)[use], **tree.options
    )(tree.params)
    for name, use in _cells(tree)
  }


def _traced(tree, kinds):
  """A function without arguments for the arrays of all results.

  Python's numbers stay what they are, and of what has no gradient, nothing is
  left.

  Args:
    tree: of parameters.
    kinds: gets the shapes and dtypes of all gradients.
  """

  def run():
    results = _every_use(tree)
    kinds.update({name: _kinds(result[1]) for name, result in results.items()})
    is_array = lambda x: x.dtype != jax.dtypes.float0
    return jax.tree.map(lambda x: x if is_array(x) else None, results)

  return run


def _kinds(grads):
  return jax.tree.map(
    lambda x: (x.shape, x.dtype, getattr(x, 'weak_type', False)), grads
  )


@functools.cache
def _results(name):
  """Results of a tree, its oracle, and kinds of its gradients."""
  tree = TREES[name]
  with jax.enable_x64(tree.is_x64), jax.numpy_dtype_promotion('strict'):
    kinds = {
      'jax': _kinds(jax.value_and_grad(_loss, **tree.options)(tree.params)[1])
    }
    return jax.jit(_traced(tree, kinds))(), Oracle(tree.params), kinds


@pytest.mark.parametrize(
  ('name', 'perturbation', 'use'),
  [(name, *cell) for name, tree in TREES.items() for cell in _cells(tree)],
)
def test_each_gradient_is_that_of_the_formulas(name, perturbation, use):
  results, oracle, kinds = _results(name)
  assert kinds[perturbation, use] == kinds['jax']
  with jax.enable_x64(TREES[name].is_x64):
    uphill, epsilon = oracle.gradient(perturbation, use)
  _, grads, *info = results[perturbation, use]
  # JAX has the conjugate of the way uphill.
  oracle.assert_close(jax.tree.leaves(grads), uphill.conj())
  if info:
    added = _flat(jax.tree.leaves(info[0].epsilon))
    moved = formulas.split(oracle.z + added, oracle.leaves)
    oracle.assert_close(moved, oracle.z + epsilon)


def test_a_dtype_without_signs_is_refused():
  params = {'w': jnp.ones(2), 'scales': jnp.ones(2, jnp.float8_e8m0fnu)}
  fun = lambda p: jnp.sum(p['w']) * jnp.sum(p['scales'].astype(jnp.float32))
  with pytest.raises(ValueError, match='dtype float8_e8m0fnu'):
    sam_jax.grad(fun, sam_jax.l2(formulas.RHO))(params)
