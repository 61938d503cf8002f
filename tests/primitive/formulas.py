"""The formulas of all perturbations in NumPy and float64.

They are of one vector of all parameters: z are the parameters, g is the way
uphill, both complex128; `leaves` have the shapes of the tensors.
"""

import jax
import numpy as np

import sam_jax
from sam_jax import perturbations

RHO, ETA, KEY = 0.5, 0.01, 3
SMALL, LAM, QUANTILE = 0.05, 0.25, 0.75


def l2(g, z, leaves):
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
    parts = [fn(x) if x.size else x for x in split(flat, leaves)]
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
  for x, leaf in zip(split(g, leaves), leaves, strict=True):
    x = x.reshape(np.shape(leaf))
    axes = tuple(range(x.ndim - 1))
    centred.append((x - x.mean(axes)).ravel() if x.ndim > 1 and x.size else x)
  c = np.concatenate([x.ravel() for x in centred])
  return l2(c, z, leaves) if c.any() else c


def split(flat, leaves):
  """A vector as one for each leaf."""
  sizes = [np.size(x) for x in leaves]
  return np.split(flat, np.cumsum(sizes))[: len(leaves)]


# Name -> what is tested, the oracle; random and masked ones have another.
PERTURBATIONS = {
  'l2': (sam_jax.l2(RHO), l2),
  'l1': (sam_jax.lp(RHO, 1), _largest),
  'l1.5': (sam_jax.lp(RHO, 1.5), _power),
  'linf': (sam_jax.lp(RHO, np.inf), _sign),
  'asam': (sam_jax.asam(RHO, ETA), _stretched(l2)),
  'random': (perturbations.random(RHO, jax.random.key(KEY)), None),
  'masked': (sam_jax.masked(sam_jax.l2(RHO), _all_but_the_first), None),
  'none': (sam_jax.l2(0), lambda g, z, leaves: 0 * g),
}
FAMILY = {
  'asam, not the first': (
    sam_jax.asam(RHO, ETA, stretched=_all_but_the_first),
    _stretched(l2, _where_not_first(lambda z: np.abs(z) + ETA)),
  ),
  'layerwise': (
    perturbations.layerwise(RHO),
    _stretched(l2, _of_each_tensor(_times_norm)),
  ),
  'samson': (
    perturbations.samson(RHO, np.inf),
    _stretched(l2, _of_each_tensor(_over_largest)),
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
    lambda g, z, leaves: l2(
      _of_each_tensor(_outstanding)(g, leaves), z, leaves
    ),
  ),
  'centralised': (perturbations.centralised(sam_jax.l2(RHO)), _centred),
}
