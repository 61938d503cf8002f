"""SSAM-D: sparse SAM whose mask drops some parameters and grows others."""

import math
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from sam_jax import lookup, types
from sam_jax.methods import base, masks, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.interface import Context, Problem

SCORES = ('gradient', 'random', 'weight')


@parts.MASKS.register('dynamic')
class Dynamic(masks.Remembered):
  """A mask of constant size that changes a share of its places."""

  def __init__(
    self,
    sparsity: float = 0.5,
    drop_rate: float = 0.5,
    drop: str = 'gradient',
    grow: str = 'random',
    refresh: int = 400,
  ) -> None:
    """Takes the share that is left out, and how the mask changes.

    Raises:
      ValueError: a value is out of range, or a score is unknown.
    """
    super().__init__(refresh)
    masks.check_sparsity(sparsity)
    if not 0 <= drop_rate <= 1:
      raise ValueError(f'drop_rate is {drop_rate}; give a number in [0, 1]')
    for name, score in (('drop', drop), ('grow', grow)):
      lookup.check(name, score, SCORES)
    self._sparsity, self._drop_rate = sparsity, drop_rate
    self._drop, self._grow = drop, grow
    self.needs_gradient = 'gradient' in (drop, grow)

  def stats(
    self,
    problem: Problem,
    memory: types.PyTree,
    params: types.Params,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns what the scores are made of, by name."""
    del problem, ctx
    weights = jax.tree.map(
      lambda live, p: None if live is None else jnp.asarray(p),
      memory,
      params,
      is_leaf=lambda x: x is None,
    )
    known = {'gradient': grads, 'weight': weights}
    return {
      name: tree
      for name, tree in known.items()
      if name in (self._drop, self._grow)
    }

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the mask of the steps that follow."""
    del grads
    return jax.lax.cond(
      self.is_due(ctx),
      lambda: masks.like(self._changed(masks.flat(memory), stats, ctx), memory),
      lambda: memory,
    )

  def _changed(
    self, mask: jax.Array, stats: dict[str, Any], ctx: Context
  ) -> jax.Array:
    """Returns the mask after some places are dropped and as many grown."""
    live = masks.kept(mask, 1 - self._sparsity)
    start = _drawn(mask.size, ctx, 0)
    mask = jnp.where(jnp.all(mask), masks.largest(start, live), mask)
    progress = jnp.minimum(ctx.step / ctx.get('num_steps'), 1)
    rate = self._drop_rate * (1 + jnp.cos(math.pi * progress)) / 2
    count = jnp.floor(live * rate).astype(jnp.int32)
    count = jnp.minimum(count, mask.size - live)
    drop, grow = (
      _drawn(mask.size, ctx, number)
      if name == 'random'
      else masks.flat(jax.tree.map(masks.magnitude, stats[name]))
      for number, name in enumerate((self._drop, self._grow), start=1)
    )
    kept = masks.largest(jnp.where(mask, drop, -jnp.inf), live - count)
    grown = masks.largest(jnp.where(mask, -jnp.inf, grow), count)
    return kept | grown


@registry.register('ssam_d', fixes=['mask'])
def ssam_d(
  rho: float = 0.1,
  sparsity: float = 0.5,
  drop_rate: float = 0.5,
  drop: str = 'gradient',
  grow: str = 'random',
  refresh: int = 400,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns sparse SAM with a mask of dynamic sparse training.

  .. math::
    \epsilon = \rho\, M \odot g / \|g\|_2, \qquad
    \tilde g = \nabla L(w + \epsilon)

  with the norm of the full gradient. M = 1 for the share 1 - s of all
  parameters, K of them, at random at first. In every so many steps, at the step
  t of T,

  .. math:: D = \lfloor K\, d\, (1 + \cos(\pi t / T)) / 2 \rfloor

  places with the lowest score are dropped from M, and as many grown, those with
  the highest score among those that were not in it. Scores are the magnitude of
  the gradient at w, of the weight, or random numbers. Two gradients in a step.
  The state is a bool for each parameter; the gradient at w is averaged over the
  devices like the other one if it is a score. In the first step there is no
  mask yet, and all is perturbed. With sparsity = 0 it is SAM, with rho = 0 it
  is SGD. The sparsity saves no time here, as in the authors' code; it needs no
  gradients of single examples, as `ssam_f` does. In a loop of one's own,
  `value_and_grad` needs a `key` and `num_steps`.

  Args:
    rho: radius of the full perturbation, in units of the parameters. The
      authors have 0.1 for CIFAR-10 and 0.2 for CIFAR-100.
    sparsity: s, share of the parameters that are not perturbed, in [0, 1); the
      authors have 0.5.
    drop_rate: d, share of M that is changed at the start of the run, in [0, 1];
      the authors have 0.5. No more is changed than is left out.
    drop: score of what is dropped: 'gradient', 'weight' or 'random'.
    grow: score of what is grown. Both defaults are ours; the authors' code
      takes them from the command line.
    refresh: steps from one change to the next. The authors have one in an
      epoch, which is 391 steps for CIFAR with their batch size of 128.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range, or a score is unknown.

  Source: Mi et al. 2022, algorithm 1. Differs from the authors' code: there the
  random mask is used in the first step too.
  """
  mask = Dynamic(sparsity, drop_rate, drop, grow, refresh)
  return create(rho, axes, mask=mask)


def _drawn(size: int, ctx: Context, number: int) -> jax.Array:
  """Returns random scores, the same on all devices."""
  key = jax.random.fold_in(ctx.get('step_key'), 0x55D)
  return jax.random.uniform(jax.random.fold_in(key, number), (size,))
