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
from sam_jax import perturbations

RHO, ETA, KEY = 0.5, 0.01, 3
SMALL, LAM, QUANTILE = 0.05, 0.25, 0.75


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
  """Parameters, and how to differentiate with respect to them."""

  params: Any
  options: dict[str, Any] = {}
  is_x64: bool = False


TREES = {
  'everything': Tree(_EVERYTHING, {'allow_int': True}),
  'narrow': Tree(_NARROW),
  '64 bits': Tree(_IN_64_BITS, is_x64=True),
  'a number': Tree(-3.0),
  'nothing': Tree({}),
  'an empty leaf': Tree((3, None, jnp.zeros(0)), {'allow_int': True}),
}

# --- The oracle: z are the parameters, g the way uphill, both complex128.


def _l2(g, z, leaves):
  return RHO * g / np.sqrt(np.sum(np.abs(g) ** 2))


def _power(g, z, leaves, p=1.5):
  q = p / (p - 1)
  size = np.abs(g)
  return RHO * g / size * size ** (q - 1) / np.sum(size**q) ** (1 / p)


def _sign(g, z, leaves):
  return RHO * g / np.abs(g)


def _largest(g, z, leaves):
  is_largest = np.abs(g) > (1 - 1e-9) * np.abs(g).max()
  return RHO * g / np.abs(g) * is_largest / is_largest.sum()


def _stretched(ball, stretch=lambda z, leaves: np.abs(z) + ETA):
  def perturb(g, z, leaves):
    t = stretch(z, leaves)
    return t * ball(t * g, z, leaves)

  return perturb


def _of_each_tensor(fn):
  """A function of tensors, as one of all tensors in one vector."""

  def apply(flat, leaves):
    parts = [fn(x) if x.size else x for x in _split(flat, leaves)]
    return np.concatenate([*parts, np.zeros(0)])

  return apply


def _times_norm(z):
  return np.full(z.size, np.sqrt(np.sum(np.abs(z) ** 2)))


def _over_largest(z):
  return np.abs(z) / np.abs(z).max()


def _outstanding(g):
  """Those above the quantile of |z|, and ties; of a deviation of 0, all."""
  away = np.abs(g - g.mean())
  quantile = np.quantile(away, QUANTILE, method='higher')
  return g * (away >= quantile * (1 - 1e-9))


def _where_not_first(stretch):
  """T = 1 for the first tensor."""

  def apply(z, leaves):
    rest = np.arange(z.size) >= np.size(leaves[0])
    return np.where(rest, stretch(z), 1)

  return apply


def _unified(g, z, leaves):
  return SMALL * (1 - LAM + LAM / np.sqrt(np.sum(np.abs(g) ** 2))) * g


def _fisher(g, z, leaves):
  inverse = 1 / (1 + 2 * np.abs(g) ** 2)
  length = np.sqrt(np.sum((np.conj(g) * inverse * g).real))
  return RHO * inverse * g / length


def _monge(g, z, leaves):
  squared = np.sum(np.abs(g) ** 2)
  return RHO * g / np.sqrt(squared) / np.sqrt(1 + squared)


def _loss_equated(g, z, leaves):
  length = np.sqrt(np.sum(np.abs(g) ** 2))
  return min(3 / length, RHO) * g / length


def _all_but_the_first(params):
  leaves, structure = jax.tree.flatten(params)
  return jax.tree.unflatten(structure, [i > 0 for i in range(len(leaves))])


def _centred(g, z, leaves):
  centred = []
  for x, leaf in zip(_split(g, leaves), leaves, strict=True):
    x = x.reshape(np.shape(leaf))
    axes = tuple(range(x.ndim - 1))
    centred.append((x - x.mean(axes)).ravel() if x.ndim > 1 and x.size else x)
  c = np.concatenate([x.ravel() for x in centred])
  return _l2(c, z, leaves) if c.any() else c


