"""Means over the pieces of a batch that one device holds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sam_jax import lookup, tree, types

_Both = Callable[[types.PyTree], tuple[types.PyTree, types.PyTree]]

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
  fn: _Both, pieces: types.PyTree, loop: str
) -> tuple[types.PyTree, types.PyTree]:
  """Returns the `mean` of the first thing that fn returns, `each` second."""
  count = jax.tree.leaves(pieces)[0].shape[0]
  if loop == 'vmap' and count > 1:
    found, rows = jax.vmap(fn)(pieces)
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), found), rows
  sum_up = _scan if loop == 'scan' and count > 1 else _unroll
  total, rows = sum_up(fn, pieces, count)
  return jax.tree.map(lambda x: x / count, total) if count > 1 else total, rows


def _piece(pieces: types.PyTree, index: int) -> types.PyTree:
  """Returns one piece."""
  return jax.tree.map(lambda x: x[index], pieces)


def _add(a: types.PyTree, b: types.PyTree) -> types.PyTree:
  """Adds two trees."""
  return jax.tree.map(jnp.add, a, b)


def _unroll(
  fn: _Both, pieces: types.PyTree, count: int
) -> tuple[types.PyTree, types.PyTree]:
  """Sums with one copy of fn in the program for each piece."""
  total, first = fn(_piece(pieces, 0))
  rows = [first]
  for i in range(1, count):
    found, row = fn(_piece(pieces, i))
    total = _add(total, found)
    rows.append(row)
  return total, jax.tree.map(lambda *x: jnp.stack(x), *rows)


def _scan(
  fn: _Both, pieces: types.PyTree, count: int
) -> tuple[types.PyTree, types.PyTree]:
  """Sums with one copy of fn in the program."""
  del count

  def body(
    total: types.PyTree, piece: types.PyTree
  ) -> tuple[types.PyTree, types.PyTree]:
    found, row = fn(piece)
    return _add(total, found), row

  shapes, _ = jax.eval_shape(fn, _piece(pieces, 0))
  return jax.lax.scan(body, jax.tree.map(tree.zeros, shapes), pieces)
