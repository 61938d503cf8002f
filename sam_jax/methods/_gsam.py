"""GSAM: the surrogate gap is minimised besides the perturbed loss."""

import functools
import math
from typing import Unpack

import jax

from sam_jax import tree, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Unscheduled, create


@parts.COMBINES.register('gsam')
def _combine(alpha: float = 0.6, minimize_fp: bool = True) -> parts.Combine:
  """Returns what takes away, or adds, alpha times the orthogonal part.

  Raises:
    ValueError: alpha is negative, infinite or NaN.
  """
  if not 0 <= alpha < math.inf:
    raise ValueError(f'alpha is {alpha}; it must be a number >= 0')
  combine = _subtract_orthogonal if minimize_fp else _add_orthogonal
  return functools.partial(combine, alpha=float(alpha))


@registry.register('gsam', fixes=['combine'])
def gsam(
  rho: float = 0.6,
  alpha: float = 0.6,
  minimize_fp: bool = True,
  rho_schedule: str = 'learning_rate',
  rho_min: float | None = None,
  **axes: Unpack[Unscheduled],
) -> base.Method:
  r"""Returns Surrogate Gap Guided Sharpness-Aware Minimization.

  .. math::
    g_p = \nabla L(w + \rho_t\, g / \|g\|_2), \qquad
    \tilde g = g_p - \alpha \left(g -
      \frac{\langle g, g_p\rangle}{\|g_p\|^2}\, g_p\right)

  What is subtracted is the part of g that is orthogonal to g_p: to follow it
  backwards lowers the surrogate gap L(w + epsilon) - L(w) and, to first order,
  leaves the perturbed loss. The second form, with minimize_fp = False, lowers
  the loss itself and the gap,

  .. math::
    \tilde g = g + \alpha \left(g_p -
      \frac{\langle g_p, g\rangle}{\|g\|^2}\, g\right)

  Two gradients in a step. With alpha = 0 and a constant rho the first form is
  SAM, and the second one is SGD whatever rho is. Use the first form; the second
  one is for comparisons with the authors' code. Both gradients are of the loss
  that is trained: weight decay with `place='descent'` takes part in the
  perturbation too.

  Args:
    rho: the largest radius; the authors have 0.6 for ViT-B/32 on ImageNet.
    alpha: share of the orthogonal part, >= 0; the authors have 0.6 there.
    minimize_fp: whether the perturbed loss is what is lowered besides the gap,
      as in the paper, or the loss.
    rho_schedule: see `radius.create`. The authors' radius follows the learning
      rate, the actual one of the step, and so does the default.
    rho_min: see `radius.create`; the authors have 0.1 there, and the default
      is 0. It is refused with a constant radius.
    **axes: other choices on the axes, see `Unscheduled`.

  Raises:
    ValueError: a value is out of range.

  Source: Zhuang et al. 2022, algorithm 1; the second form is that of the
  option `minimize_fp=False` in the authors' code (big_vision). As there, each
  group has a radius, a perturbation and a decomposition of its own. Differs
  from that code: there the smallest learning rate is subtracted before the
  radius is scaled, here it counts as 0; a zero gradient is NaN there.
  """
  schedule = {'rho_schedule': rho_schedule, 'rho_min': rho_min}
  return create(rho, {**axes, **schedule}, combine=_combine(alpha, minimize_fp))


def _subtract_orthogonal(
  ascent_grads: types.Grads, descent_grads: types.Grads, alpha: float
) -> types.Grads:
  """Returns the descent gradient less alpha times what is orthogonal to it."""
  if alpha == 0:
    return descent_grads
  share = tree.projection(ascent_grads, descent_grads)

  def subtract(g: jax.Array, d: jax.Array) -> jax.Array:
    orthogonal = tree.wide(g) - tree.times(share, tree.wide(d))
    return tree.add(d, -alpha * orthogonal)

  return jax.tree.map(subtract, ascent_grads, descent_grads)


def _add_orthogonal(
  ascent_grads: types.Grads, descent_grads: types.Grads, alpha: float
) -> types.Grads:
  """Returns the ascent gradient and alpha times what is orthogonal to it."""
  if alpha == 0:
    return ascent_grads
  share = tree.projection(descent_grads, ascent_grads)

  def add(g: jax.Array, d: jax.Array) -> jax.Array:
    orthogonal = tree.wide(d) - tree.times(share, tree.wide(g))
    return tree.add(g, alpha * orthogonal)

  return jax.tree.map(add, ascent_grads, descent_grads)
