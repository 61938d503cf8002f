"""What an analysis can be made of; the rest is refused at the call."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import types


def batches(found: Any) -> None:
  """Refuses what is no collection of batches that can be walked repeatedly.

  Args:
    found: trees of arrays, or a function that returns them anew.

  Raises:
    ValueError: it is a single batch, an array, or can be walked once only.
  """
  if callable(found):
    return
  advice = 'give a list of batches, or a function that returns them anew'
  if isinstance(found, Iterator):
    raise ValueError(
      f'batches is a {type(found).__name__}, which can be walked once, and '
      f'each value, gradient or product walks all of them; {advice}'
    )
  _refuse_single('batches', found, f'one batch is [batch]; {advice}')


def groups(found: Any) -> None:
  """Refuses what is no collection of groups.

  Args:
    found: the batches of each group.

  Raises:
    ValueError: it is a single batch, or an array.
  """
  _refuse_single(
    'groups',
    found,
    'give a list with the batches of each group, [[batch], ...]',
  )


def _refuse_single(name: str, found: Any, advice: str) -> None:
  """Refuses an array, a mapping, a text, and what cannot be walked."""
  is_walked = isinstance(found, Iterable) and not isinstance(
    found, Mapping | str | bytes
  )
  if not is_walked or hasattr(found, 'dtype'):
    shape = f' of shape {list(found.shape)}' if hasattr(found, 'shape') else ''
    raise ValueError(f'{name} is a {type(found).__name__}{shape}; {advice}')


def rows(batch: types.PyTree) -> int:
  """Returns the number of examples of a batch.

  Raises:
    ValueError: it has none, or its arrays disagree.
  """
  shapes = {
    jax.tree_util.keystr(path) or 'batch': np.shape(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
  }
  counts = {shape[0] if shape else 0 for shape in shapes.values()}
  if len(counts) != 1 or counts == {0}:
    raise ValueError(
      f'a batch has arrays of shapes {shapes}; each has the examples in front, '
      'as many as the others and at least one'
    )
  return counts.pop()


def losses(found: Any, count: int) -> bool:
  """Returns whether a loss is the mean of its batch.

  Args:
    found: what the loss function returns, as shapes.
    count: examples of the batch.

  Raises:
    ValueError: it is neither a mean nor one number for each example.
  """
  wanted = f'one loss per example, [{count}], or their mean, a scalar'
  if not isinstance(found, jax.ShapeDtypeStruct):
    raise ValueError(
      f'loss_fn returns a {type(found).__name__} of '
      f'{len(jax.tree.leaves(found))} arrays; it must return {wanted}, and '
      'nothing besides: leave the aux out'
    )
  if not jnp.issubdtype(found.dtype, jnp.floating):
    raise ValueError(
      f'loss_fn returns {found.dtype}; it must return floating-point numbers, '
      f'{wanted}'
    )
  if found.shape not in ((), (count,)):
    raise ValueError(
      f'loss_fn returns {list(found.shape)} for a batch of {count}; it must '
      f'return {wanted}'
    )
  return found.shape == ()


def params(found: types.PyTree) -> None:
  """Refuses parameters that cannot be differentiated.

  `None` is no leaf: it is handed to the loss as it is.

  Args:
    found: a tree of arrays.

  Raises:
    ValueError: there are none, or one is no floating-point array; the message
      names it.
  """
  leaves = jax.tree_util.tree_leaves_with_path(found)
  if not leaves:
    raise ValueError('params has no arrays; there is nothing to differentiate')
  for path, leaf in leaves:
    dtype = getattr(leaf, 'dtype', None)
    if dtype is None and isinstance(leaf, float):
      continue
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
      what = type(leaf).__name__ if dtype is None else dtype
      raise ValueError(
        f'params{jax.tree_util.keystr(path)} is {what}; parameters are '
        'floating-point arrays: let the loss close over what is not to be '
        'differentiated, or put None in its place'
      )


def alike(name: str, found: types.PyTree, like: types.PyTree) -> None:
  """Refuses a tree that is not like the parameters.

  Args:
    name: of the tree, for the message.
    found: the tree.
    like: the parameters.

  Raises:
    ValueError: its structure or a shape differs.
  """
  shapes = [
    {
      jax.tree_util.keystr(path): np.shape(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (found, like)
  ]
  for path in shapes[0] | shapes[1]:
    here, there = (known.get(path, 'missing') for known in shapes)
    if here != there:
      raise ValueError(f'{name}{path} is {here}, and params{path} is {there}')


def positive(**numbers: Any) -> None:
  """Refuses what is no whole number of at least one.

  Raises:
    ValueError: the message names the number.
  """
  for name, number in numbers.items():
    is_whole = isinstance(number, int | np.integer)
    if not is_whole or isinstance(number, bool) or number < 1:
      raise ValueError(f'{name} is {number!r}; it must be at least 1')
