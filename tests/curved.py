"""A small smooth network whose whole Hessian can be formed, and its data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from sam_jax import analysis

EXAMPLES, FEATURES, HIDDEN, CLASSES = 64, 10, 13, 3
_rng = np.random.default_rng(0)
DATA = {
  'x': _rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32),
  'y': _rng.integers(0, CLASSES, EXAMPLES),
}
PARAMS = {
  'a': (0.4 * _rng.normal(size=(FEATURES, HIDDEN))).astype(np.float32),
  'b': np.zeros(HIDDEN, np.float32),
  'c': _rng.normal(size=(HIDDEN, CLASSES)).astype(np.float32),
}


def loss(params, batch, activation=jnp.tanh):
  """Cross entropy of each example."""
  hidden = activation(batch['x'] @ params['a'] + params['b'][None])
  log_probs = jax.nn.log_softmax(hidden @ params['c'])
  return -jnp.take_along_axis(log_probs, batch['y'][:, None], 1)[:, 0]


def cut(data, size):
  """The batches of a data set."""
  count = len(jax.tree.leaves(data)[0])
  return [
    jax.tree.map(lambda x, i=i: x[i : i + size], data)
    for i in range(0, count, size)
  ]


def objective(size=24, devices=1, loss_fn=loss, data=DATA, **options):
  """Returns the Objective in batches of a size, on some devices."""
  if data is DATA and not options:
    return _shared(size, devices, loss_fn)
  return analysis.Objective(
    loss_fn, cut(data, size), devices=jax.devices()[:devices], **options
  )


@functools.cache
def _shared(size, devices, loss_fn):
  """Returns an Objective that is compiled once for all tests."""
  devices = jax.devices()[:devices]
  return analysis.Objective(loss_fn, cut(DATA, size), devices=devices)


def whole_hessian():
  """Returns the Hessian of the mean loss, float64 [n, n]."""
  flat, unravel = flatten_util.ravel_pytree(PARAMS)
  hessian = jax.hessian(lambda v: jnp.mean(loss(unravel(v), DATA)))(flat)
  return np.float64(hessian)


def flat(tree):
  """Returns all leaves in one float64 vector."""
  leaves = [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
  return np.concatenate(leaves)