# Name -> what is tested, the oracle; random and masked ones have their own.
PERTURBATIONS = {
  'l2': (sam_jax.l2(RHO), _l2),
  'l1': (sam_jax.lp(RHO, 1), _largest),
  'l1.5': (sam_jax.lp(RHO, 1.5), _power),
  'linf': (sam_jax.lp(RHO, np.inf), _sign),
  'asam': (sam_jax.asam(RHO, ETA), _stretched(_l2)),
  'random': (perturbations.random(RHO, jax.random.key(KEY)), None),
  'masked': (sam_jax.masked(sam_jax.l2(RHO), _all_but_the_first), None),
  'none': (sam_jax.l2(0), lambda g, z, leaves: 0 * g),
  'asam, not the first': (
    sam_jax.asam(RHO, ETA, stretched=_all_but_the_first),
    _stretched(_l2, _where_not_first(lambda z: np.abs(z) + ETA)),
  ),
  'layerwise': (
    perturbations.layerwise(RHO),
    _stretched(_l2, _of_each_tensor(_times_norm)),
  ),
  'samson': (
    perturbations.samson(RHO, np.inf),
    _stretched(_l2, _of_each_tensor(_over_largest)),
  ),
  'unified': (perturbations.unified(SMALL, LAM), _unified),
  'unnormalised': (
    perturbations.unnormalised(SMALL),
    lambda g, z, leaves: SMALL * g,
  ),
  'fisher': (perturbations.fisher(RHO, 2), _fisher),
  'monge': (perturbations.monge(RHO), _monge),
  'loss_equated': (perturbations.loss_equated(3, RHO), _loss_equated),
  'zsharp': (
    perturbations.zsharp(RHO, QUANTILE),
    lambda g, z, leaves: _l2(
      _of_each_tensor(_outstanding)(g, leaves), z, leaves
    ),
  ),
  'centralised': (perturbations.centralised(sam_jax.l2(RHO)), _centred),
}
USES = {
  'two_steps': {'ascent_steps': 2, 'with_info': True},
  'second_order': {'second_order': True},
}


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


def _split(flat, leaves):
  sizes = [np.size(x) for x in leaves]
  return np.split(flat, np.cumsum(sizes))[: len(leaves)]


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
    for leaf, x in zip(self.leaves, _split(z, self.leaves), strict=True):
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
      return _l2(self.drawn(), z, self.leaves)
    if name == 'masked':
      first = np.size(self.leaves[0]) if self.leaves else 0
      rest = np.arange(g.size) >= first
      return _l2(g * rest, z, self.leaves) if rest.any() else 0 * g
    return PERTURBATIONS[name][1](g, z, self.leaves) if g.size else g

  def drawn(self):
    drawn = []
    for i, leaf in enumerate(self.leaves):
      key = jax.random.fold_in(jax.random.key(KEY), i)
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
    expected = _split(expected, self.leaves)
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
  """All perturbations in all ways."""
  return {
    (name, use): sam_jax.value_and_grad(
      _loss, perturbation, **options, **tree.options
    )(tree.params)
    for name, (perturbation, _) in PERTURBATIONS.items()
    for use, options in USES.items()
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


@pytest.mark.parametrize('use', USES)
@pytest.mark.parametrize('perturbation', PERTURBATIONS)
@pytest.mark.parametrize('name', TREES)
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
    moved = _split(oracle.z + added, oracle.leaves)
    oracle.assert_close(moved, oracle.z + epsilon)


def test_a_dtype_without_signs_is_refused():
  params = {'w': jnp.ones(2), 'scales': jnp.ones(2, jnp.float8_e8m0fnu)}
  fun = lambda p: jnp.sum(p['w']) * jnp.sum(p['scales'].astype(jnp.float32))
  with pytest.raises(ValueError, match='dtype float8_e8m0fnu'):
    sam_jax.grad(fun, sam_jax.l2(RHO))(params)
