"""SGD, SAM, its control, ASAM, GSAM and LookSAM."""

import functools
import math

import jax
import numpy as np

from tests.methods.table import KEY, STEPS, Row


def sgd(w, memory, moment):
  return moment.grad(w), memory


def sam(w, memory, moment, *, rho, direction=lambda g: g / np.linalg.norm(g)):
  return moment.grad(w + rho * direction(moment.grad(w))), memory


def _linear(w, memory, moment):
  rho = 0.1 + (0.3 - 0.1) * (1 - moment.step / STEPS)
  return sam(w, memory, moment, rho=rho)


def _cosine(w, memory, moment):
  rho = 0.3 * (1 + math.cos(math.pi * moment.step / STEPS)) / 2
  return sam(w, memory, moment, rho=rho)


def _three_steps(w, memory, moment):
  moved = w
  for _ in range(3):
    g = moment.grad(moved)
    moved = moved + 0.1 * g / np.linalg.norm(g)
  return moment.grad(moved), memory


def _second_order(w, memory, moment):
  g = moment.grad(w)
  length = np.linalg.norm(g)
  unit = g / length
  descent = moment.grad(w + 0.3 * unit)
  across = descent - unit * (unit @ descent)
  return descent + 0.3 / length * moment.hessian @ across, memory


def _random(w, memory, moment):
  key = jax.random.fold_in(KEY, moment.step)
  parts = [
    jax.random.normal(jax.random.fold_in(key, i), (n,))
    for i, n in enumerate((2, 3))
  ]
  z = np.concatenate(parts).astype(np.float64)
  return moment.grad(w + 0.3 * z / np.linalg.norm(z)), memory


def _asam(w, memory, moment):
  g, stretch = moment.grad(w), np.abs(w) + 0.01
  epsilon = 0.3 * stretch**2 * g / np.linalg.norm(stretch * g)
  return moment.grad(w + epsilon), memory


def _gsam(w, memory, moment):
  g = moment.grad(w)
  rho = 0.1 + (0.3 - 0.1) * moment.decay
  descent = moment.grad(w + rho * g / np.linalg.norm(g))
  parallel = (g @ descent) / (descent @ descent) * descent
  return descent - 0.4 * (g - parallel), memory


def _looksam(w, memory, moment):
  g = moment.grad(w)
  if moment.step % 3 == 0:
    descent = moment.grad(w + 0.3 * g / np.linalg.norm(g))
    return descent, descent - (descent @ g) / (g @ g) * g
  length = np.linalg.norm(g) / np.linalg.norm(memory)
  return g + 0.7 * length * memory, memory


ROWS = [
  Row('sgd', {}, sgd),
  Row('sam', {'rho': 0.3}, functools.partial(sam, rho=0.3), {'rho': 0.0}),
  Row(
    'sam',
    {'rho': 0.3, 'p': math.inf},
    functools.partial(sam, rho=0.3, direction=np.sign),
    {'p': 2.0},
    ('sam', {'rho': 0.3}),
  ),
  Row(
    'sam',
    {'rho': 0.3, 'ascent_steps': 3},
    _three_steps,
    {'ascent_steps': 1},
    ('sam', {'rho': 0.3}),
  ),
  Row('sam', {'rho': 0.3, 'second_order': True}, _second_order, {'rho': 0.0}),
  Row(
    'sam',
    {'rho': 0.3, 'rho_schedule': 'linear', 'rho_min': 0.1},
    _linear,
    {'rho_min': 0.3},
    ('sam', {'rho': 0.3}),
  ),
  Row('sam', {'rho': 0.3, 'rho_schedule': 'cosine'}, _cosine),
  Row('random', {'rho': 0.3}, _random, {'rho': 0.0}),
  Row('asam', {'rho': 0.3}, _asam, {'rho': 0.0}),
  Row(
    'gsam',
    {'rho': 0.3, 'rho_min': 0.1, 'alpha': 0.4},
    _gsam,
    {'rho_min': 0.3, 'alpha': 0.0},
    ('sam', {'rho': 0.3}),
  ),
  Row(
    'looksam',
    {'rho': 0.3, 'every': 3, 'alpha': 0.7},
    _looksam,
    {'every': 1},
    ('sam', {'rho': 0.3}),
    period=3,
  ),
  # Nothing is left of g_v but rounding, which must not be stretched.
  Row('looksam', {'rho': 1e-9, 'every': 2}, sgd, {'rho': 0.0}, period=2),
]
