"""Methods that choose another direction."""

import numpy as np

from tests.methods.table import Row

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


ROWS = [
  Row('vasso', {'rho': 0.3, 'theta': 0.4}, _vasso, {'theta': 1.0}, _SAM),
  Row(
    'friendly_sam',
    {'rho': 0.3, 'sigma': 0.8, 'lam': 0.6},
    _friendly,
    {'sigma': 0.0},
    _SAM,
  ),
]
