"""Inner products over whole pytrees, and mesh axes over which leaves vary.

Inner products are accumulated in at least float32: `optax.tree` has the same
functions in the dtype of the leaves, and a norm over millions of bfloat16
gradients needs more digits than that.
"""

import functools
import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from sam_jax import types

_SMALL = 2**13  # elements


def wide(x: jax.Array) -> jax.Array:
  """Casts an array to float32, or leaves what is wider already."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def vdot(a: types.PyTree, b: types.PyTree) -> jax.Array:
  """Returns the inner product of two trees of the same structure, a scalar."""
  pairs = zip(_pack(a), _pack(b), strict=True)
  return _sum([jnp.sum(x * y) for x, y in pairs])


def _pack(tree: types.PyTree) -> list[jax.Array]:
  """Returns the leaves in at least float32, all small ones in one vector.

  A sum over a vector of BatchNorm's is as many kernels, to compile and to
  launch, as one over a convolution's; most leaves are such vectors.
  """
  leaves = [wide(leaf) for leaf in jax.tree.leaves(tree)]
  if any(map(_is_sharded, leaves)):
    return leaves
  small = [leaf.ravel() for leaf in leaves if leaf.size < _SMALL]
  large = [leaf for leaf in leaves if leaf.size >= _SMALL]
  return [*large, jnp.concatenate(small)] if small else large


def _is_sharded(leaf: jax.Array) -> bool:
  """Whether a leaf is cut along explicit mesh axes: such cannot be joined."""
  return any(axis is not None for axis in jax.typeof(leaf).sharding.spec)


@jax.custom_jvp
def _sum(terms: list[jax.Array]) -> jax.Array:
  """Adds scalars, the smallest first.

  The sort is there for XLA:CPU. It would copy a plain chain of additions into
  whatever uses the sum, such as the perturbation of every leaf, and so compile
  for a time that grows with the square of the number of leaves: PyramidNet-272
  has 997. No such copy passes a sort; an optimization barrier keeps from it in
  newer versions only.
  """
  return jnp.sum(jnp.sort(jnp.stack(terms))) if terms else jnp.float32(0)


@_sum.defjvp
def _sum_jvp(
  primals: tuple[list[jax.Array]], tangents: tuple[list[jax.Array]]
) -> tuple[jax.Array, jax.Array]:
  """The derivative of a sum; that of the sort would depend on the values."""
  total = functools.reduce(operator.add, tangents[0], jnp.float32(0))
  return _sum(primals[0]), total


def norm(tree: types.PyTree) -> jax.Array:
  """Returns the Euclidean norm of all leaves together, a scalar."""
  return jnp.sqrt(vdot(tree, tree))


def cosine(a: types.PyTree, b: types.PyTree) -> jax.Array:
  """Returns the cosine of the angle between two trees; 0 if one is zero."""
  # One after the other: the product of two squares is soon out of range.
  return vdot(a, b) * inverse_norm(a) * inverse_norm(b)


def inverse_norm(tree: types.PyTree) -> jax.Array:
  """Returns 1 / norm of all leaves together; 0, and derivative 0, for zero."""
  squared = vdot(tree, tree)
  is_zero = squared == 0
  return jnp.where(is_zero, 0, jax.lax.rsqrt(jnp.where(is_zero, 1, squared)))


def varying(x: Any) -> frozenset[str]:
  """Returns the manual mesh axes of `shard_map` over which an array differs."""
  if isinstance(x, jax.ShapeDtypeStruct):
    manual = x.manual_axis_type
  else:
    manual = jax.typeof(x).mat if isinstance(x, jax.Array) else None
  return frozenset() if manual is None else frozenset(manual.varying)


def vary(x: jax.Array, axes: Iterable[str]) -> jax.Array:
  """Returns x as an array that may differ over these mesh axes too."""
  missing = tuple(axis for axis in axes if axis not in varying(x))
  return jax.lax.pcast(x, missing, to='varying') if missing else x


def vary_like(x: jax.Array, other: Any) -> jax.Array:
  """Returns x as an array that may differ over the mesh axes of another."""
  return vary(x, sorted(varying(other)))


def zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
  """Returns zeros of that shape, cut and varying over the same mesh axes."""
  sharding = shape.sharding
  is_cut = sharding is not None and any(
    axis is not None for axis in sharding.spec
  )
  cut = sharding if is_cut else None
  return vary_like(jnp.zeros(shape.shape, shape.dtype, device=cut), shape)


def projection(a: types.PyTree, b: types.PyTree) -> jax.Array:
  """Returns <a, b> / |b|^2, the share of b that is in a; 0 if b is zero."""
  inverse = inverse_norm(b)
  return vdot(a, b) * inverse * inverse
