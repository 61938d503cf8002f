"""Exponential moving average of the variables a run is evaluated with."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from sam_jax import types

# `(average, new, step) -> average`, see `update`.
EmaFn = Callable[[types.PyTree, types.PyTree, jax.Array], types.PyTree]


def update(
  average: types.PyTree,
  new: types.PyTree,
  step: jax.Array | int,
  *,
  decay: float,
  warmup_steps: int = 0,
) -> types.PyTree:
  """Returns `d * average + (1 - d) * new`, leaf by leaf.

  d is 0 while `step < warmup_steps`: the average is the newest value. From
  then on it rises from 1/10 as `(1 + t) / (10 + t)`, t being the steps since,
  until it reaches `decay`.

  Args:
    average: tree of floating-point arrays.
    new: the same, after the update.
    step: number of updates made, that one included.
    decay: largest d, in [0, 1).
    warmup_steps: updates before the average begins.

  Source: efficientnet/optim.py:118-121.

  Differs from the official release: d is selected, not multiplied by 0, which
  is NaN ten steps before the warm-up is over unless it happens to be compiled
  away.

  Example:
    >>> from sam_jax.training import ema
    >>> print(ema.update(0.0, 1.0, step=8, decay=0.9))
    0.5
  """
  elapsed = jnp.maximum(step - warmup_steps, 0)
  rising = jnp.minimum(decay, (1 + elapsed) / (10 + elapsed))
  effective_decay = jnp.where(step < warmup_steps, 0.0, rising)
  return optax.incremental_update(new, average, 1 - effective_decay)


def create(decay: float, warmup_steps: int = 0) -> EmaFn | None:
  """Returns `(average, new, step) -> average`, or None if decay is 0.

  Args:
    decay: see `update`; 0 keeps no average.
    warmup_steps: see `update`. Official: 1560, whatever the run.

  Raises:
    ValueError: one of them is out of range.

  Source: training_utils/flax_training.py:784.
  """
  if not 0 <= decay < 1:
    raise ValueError(f'ema.decay is {decay}; it must be in [0, 1), 0 is none')
  if warmup_steps < 0:
    raise ValueError(f'ema.warmup_steps is {warmup_steps}; it must not be < 0')
  if not decay:
    return None
  return functools.partial(update, decay=decay, warmup_steps=warmup_steps)
