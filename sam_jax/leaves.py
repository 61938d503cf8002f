"""Which leaves of a tree of parameters have a gradient, and how they move.

A gradient need not be a tree like the parameters. `jax.value_and_grad` returns
one, but with float0 for integers; Equinox has None for what is no float, and
`flax.nnx` returns a State for a module. What belongs together is found by
position where the two are of one structure, else by the names on the way from
the root, which are the same in a module, a State and a dictionary.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import tree, types

_Path = tuple[str, ...]


def is_float(x: Any) -> bool:
  """Whether a leaf is a real or complex number, or an array of such."""
  dtype = getattr(x, 'dtype', None)
  if dtype is None:
    return isinstance(x, float | complex)
  return jnp.issubdtype(dtype, jnp.inexact)


def wide_zeros(params: types.Params) -> types.PyTree:
  """Returns what a tree of gradients is remembered in, before there is one.

  Args:
    params: tree of parameters.

  Returns:
    A tree like it of zeros in at least float32; None for what is no float.
  """
  return jax.tree.map(
    lambda p: tree.wide(jnp.zeros_like(p)) if is_float(p) else None, params
  )


def kept(memory: types.PyTree, values: types.PyTree) -> types.PyTree:
  """Returns values in the dtypes of a memory, and the old ones for None.

  Args:
    memory: as `wide_zeros` returned it.
    values: a tree like the gradient.
  """
  return jax.tree.map(
    lambda m, x: m if x is None else x.astype(m.dtype), memory, values
  )


def differentiable(grads: types.Grads) -> types.Grads:
  """Returns a gradient with None for float0: no derivative, no perturbation."""
  return jax.tree.map(lambda g: None if tree.is_float0(g) else g, grads)


def float0_of(grads: types.Grads) -> types.PyTree:
  """Returns a gradient with 0 for whatever is not float0, for `with_float0`.

  It holds no traced value, and so may leave the branch that computes it.
  """
  return jax.tree.map(lambda g: g if tree.is_float0(g) else 0, grads)


def with_float0(values: types.PyTree, grads: types.Grads) -> types.PyTree:
  """Returns a tree with the float0 of a gradient in place of its None.

  Args:
    values: any tree; one that is not like the gradient is left as it is.
    grads: as `differentiate` returned it, or what `float0_of` made of that.
  """
  leaves = jax.tree.leaves(grads)
  if not any(map(tree.is_float0, leaves)):
    return values
  if not _is_like(values, jax.tree.structure(differentiable(grads))):
    return values
  moving = iter(jax.tree.leaves(values))
  filled = [g if tree.is_float0(g) else next(moving) for g in leaves]
  return jax.tree.unflatten(jax.tree.structure(grads), filled)


class Parameters:
  """A tree of parameters, as it is before a function is called with it.

  A module of `flax.nnx` is not the same afterwards: the function may have
  updated statistics and counted the random numbers that it drew. Both passes
  are to start from the same.
  """

  def __init__(self, params: types.Params) -> None:
    """Takes a tree whose leaves may be anything.

    Args:
      params: the tree.
    """
    self._params = params
    self._leaves, self._structure = jax.tree.flatten(params)

  def like(self, grads: types.Grads) -> types.Params:
    """Returns the parameters that have a gradient, in its structure.

    Raises:
      ValueError: it is the gradient of something else.
    """
    _, structure = jax.tree.flatten(grads)
    try:
      places = self._places(grads)
    except ValueError as error:
      raise ValueError(
        f'the gradient is no tree like the parameters: {error}; differentiate '
        'has to return (out, grads), with the gradient of the first argument '
        'alone (no argnums)'
      ) from error
    params = [jnp.asarray(self._leaves[i]) for i in places]
    for param in params:
      if float(jnp.finfo(param.dtype).min) >= 0:
        raise ValueError(
          f'a parameter has the dtype {param.dtype}, which has neither zero '
          'nor signs, and so no gradient to climb along; cast it to another'
        )
    return jax.tree.unflatten(structure, params)

  def replaced(self, values: types.PyTree) -> types.Params:
    """Returns the parameters with other values for those in a tree."""
    return self._with(self._places(values), jax.tree.leaves(values))

  def moved(self, epsilon: types.PyTree) -> types.Params:
    """Returns params + epsilon in the dtypes of params; None adds nothing.

    Raises:
      ValueError: epsilon has a leaf that is no parameter, or another shape.
    """
    try:
      places = self._places(epsilon)
    except ValueError as error:
      raise ValueError(
        f'the perturbation returned no tree like the gradient: {error}'
      ) from error
    steps = jax.tree.leaves(epsilon)
    return self._with(
      places,
      [
        tree.add(self._leaves[i], e) for i, e in zip(places, steps, strict=True)
      ],
    )

  def added(self, epsilon: types.PyTree, moved: types.Params) -> types.PyTree:
    """Returns epsilon as it is after rounding, where that is coarse.

    A perturbation that is small beside a bfloat16 parameter is lost when the
    two are added. Parameters of float32 and more have it as it was.

    Args:
      epsilon: the perturbation.
      moved: what `moved` made of it.
    """
    places, moved_leaves = self._places(epsilon), jax.tree.leaves(moved)

    def round_off(i: int, e: Any) -> Any:
      param = jnp.asarray(self._leaves[i])
      if tree.wide(param).dtype == param.dtype:
        return e
      return tree.add(moved_leaves[i], -tree.wide(param))

    steps, structure = jax.tree.flatten(epsilon)
    return jax.tree.unflatten(structure, map(round_off, places, steps))

  def _with(self, places: Sequence[int], values: Sequence[Any]) -> types.Params:
    """Returns the parameters with some leaves replaced."""
    leaves = list(self._leaves)
    for i, value in zip(places, values, strict=True):
      leaves[i] = value
    return jax.tree.unflatten(self._structure, leaves)

  def _places(self, values: types.PyTree) -> Sequence[int]:
    """Returns the place of each leaf of a tree among the parameters.

    Raises:
      ValueError: a leaf is no parameter, or has another shape.
    """
    leaves = jax.tree.leaves(values)
    if _is_like(values, self._structure):
      places: Sequence[int] = range(len(leaves))
    else:
      places = self._places_by_name(values)
    for i, leaf in zip(places, leaves, strict=True):
      expected, found = _kind(self._leaves[i]), _kind(leaf)
      if found != expected:
        name = '/'.join(_names(self._params)[i]) or 'the parameter'
        raise ValueError(f'{name} is {expected}, and for it there is {found}')
    return places

  def _places_by_name(self, values: types.PyTree) -> Sequence[int]:
    """Returns the same where the structures differ."""
    known = {name: i for i, name in enumerate(_names(self._params))}
    names = _names(values)
    if unknown := ['/'.join(name) for name in names if name not in known]:
      raise ValueError(
        f'{unknown[0] or "its only leaf"!r} is not among the parameters '
        f'{", ".join("/".join(name) for name in known)[:200]!r}'
      )
    return [known[name] for name in names]


def _is_like(values: types.PyTree, structure: Any) -> bool:
  """Whether a tree has a structure, None included."""
  return jax.tree.structure(values) == structure


def _kind(x: Any) -> str:
  """Returns what has to agree between a parameter and its perturbation."""
  if not hasattr(x, 'shape') and not isinstance(x, numbers.Number):
    return f'a {type(x).__name__}'
  return (
    f'{"complex" if jnp.iscomplexobj(x) else "real"} of shape {np.shape(x)}'
  )


def _names(values: types.PyTree) -> list[_Path]:
  """Returns of each leaf the names on the way from the root."""
  paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(values)[0]]
  return [
    tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
    for path in paths
  ]
