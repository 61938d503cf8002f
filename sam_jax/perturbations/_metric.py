"""Balls that are stretched: what ASAM and its relatives have in common."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sam_jax import balls, tree, types
from sam_jax.perturbations import _base

# `(w, g, axes) -> T`: how far a tensor's ball is stretched along each number,
# of the parameter and its gradient in at least float32.
Stretch = Callable[[jax.Array, jax.Array, tuple[str, ...]], jax.Array]


def stretched(
  ascend: types.Perturbation, stretch: Stretch, mask: types.PyTree = None
) -> types.Perturbation:
  """Returns T ascend(T g), whose unstretched length is that of `ascend`.

  Args:
    ascend: in the coordinates in which the ball is not stretched.
    stretch: returns T of a tensor, real, of its shape or a scalar.
    mask: for which parameters, see `masked`; the others have T = 1. None: all.
  """
  if ascend is _base.none:
    return _base.none
  axes = _base.axes_of(ascend)

  @_base.over(axes)
  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    is_stretched = _base.chosen(True if mask is None else mask, grads, params)

    def factor(w: jax.Array, g: jax.Array, is_chosen: bool) -> jax.Array:
      if g is None or tree.is_float0(g):
        return g
      if not is_chosen:
        return jnp.ones((), tree.real_dtype(g))
      return stretch(tree.wide(w), tree.wide(g), axes)

    factors = jax.tree.map(factor, params, grads, is_stretched)
    ascended = ascend(times(factors, grads), params)
    return _base.rounded(times(factors, ascended), grads)

  return perturb


def times(factors: types.PyTree, values: types.PyTree) -> types.PyTree:
  """Returns products, in at least float32; float0 stays."""
  return balls.each(
    lambda x, factor: tree.times(factor, tree.wide(x)), values, factors
  )
