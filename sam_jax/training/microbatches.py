"""Means over the pieces of a batch that one device holds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sam_jax import convolutions, tree, types

_Both = Callable[[types.PyTree], tuple[types.PyTree, types.PyTree]]

LOOPS = ('scan', 'unroll', 'vmap')


def mean(
  fn: Callable[[types.PyTree], types.PyTree], pieces: types.PyTree, loop: str
) -> types.PyTree:
  """Returns the mean of `fn(piece)` over the leading axis of `pieces`.

  Args:
    fn: maps one piece to a tree of floating-point arrays.
    pieces: tree of arrays `[num_pieces, ...]`.
    loop: 'scan' has one copy of fn in the program and the memory of one piece;
      'unroll' has a copy for each piece, and 'vmap' computes all at once.
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
  fn = convolutions.canonical(fn)

  def body(
    total: types.PyTree, piece: types.PyTree
  ) -> tuple[types.PyTree, types.PyTree]:
    found, row = fn(piece)
    return _add(total, found), row

  shapes, _ = jax.eval_shape(fn, _piece(pieces, 0))
  return jax.lax.scan(body, jax.tree.map(tree.zeros, shapes), pieces)
