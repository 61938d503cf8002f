"""Methods that measure the radius otherwise."""

import functools
import math

import numpy as np

from tests.methods.table import Row

_TENSORS = (slice(0, 2), slice(2, 5))


def _perturbed(w, memory, moment, *, epsilon):
  return moment.grad(w + epsilon(moment.grad(w), w)), memory


def _along(epsilon):
  """An oracle with that perturbation, a function of gradient and weights."""
  return functools.partial(_perturbed, epsilon=epsilon)


def _by_tensor(fun, *vectors):
  return np.concatenate([fun(*(v[t] for v in vectors)) for t in _TENSORS])


def _unified(g, w):
  return 0.3 * (1 - 0.4 + 0.4 / np.linalg.norm(g)) * g


def _layerwise(g, w):
  length = _by_tensor(lambda v: np.full(v.shape, np.linalg.norm(v)), w)
  return 0.1 * length**2 * g / np.linalg.norm(length * g)


def _fisher(g, w):
  inverse = 1 / (1 + 0.5 * g**2)
  return 0.3 * inverse * g / np.sqrt(g @ (inverse * g))


def _monge(g, w):
  length = np.linalg.norm(g)
  return 0.8 * g / (length * np.sqrt(1 + length**2))


def _zsharp(g, w):
  def keep(v):
    z = np.abs((v - v.mean()) / v.std())
    # Of two numbers both are as far from their mean, and stay.
    return np.where(z >= np.sort(z)[math.ceil(0.5 * (len(z) - 1))] - 1e-9, v, 0)

  kept = _by_tensor(keep, g)
  return 0.3 * kept / np.linalg.norm(kept)


def _loss_equated(g, w):
  length = np.linalg.norm(g)
  return min(1.5 / length, 0.3) * g / length


def _samson(g, w):
  stretch = _by_tensor(lambda v: np.abs(v) / np.linalg.norm(v), w)
  return 0.5 * stretch**2 * g / np.linalg.norm(stretch * g)


def _without_mean(v):
  """The second tensor has three inputs of one neuron, the first one none."""
  return np.concatenate([v[:2], v[2:] - v[2:].mean()])


def _gcsam(w, memory, moment):
  g = _without_mean(moment.grad(w))
  return _without_mean(moment.grad(w + 0.3 * g / np.linalg.norm(g))), memory


_SAM = ('sam', {'rho': 0.3})

ROWS = [
  Row('usam', {'rho': 0.2}, _along(lambda g, w: 0.2 * g), {'rho': 0.0}),
  Row(
    'unified_sam',
    {'rho': 0.3, 'lam': 0.4},
    _along(_unified),
    {'lam': 1.0},
    _SAM,
  ),
  Row(
    'unified_sam',
    {'rho': 0.2, 'lam': 0.0},
    _along(lambda g, w: 0.2 * g),
    {},
    ('usam', {'rho': 0.2}),
  ),
  Row('layerwise_sam', {'rho': 0.1}, _along(_layerwise), {'rho': 0.0}),
  Row(
    'fisher_sam', {'rho': 0.3, 'eta': 0.5}, _along(_fisher), {'eta': 0.0}, _SAM
  ),
  Row('monge_sam', {'rho': 0.8}, _along(_monge), {'rho': 0.0}),
  Row(
    'zsharp',
    {'rho': 0.3, 'quantile': 0.5},
    _along(_zsharp),
    {'quantile': 0.0},
    _SAM,
  ),
  Row(
    'le_sam',
    {'rho': 1.5, 'rho_max': 0.3},
    _along(_loss_equated),
    {'rho': 1e6},
    _SAM,
  ),
  Row('samson', {'rho': 0.5}, _along(_samson), {'rho': 0.0}),
  Row('gcsam', {'rho': 0.3}, _gcsam, {'rho': 0.0}),
]
