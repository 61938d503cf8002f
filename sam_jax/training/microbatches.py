"""Means over the pieces of a batch that one device holds."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sam_jax import lookup, tree, types

LOOPS = ('auto', 'scan', 'unroll', 'vmap')

# Compile time grows with every unrolled piece; beyond this many, one slower
# vmapped piece is the better bargain on CPU (WRN-28-1: 8 pieces take 22 s).
_MAX_UNROLLED = 8


def resolve(loop: str, platform: str, num_pieces: int) -> str:
  """Returns how to walk the pieces: 'scan', 'unroll' or 'vmap'.

  Args:
    loop: one of `LOOPS`; 'auto' is 'scan' on an accelerator, where it bounds
      memory to one piece, and never on CPU, where a convolution inside a loop
      runs about 20 times slower.
    platform: 'cpu', 'gpu' or 'tpu'.
    num_pieces: pieces per device.

  Raises:
    ValueError: an unknown loop.
  """
  lookup.check('microbatch_loop', loop, LOOPS)
  if loop != 'auto':
    return loop
  if platform != 'cpu':
    return 'scan'
  return 'unroll' if num_pieces <= _MAX_UNROLLED else 'vmap'


def mean(
  fn: Callable[[types.PyTree], types.PyTree], pieces: types.PyTree, loop: str
) -> types.PyTree:
  """Returns the mean of `fn(piece)` over the leading axis of `pieces`.

  Args:
    fn: maps one piece to a tree of floating-point arrays.
    pieces: tree of arrays `[num_pieces, ...]`.
    loop: 'scan' (memory of one piece), 'unroll' or 'vmap'.
  """
  return mean_and_each(lambda piece: (fn(piece), ()), pieces, loop)[0]


def each(
  fn: Callable[[types.PyTree], types.PyTree], pieces: types.PyTree, loop: str
) -> types.PyTree:
  """Returns `fn(piece)` of each piece, along a leading axis; see `mean`."""
  return mean_and_each(lambda piece: ((), fn(piece)), pieces, loop)[1]


def mean_and_each(
  fn: Callable[[types.PyTree], tuple[types.PyTree, types.PyTree]],
  pieces: types.PyTree,
  loop: str,
) -> tuple[types.PyTree, types.PyTree]:
  """Returns the mean of the first part of `fn(piece)`, and each second part.

  Args:
    fn: maps one piece to two trees.
    pieces: see `mean`.
    loop: see `mean`.
  """
  count = jax.tree.leaves(pieces)[0].shape[0]
  if count == 1:
    first, second = fn(_piece(pieces, 0))
    return first, jax.tree.map(lambda x: x[None], second)
  if loop == 'vmap':
    firsts, seconds = jax.vmap(fn)(pieces)
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), firsts), seconds
  walk = _scan if loop == 'scan' else _unrolled
  total, seconds = walk(fn, pieces, count)
  return jax.tree.map(lambda x: x / count, total), seconds


def _piece(pieces: types.PyTree, index: int) -> types.PyTree:
  """Returns one piece."""
  return jax.tree.map(lambda x: x[index], pieces)


def _add(a: types.PyTree, b: types.PyTree) -> types.PyTree:
  """Adds two trees."""
  return jax.tree.map(jnp.add, a, b)


def _unrolled(
  fn: Callable[[types.PyTree], tuple[types.PyTree, types.PyTree]],
  pieces: types.PyTree,
  count: int,
) -> tuple[types.PyTree, types.PyTree]:
  """Sums and stacks, with one copy of fn in the program for each piece."""
  firsts, seconds = zip(
    *(fn(_piece(pieces, i)) for i in range(count)), strict=True
  )
  total = functools.reduce(_add, firsts)
  return total, jax.tree.map(lambda *x: jnp.stack(x), *seconds)


def _scan(
  fn: Callable[[types.PyTree], tuple[types.PyTree, types.PyTree]],
  pieces: types.PyTree,
  count: int,
) -> tuple[types.PyTree, types.PyTree]:
  """Sums and stacks, with one copy of fn in the program."""
  del count

  def body(
    total: types.PyTree, piece: types.PyTree
  ) -> tuple[types.PyTree, types.PyTree]:
    first, second = fn(piece)
    return _add(total, first), second

  shapes, _ = jax.eval_shape(fn, _piece(pieces, 0))
  return jax.lax.scan(body, jax.tree.map(tree.zeros, shapes), pieces)
