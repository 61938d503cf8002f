"""Methods that choose another direction."""

import functools

import jax
import numpy as np

from sam_jax import keys
from tests.methods.table import RATE, Row

_SAM = ('sam', {'rho': 0.3})


def _along(direction, w, moment, rho=0.3):
  """Returns the gradient at the end of a perturbation; 0 stays 0."""
  length = np.linalg.norm(direction)
  return moment.grad(w + rho * direction / (length or 1.0))


def _vasso(w, memory, moment):
  g = moment.grad(w)
  d = g if memory is None else (1 - 0.4) * memory + 0.4 * g
  return _along(d, w, moment), d


def _friendly(w, memory, moment):
  g = moment.grad(w)
  if memory is None:
    return _along(g, w, moment), g
  m = 0.6 * memory + (1 - 0.6) * g
  return _along(g - 0.8 * m, w, moment), m


def _msam(w, memory, moment):
  return _along(-moment.momentum, w, moment), memory


def _s2sam(w, memory, moment):
  grads = _along(np.zeros_like(w) if memory is None else memory, w, moment)
  return grads, grads


def _async(w, memory, moment):
  memory = memory or [np.zeros_like(w)] * 2
  return _along(memory[0], w, moment), [memory[1], moment.grad(w)]


def _eigen(w, memory, moment):
  v, made = memory or (_start(), 0)
  unit = moment.grad(w) / np.linalg.norm(moment.grad(w))
  epsilon = 0.3 * unit
  if made >= 2:
    across = v - (unit @ v) * unit
    epsilon = epsilon + 0.3 * 0.5 * np.sign(unit @ v) * across
  if moment.step % 4 < 2:
    product = moment.hessian @ v
    v, made = product / np.linalg.norm(product), made + 1
  return moment.grad(w + epsilon), (v, made)


def _start():
  """Returns the vector with which the power iteration starts."""
  parts = [
    jax.random.normal(jax.random.fold_in(keys.make(0), i), (n,))
    for i, n in enumerate((2, 3))
  ]
  z = np.concatenate(parts).astype(np.float64)
  return z / np.linalg.norm(z)


def _sampa(w, memory, moment, *, mu):
  h = np.zeros_like(w) if memory is None else memory
  y = w - RATE * moment.decay * (h + mu * moment.momentum)
  at_y = moment.grad(y)
  return (1 - 0.4) * _along(h, w, moment) + 0.4 * at_y, at_y


ROWS = [
  Row('vasso', {'rho': 0.3, 'theta': 0.4}, _vasso, {'theta': 1.0}, _SAM),
  Row(
    'friendly_sam',
    {'rho': 0.3, 'sigma': 0.8, 'lam': 0.6},
    _friendly,
    {'sigma': 0.0},
    _SAM,
  ),
  Row('msam', {'rho': 0.3}, _msam, {'rho': 0.0}),
  Row('s2sam', {'rho': 0.3}, _s2sam, {'rho': 0.0}),
  Row('async_sam', {'rho': 0.3, 'delay': 2}, _async, {'delay': 0}, _SAM),
  Row(
    'eigen_sam',
    {'rho': 0.3, 'alpha': 0.5, 'refresh_every': 4, 'iterations': 2},
    _eigen,
    {'alpha': 0.0},
    _SAM,
    period=4,
  ),
  Row(
    'sampa',
    {'rho': 0.3, 'lam': 0.4},
    functools.partial(_sampa, mu=0.0),
    {'rho': 0.0, 'lam': 0.0},
  ),
  Row(
    'sampa',
    {'rho': 0.3, 'lam': 0.4, 'momentum': 0.5},
    functools.partial(_sampa, mu=0.5),
  ),
]
