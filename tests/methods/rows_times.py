"""Methods that choose steps, examples or parameters."""

import functools
import math

import jax
import numpy as np

from tests.methods.rows_sam import sam
from tests.methods.table import EXAMPLES, KEY, STEPS, Row

_NEVER, _ALWAYS = 1e6, -1e6


def _unit(g):
  return g / np.linalg.norm(g)


# --- Steps ---


def _where(test, w, memory, moment):
  if test(moment.step):
    return sam(w, memory, moment, rho=0.3)
  return moment.grad(w), memory


def _late(step):
  return step >= 3


def _drawn(step):
  key = jax.random.fold_in(jax.random.fold_in(KEY, step), 0x5EED)
  return float(jax.random.uniform(key)) < 0.5


def _ae_sam(w, memory, moment):
  mu, variance = (0.0, 0.0) if memory is None else memory
  g = moment.grad(w)
  square = g @ g
  mu = 0.9 * mu + 0.1 * square
  variance = 0.9 * variance + 0.1 * (square - mu) ** 2
  share = moment.step / STEPS
  threshold = share * 0.5 + (1 - share) * 2.5
  if square >= mu + threshold * math.sqrt(variance):
    g = moment.grad(w + 0.3 * _unit(g))
  return g, (mu, variance)


# --- Examples ---


def _sharpest(scores, share):
  count = math.ceil(share * EXAMPLES)
  return np.argsort(-scores, kind='stable')[:count]


def _quarter(w, memory, moment):
  g = moment.grads(w)[:2].mean(axis=0)
  return moment.grad(w + 0.3 * _unit(g)), memory


def _esam(w, memory, moment):
  key = jax.random.fold_in(jax.random.fold_in(KEY, moment.step), 0xE5A)
  mask = np.concatenate(
    [
      jax.random.bernoulli(jax.random.fold_in(key, i), 0.6, (n,))
      for i, n in enumerate((2, 3))
    ]
  )
  moved = w + 0.3 / 0.6 * mask * _unit(moment.grad(w))
  rise = moment.losses(moved) - moment.losses(w)
  return moment.grads(moved)[_sharpest(rise, 0.5)].mean(axis=0), memory


def _k_sam(w, memory, moment):
  hardest = _sharpest(moment.losses(w), 0.4)
  moved = w + 0.3 * _unit(moment.grads(w)[hardest].mean(axis=0))
  return moment.grads(moved)[hardest].mean(axis=0), memory


# --- Parameters: those of the normalisation layer are the last three ---


def _sam_on(w, memory, moment):
  epsilon = np.concatenate([[0, 0], 0.3 * _unit(moment.grad(w)[2:])])
  return moment.grad(w + epsilon), memory


def _masked(w, mask, moment):
  mask = np.ones(5, bool) if mask is None else mask
  return moment.grad(w + 0.3 * mask * _unit(moment.grad(w)))


def _largest(scores, count):
  mask = np.zeros(5, bool)
  mask[np.argsort(-scores, kind='stable')[: int(count)]] = True
  return mask


def _ssam_f(w, mask, moment):
  grads = _masked(w, mask, moment)
  if moment.step % 2 == 0:
    fisher = np.mean(moment.grads(w)[:3] ** 2, axis=0)
    mask = _largest(fisher, 3)
  return grads, mask


def _fisher_mask(w, mask, moment):
  grads = _masked(w, mask, moment)
  if moment.step % 2 == 0:
    mask = _largest(moment.grad(w) ** 2, 2)
  return grads, mask


def _random_scores(step, number):
  key = jax.random.fold_in(jax.random.fold_in(KEY, step), 0x55D)
  key = jax.random.fold_in(key, number)
  return np.asarray(jax.random.uniform(key, (5,)), np.float64)


def _ssam_d(w, mask, moment):
  grads = _masked(w, mask, moment)
  if mask is None:
    mask = _largest(_random_scores(0, 0), 3)
  rate = 0.7 * (1 + math.cos(math.pi * moment.step / STEPS)) / 2
  count = min(math.floor(3 * rate), 2)
  kept = _largest(np.where(mask, np.abs(moment.grad(w)), -1), 3 - count)
  grown = _largest(np.where(mask, -1, _random_scores(moment.step, 2)), count)
  return grads, kept | grown


_SAM = ('sam', {'rho': 0.3})

ROWS = [
  Row(
    'late_sam',
    {'rho': 0.3, 'start': 0.6},
    functools.partial(_where, _late),
    {'start': 0.0},
    _SAM,
    period=STEPS,
  ),
  Row(
    'sam_k',
    {'rho': 0.3, 'every': 2},
    functools.partial(_where, lambda step: step % 2 == 0),
    {'every': 1},
    _SAM,
    period=2,
  ),
  Row(
    'ss_sam',
    {'rho': 0.3, 'probability': 0.5},
    functools.partial(_where, _drawn),
    {'probability': 1.0},
    _SAM,
    is_chance=True,
  ),
  Row(
    'ae_sam',
    {'rho': 0.3, 'lambda_1': 0.5, 'lambda_2': 2.5},
    _ae_sam,
    {'lambda_1': _ALWAYS, 'lambda_2': _ALWAYS},
    _SAM,
    is_chance=True,
  ),
  Row(
    'quarter_sam',
    {'rho': 0.3},
    _quarter,
    {'ascent_share': 1.0},
    _SAM,
    needs_examples=True,
  ),
  Row(
    'esam',
    {'rho': 0.3},
    _esam,
    {'beta': 1.0, 'descent_share': 1.0},
    _SAM,
    needs_examples=True,
  ),
  Row(
    'k_sam',
    {'rho': 0.3, 'loss_share': 0.4},
    _k_sam,
    {'loss_share': 1.0},
    _SAM,
    needs_examples=True,
  ),
  Row('sam_on', {'rho': 0.3}, _sam_on, {'rho': 0.0}),
  Row(
    'ssam_f',
    {'rho': 0.3, 'sparsity': 0.4, 'samples': 3, 'refresh': 2},
    _ssam_f,
    {'sparsity': 0.0},
    _SAM,
    needs_examples=True,
  ),
  Row(
    'ssam_d',
    {'rho': 0.3, 'sparsity': 0.4, 'drop_rate': 0.7, 'refresh': 1},
    _ssam_d,
    {'sparsity': 0.0},
    _SAM,
  ),
  Row(
    'fisher_mask_sam',
    {'rho': 0.3, 'keep_ratio': 0.4, 'refresh': 2},
    _fisher_mask,
    {'keep_ratio': 1.0},
    _SAM,
  ),
]
