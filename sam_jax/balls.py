"""Where a linear function is largest in a ball: the formulas of all norms.

The functions named after balls take gradients and return epsilon, a tree like
them: the point of an l-p ball of radius rho. The others are what all formulas
are made of: norms of a tree and of one tensor. Over mesh axes, a norm is that
of the slices of all devices, see `perturbations`. A complex number counts by
its magnitude. float0, which stands for no gradient, stays.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sam_jax import tree, types

_Axes = tuple[str, ...]


def round_ball(
  grads: types.Grads, rho: types.Scalar, axes: _Axes
) -> types.PyTree:
  """Returns the point for p = 2: along the gradient."""
  length, is_zero = norm(grads, axes)
  factor = jnp.where(is_zero, 0, like(rho, length) / length)
  return along(grads, factor)


def norm(grads: types.PyTree, axes: _Axes) -> tuple[jax.Array, jax.Array]:
  """Returns the Euclidean norm, 1 in place of 0, and whether it is 0."""
  squared = _sum(grads, axes, lambda part: tree.vdot(part, part))
  is_zero = squared == 0
  return jnp.sqrt(jnp.where(is_zero, 1, squared)), is_zero


def along(grads: types.Grads, factor: jax.Array) -> types.PyTree:
  """Returns a multiple of the gradient, uphill."""
  return each(lambda g: tree.scale(factor, _uphill(g)), grads)


def cube(grads: types.Grads, rho: types.Scalar, axes: _Axes) -> types.PyTree:
  """Returns the limit p = inf: every weight moves by rho."""
  del axes  # no norm
  return each(lambda g: tree.scale(jnp.asarray(rho), _sign(g)), grads)


def cross(grads: types.Grads, rho: types.Scalar, axes: _Axes) -> types.PyTree:
  """Returns the limit p = 1: all of rho where |g| is largest."""
  largest = _largest(grads, axes)
  # A product with a mask would turn a NaN into 0 where XLA makes it a select.
  at_largest = each(
    lambda g: jnp.where(_magnitude(g, largest) < largest, 0, _sign(g)), grads
  )
  ties = _sum(at_largest, axes, lambda part: tree.vdot(part, part))
  factor = like(rho, ties) / jnp.where(ties == 0, 1, ties)
  return each(lambda sign: tree.scale(factor, sign), at_largest)


def between(
  grads: types.Grads, rho: types.Scalar, axes: _Axes, *, p: float
) -> types.PyTree:
  """Returns the point for any other p in (1, inf)."""
  q = p / (p - 1)
  # The formula does not depend on the gradient's scale, but |g|^q overflows
  # for p near 1, where q is large: scale to [0, 1] first.
  largest = nonzero(_largest(grads, axes))
  units = each(lambda g: _magnitude(g, largest) / largest, grads)

  def sum_of_powers(part: list[jax.Array]) -> jax.Array:
    packed = tree.pack(part, largest.dtype)
    return tree.sum_scalars([jnp.sum(_power(u, q)) for u in packed])

  total = _sum(units, axes, sum_of_powers)
  factor = like(rho, largest) / nonzero(total) ** (1 / p)

  def climb(g: jax.Array, unit: jax.Array) -> jax.Array:
    return tree.scale(factor * _power(unit, q - 1), _sign(g))

  return each(climb, grads, units)


def each(
  fn: Callable[..., Any], grads: types.Grads, *others: types.PyTree
) -> types.PyTree:
  """Applies a function to all leaves but the float0 of what has no gradient."""
  return jax.tree.map(
    lambda g, *rest: g if tree.is_float0(g) else fn(g, *rest), grads, *others
  )


def tensor_norm(x: jax.Array, axes: _Axes) -> jax.Array:
  """Returns the Euclidean norm of one tensor, and of its other slices."""
  length, is_zero = norm([x], axes)
  return jnp.where(is_zero, 0, length)


def tensor_max(x: jax.Array, axes: _Axes) -> jax.Array:
  """Returns the largest magnitude of one tensor; 0 if it is empty."""
  largest = jnp.max(jnp.abs(tree.wide(x)), initial=0)
  # There is no derivative of `pmax`.
  return jnp.max(gathered(largest, axes))


def gathered(x: jax.Array, axes: _Axes) -> jax.Array:
  """Returns the slices of all devices along a new first axis, or x."""
  _check_tracked(axes)
  split = tuple(axis for axis in axes if axis in tree.varying(x))
  return jax.lax.all_gather(x, split) if split else x


def like(rho: types.Scalar, other: jax.Array) -> jax.Array:
  """Returns a number, such as a radius, in the dtype of a sum."""
  return jnp.asarray(rho).astype(other.dtype)


def nonzero(x: jax.Array) -> jax.Array:
  """Returns x, or 1 where it is zero."""
  return jnp.where(x == 0, 1, x)


def _sum(
  grads: types.Grads,
  axes: tuple[str, ...],
  measure: Callable[[list[jax.Array]], jax.Array],
) -> jax.Array:
  """Adds a measure of all leaves, and of the slices of other devices."""
  _check_tracked(axes)
  dtype = tree.real_dtype(grads)
  return tree.sum_over(axes, lambda part: measure(part).astype(dtype), grads)


def _largest(grads: types.Grads, axes: tuple[str, ...]) -> jax.Array:
  """Returns the largest magnitude in the tree; NaN if there is one."""
  _check_tracked(axes)
  zero = jnp.zeros((), tree.real_dtype(grads))
  found = []
  for split, leaves in tree.by_split(grads, axes).items():
    sizes = each(lambda g: _magnitude(g, zero), leaves)
    maxima = [jnp.max(x) for x in tree.pack(sizes, zero.dtype) if x.size]
    if maxima:
      # No perturbation depends on the length of the gradient: no derivative.
      # Sorted for the reason that `tree.sum_scalars` has.
      largest = jax.lax.stop_gradient(jnp.sort(jnp.stack(maxima))[-1])
      found.append(jax.lax.pmax(largest, split) if split else largest)
  return functools.reduce(jnp.maximum, found) if found else zero


def _check_tracked(axes: tuple[str, ...]) -> None:
  """Refuses mesh axes of which JAX does not know what varies over them.

  Raises:
    ValueError: the message says how to let it know.
  """
  for axis in axes:
    if axis not in tree.varying(jax.lax.axis_index(axis)):
      raise ValueError(
        f'axis_name has {axis!r}, an axis of which JAX does not track what '
        'varies over it, so leaves that are split and leaves that are not '
        'cannot be told apart; use jax.shard_map with check_vma=True'
      )


def _magnitude(g: Any, like: jax.Array) -> jax.Array:
  """Returns magnitudes, in the dtype of a number."""
  return jnp.abs(tree.wide(g)).astype(like.dtype)


def _uphill(g: Any) -> jax.Array:
  """Returns the direction of ascent: JAX has its conjugate for a gradient."""
  return jnp.conj(g) if jnp.iscomplexobj(g) else g


def _sign(g: Any) -> jax.Array:
  """Returns the direction of ascent of each number, of magnitude 1 or 0."""
  if not jnp.iscomplexobj(g):
    return jnp.sign(g)
  return tree.times(1 / nonzero(jnp.abs(g)), jnp.conj(g))


def _power(x: jax.Array, exponent: float) -> jax.Array:
  """Returns x ** exponent, and 0 where x is; differentiable there too."""
  is_zero = x == 0
  return jnp.where(is_zero, 0, jnp.where(is_zero, 1, x) ** exponent)
