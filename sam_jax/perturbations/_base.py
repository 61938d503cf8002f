"""What all perturbations share: a radius, mesh axes, a choice of parameters."""

import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import arguments, balls, types

AxisName = str | tuple[str, ...] | None
# `(grads, params, axes) -> epsilon`, with norms over these mesh axes.
Climb = Callable[[types.Grads, types.Params, tuple[str, ...]], types.PyTree]


def none(grads: types.Grads, params: types.Params) -> types.PyTree:
  """Perturbs nothing: what `l2(0)` and all others of radius 0 return.

  `sam_jax.value_and_grad` recognises it and runs one pass instead of two.
  """
  del params
  return jax.tree.map(jnp.zeros_like, grads)


def create(
  climb: Climb, rho: types.Scalar, axis_name: AxisName, **words: str
) -> types.Perturbation:
  """Returns a perturbation with a radius; `none` if that is the number 0.

  Args:
    climb: its formula.
    rho: the radius, a number or a traced scalar.
    axis_name: mesh axes of `jax.shard_map` over which parameters are split.
    **words: name and kind of the radius in messages, see `arguments.radius`.

  Raises:
    TypeError: rho is no number, or axis_name no name.
    ValueError: rho is a number and negative, infinite or NaN.
  """
  axes = arguments.axes(axis_name)
  arguments.radius(rho, **words)
  if isinstance(rho, numbers.Real) and rho == 0:
    return none

  @over(axes)
  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    return climb(grads, params, axes)

  return perturb


def over(
  axis_name: AxisName,
) -> Callable[[types.Perturbation], types.Perturbation]:
  """Says of a perturbation over which mesh axes its norms are; a decorator."""

  def declare(perturb: types.Perturbation) -> types.Perturbation:
    vars(perturb)['axis_name'] = arguments.axes(axis_name)
    return perturb

  return declare


def axes_of(perturbation: types.Perturbation) -> tuple[str, ...]:
  """Returns the mesh axes over which the norms of a perturbation are."""
  return arguments.axes(getattr(perturbation, 'axis_name', None))


def rounded(epsilon: types.PyTree, grads: types.Grads) -> types.PyTree:
  """Returns epsilon in the dtypes of the gradient."""
  return balls.each(lambda g, e: e.astype(jnp.asarray(g).dtype), grads, epsilon)


def chosen(
  mask: types.PyTree, grads: types.Grads, params: types.Params
) -> types.PyTree:
  """Returns a mask as a tree of bools like the gradient.

  Args:
    mask: a tree of bools, where a bool may stand for a whole branch of the
      parameters, or a function that makes one of the parameters.
    grads: the gradient.
    params: the parameters.

  Raises:
    TypeError: it has something else than bools.
    ValueError: it is no tree like the gradient.
  """
  mask = mask(params) if callable(mask) else mask
  for leaf in jax.tree.leaves(mask):
    if not isinstance(leaf, bool | np.bool_):
      raise TypeError(
        f'the mask holds {leaf!r}; it must be a tree of bools, known before '
        'tracing, or a function that makes one of the parameters'
      )
  try:
    return jax.tree.map(
      lambda is_chosen, branch: jax.tree.map(lambda _: bool(is_chosen), branch),
      mask,
      grads,
    )
  except ValueError as error:
    raise ValueError(
      'the mask is no tree like the parameters: it has the structure '
      f'{jax.tree.structure(mask)}, and they have {jax.tree.structure(grads)}'
    ) from error
