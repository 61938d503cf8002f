"""Methods that make something else of the gradients."""

import functools

import numpy as np

from tests.methods.table import STEPS, Row

RHO = 0.3
SAM = ('sam', {'rho': RHO})


def _unit(v):
  return v / np.linalg.norm(v)


def _pair(w, moment, rho=RHO):
  """Returns the gradients at w and at w + epsilon."""
  g = moment.grad(w)
  return g, moment.grad(w + rho * _unit(g))


def _gsam_gap(w, memory, moment):
  g, g_p = _pair(w, moment, 0.1 + (RHO - 0.1) * moment.decay)
  return g + 0.4 * (g_p - (g_p @ g) / (g @ g) * g), memory


def _wsam(w, memory, moment):
  g, g_s = _pair(w, moment)
  return (1 - 9) * g + 9 * g_s, memory


def _stable(w, memory, moment):
  g, g_s = _pair(w, moment)
  return np.linalg.norm(g) / np.linalg.norm(g_s) * g_s, memory


def _sagm(w, memory, moment):
  g = moment.grad(w)
  factor = RHO / np.linalg.norm(g) - 0.05
  return (g + moment.grad(w + factor * g)) / 2, memory


def _cr_sam(w, memory, moment):
  """On a quadratic the curvature term is zero, whatever gamma is."""
  g = moment.grad(w)
  epsilon = RHO * _unit(g)
  return moment.grad(w + epsilon) + 2 * 0.2 * moment.hessian @ epsilon, memory


def _loss(w, moment):
  """The quadratic, from its gradient: Aw + b, and b at 0."""
  return w @ (moment.grad(w) + moment.grad(np.zeros_like(w))) / 2


def _xsam(w, memory, moment, *, steps):
  """The arccos of the paper; alpha is used from the step after its search."""
  moved = w
  for _ in range(steps):
    moved = moved + RHO / steps * _unit(moment.grad(moved))
  g = moment.grad(moved)
  v0, v1 = _unit(moved - w), _unit(g)
  psi = np.arccos(np.clip(v0 @ v1, -1, 1))

  def v(alpha):
    far, near = np.sin(alpha * psi), np.sin((1 - alpha) * psi)
    return (near * v0 + far * v1) / np.sin(psi)

  alpha = 1.0 if memory is None else memory
  gradient = np.linalg.norm(g) * v(alpha)
  if moment.step % 3 == 0:
    alphas = np.arange(21) / 10
    alpha = alphas[np.argmax([_loss(w + 0.6 * v(a), moment) for a in alphas])]
  return gradient, alpha


def _sam_sps(w, memory, moment, *, rho=RHO):
  epsilon = rho * _unit(moment.grad(w))
  g = moment.grad(w + epsilon)
  excess = _loss(w + epsilon, moment) + 1.5 - g @ epsilon
  return min(max(excess, 0) / (g @ g), 0.2) * g, memory


def _saner(w, memory, moment, *, warmup=None):
  g, g_s = _pair(w, moment, 2 * RHO)
  ratio = g_s / g
  share = min(moment.step / (warmup * STEPS), 1) if warmup else 1
  mask = (ratio > 0) & (ratio < 1)
  return (1 - 0.8 * share * mask) * g_s, memory


# 20 of 21 losses, a third of a gradient each, in every third step.
_UNCOUNTED = 20 / 3 / 3
_XSAM = {'rho': RHO, 'rho_max': 0.6, 'search_every': 3}
# With this radius a number gets smaller in the third and in the fourth step.
_SANER = {'rho': 2 * RHO, 'alpha': 0.8}
_SPS = {'largest': 0.2, 'lower_bound': -1.5}

ROWS = [
  Row(
    'gsam',
    {'rho': RHO, 'rho_min': 0.1, 'alpha': 0.4, 'minimize_fp': False},
    _gsam_gap,
    {'alpha': 0.0},
  ),
  Row('wsam', {'rho': RHO, 'gamma': 0.9}, _wsam, {'gamma': 0.5}, SAM),
  Row('stable_sam', {'rho': RHO}, _stable, {'rho': 0.0}),
  Row(
    'sagm',
    {'rho': RHO, 'alpha': 0.05},
    _sagm,
    {'alpha': 0.0},
    ('wsam', {'rho': RHO, 'gamma': 1 / 3}),
  ),
  Row(
    'cr_sam',
    {'rho': RHO, 'gamma': 0.3, 'beta': 0.2},
    _cr_sam,
    {'gamma': 0.0, 'beta': 0.0},
    SAM,
  ),
  Row(
    'xsam',
    _XSAM,
    functools.partial(_xsam, steps=1),
    {'rho': 0.0},
    period=3,
    uncounted=_UNCOUNTED,
  ),
  Row(
    'xsam',
    _XSAM | {'ascent_steps': 2},
    functools.partial(_xsam, steps=2),
    period=3,
    uncounted=_UNCOUNTED,
  ),
  Row(
    'sam_sps',
    {'rho': RHO} | _SPS,
    _sam_sps,
    {'largest': 1.0, 'lower_bound': -1e6},
    SAM,
  ),
  Row(
    'sam_sps',
    {'rho': 0.0} | _SPS,
    functools.partial(_sam_sps, rho=0.0),
    {'largest': 1.0, 'lower_bound': -1e6},
  ),
  Row(
    'saner',
    _SANER | {'warmup': 0.5},
    functools.partial(_saner, warmup=0.5),
    {'alpha': 0.0},
    ('sam', {'rho': 2 * RHO}),
  ),
  Row('saner', _SANER | {'warmup': 0.0}, _saner, {'rho': 0.0}),
]
