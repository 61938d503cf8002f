"""Methods that look into the loss, and a network in NumPy for their oracles."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from tests.methods.table import INFO, STEPS, Row

FEATURES, HIDDEN, CLASSES = 6, 4, 5
DECAY = 0.05  # of weight decay in the loss
_COUNTS = np.array(INFO['class_counts'])


def _softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def unit(g):
  return g / (np.linalg.norm(g) or 1.0)


class Group(NamedTuple):
  """The examples of a group, in float64, with the key of their randomness.

  The network is `tanh(x K1 + b1) K2 + b2`, its parameters one vector.
  """

  x: np.ndarray
  y: np.ndarray
  domain: np.ndarray
  example: np.ndarray
  key: jax.Array

  def parts(self, w):
    ends = np.cumsum([HIDDEN, FEATURES * HIDDEN, CLASSES])
    b1, k1, b2, k2 = np.split(w, ends)
    return b1, k1.reshape(FEATURES, HIDDEN), b2, k2.reshape(HIDDEN, CLASSES)

  def outputs(self, w):
    b1, k1, b2, k2 = self.parts(w)
    return np.tanh(self.x @ k1 + b1) @ k2 + b2

  def losses(self, w):
    p = _softmax(self.outputs(w))
    return -np.log(p[np.arange(len(self.y)), self.y])

  def slopes(self, w):
    """Of each example's cross entropy by its outputs."""
    return _softmax(self.outputs(w)) - np.eye(CLASSES)[self.y]

  def pull(self, w, slopes):
    """The mean over the examples of their Jacobian's transpose times slopes."""
    b1, k1, _, k2 = self.parts(w)
    hidden = np.tanh(self.x @ k1 + b1)
    back = (slopes @ k2.T) * (1 - hidden**2)
    parts = [back.sum(0), self.x.T @ back, slopes.sum(0), hidden.T @ slopes]
    return np.concatenate([p.ravel() for p in parts]) / len(self.x)

  def grad(self, w, weights=1.0):
    """Of the mean of the weighted losses, each with its penalty."""
    slopes = np.reshape(weights, (-1, 1)) * self.slopes(w)
    return self.pull(w, slopes) + DECAY * w * np.mean(weights)


def _over_groups(fn, w, memory, groups, step):
  del step
  return np.mean([fn(group, w) for group in groups], axis=0), memory


def _functional(group, w):
  epsilon = 0.3 * unit(group.grad(w))
  return group.pull(w + epsilon, group.slopes(w)) + DECAY * (w + epsilon)


def _mesa(w, memory, groups, step):
  average = w if memory is None else 0.7 * memory + 0.3 * w

  def of(group):
    target, own = (_softmax(group.outputs(v) / 2.0) for v in (average, w))
    # The derivative of the divergence by the outputs is (own - target) / tau.
    return group.grad(w) + group.pull(w, 0.8 * 2.0 * (own - target))

  return np.mean([of(group) for group in groups], axis=0), average


def _saf(w, memory, groups, step):
  del step
  past = memory or {}  # the logits of each example, oldest first
  grads = []
  for group in groups:
    outputs = group.outputs(w)
    slopes = np.zeros_like(outputs)
    for i, number in enumerate(group.example):
      kept = past.setdefault(int(number), [])
      if len(kept) >= 2:
        slopes[i] = _softmax(outputs[i] / 2.0) - _softmax(kept[-2] / 2.0)
      kept.append(outputs[i])
    grads.append(group.grad(w) + group.pull(w, 0.8 * 2.0 * slopes))
  return np.mean(grads, axis=0), past


def _partly(weights, lam, group, w):
  of_example = weights[group.y]
  partial = group.grad(w, of_example)
  moved = w + 0.3 * unit(partial)
  rest = group.grad(w, 1 - lam * of_example)
  return rest + lam * group.grad(moved, of_example)


def _disam(group, w):
  found = np.unique(group.domain)
  masks = [group.domain == d for d in found]
  means = [group.losses(w)[mask].mean() for mask in masks]
  g = group.grad(w)
  for mask, mean in zip(masks, means, strict=True):
    of_domain = group.grad(w, mask / mask.mean()) - DECAY * w
    g = g - 2.0 * 2 / len(found) * (mean - np.mean(means)) * of_domain
  return group.grad(w + 0.3 * unit(g))


def _dgsam(group, w):
  places = np.array(jax.random.uniform(group.key, (3,)))
  order = [d for d in np.argsort(places) if (group.domain == d).any()]
  masks = [group.domain == d for d in order]
  found = []
  for mask in masks:
    found.append(group.grad(w, mask / mask.mean()))
    w = w + 0.3 * unit(found[-1])
  found.append(group.grad(w, masks[0] / masks[0].mean()))
  return np.mean(found, axis=0)


def _row(name, fields, oracle, *identity):
  return Row(name, fields, oracle, *identity, is_of_network=True)


_SAM = ('sam', {'rho': 0.3})
_SAF = {'lam': 0.8, 'start': 0.0, 'examples': 100, 'classes': 5}
_TAIL = (_COUNTS < 20).astype(np.float64)
_FOCAL = (1 - _COUNTS / _COUNTS.sum()) ** 3

ROWS = [
  _row(
    'functional_sam',
    {'rho': 0.3},
    functools.partial(_over_groups, _functional),
    {'start': 1.0},
  ),
  _row(
    'mesa',
    {'decay': 0.7, 'tau': 2.0, 'start': 0.0},
    _mesa,
    {'decay': 0.0},
  ),
  _row('mesa', {'decay': 0.7, 'start': 1.0}, None, {}),
  _row('saf', _SAF | {'tau': 2.0, 'epochs': 2}, _saf, {'lam': 0.0}),
  _row('saf', _SAF, None, {'epochs': STEPS}),
  _row('saf', _SAF, None, {'start': 1.0}),
  _row(
    'imb_sam',
    {'rho': 0.3},
    functools.partial(_over_groups, functools.partial(_partly, _TAIL, 1.0)),
    {'eta': 1000.0},
    _SAM,
  ),
  _row('imb_sam', {'rho': 0.3, 'eta': 0.0}, None, {}, ('sgd', {})),
  _row(
    'focal_sam',
    {'rho': 0.3, 'lam': 0.6},
    functools.partial(_over_groups, functools.partial(_partly, _FOCAL, 0.6)),
    {'gamma': 0.0, 'lam': 1.0},
    _SAM,
  ),
  _row(
    'disam',
    {'rho': 0.3, 'lam': 2.0},
    functools.partial(_over_groups, _disam),
    {'lam': 0.0},
    _SAM,
  ),
  _row(
    'dgsam',
    {'rho': 0.3, 'domains': 3},
    functools.partial(_over_groups, _dgsam),
    {'rho': 0.0},
  ),
]
