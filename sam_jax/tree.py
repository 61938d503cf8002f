"""Inner products over whole pytrees, and mesh axes over which leaves vary.

Inner products are accumulated in at least float32: `optax.tree` has the same
functions in the dtype of the leaves, and a norm over millions of bfloat16
gradients needs more digits than that. A complex number counts as its real and
its imaginary part, and a gradient of an integer (dtype float0) as nothing. No
result depends on the rules by which JAX promotes dtypes.
"""

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import types

SMALL = 2**13  # elements, below which `pack` joins arrays


def wide(x: Any) -> jax.Array:
  """Casts an array to float32, or leaves what is wider already."""
  x = jnp.asarray(x)
  return x.astype(_wide_dtype(x.dtype))


def _wide_dtype(dtype: Any) -> Any:
  """Returns the dtype if it is as exact as float32, else float32."""
  is_wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
  return dtype if is_wide else jnp.float32


def is_float0(x: Any) -> bool:
  """Whether x is the gradient of an integer, a bool or a key: there is none."""
  return getattr(x, 'dtype', None) == jax.dtypes.float0


def real_dtype(*trees: types.PyTree) -> Any:
  """Returns the dtype of sums: float64 if a leaf is of it, else float32."""
  leaves = [x for x in jax.tree.leaves(trees) if not is_float0(x)]
  dtypes = [jnp.finfo(_wide_dtype(jnp.asarray(x).dtype)).dtype for x in leaves]
  return max(dtypes, key=lambda d: d.itemsize, default=np.dtype(np.float32))


def times(factor: jax.Array, x: jax.Array) -> jax.Array:
  """Returns a real factor times a number that may be complex."""
  factor = factor.astype(real_dtype(x))
  if not jnp.iscomplexobj(x):
    return factor * x
  return jax.lax.complex(factor * x.real, factor * x.imag)


def scale(factor: jax.Array, x: Any) -> jax.Array:
  """Returns a product in at least float32, rounded to the dtype of x."""
  x = jnp.asarray(x)
  return times(factor, wide(x)).astype(x.dtype)


def add(x: Any, y: Any) -> jax.Array:
  """Returns a sum in at least float32, rounded to the dtype of x.

  A Python number, which leaves the dtype to what it meets, stays one.
  """
  x = jnp.asarray(x)
  total = wide(x)
  total = (total + jnp.asarray(y).astype(total.dtype)).astype(x.dtype)
  if not jax.typeof(x).weak_type:
    return total
  return vary_like(x, total).at[...].set(total)


def vdot(a: types.PyTree, b: types.PyTree) -> jax.Array:
  """Returns the inner product of two trees of the same structure, a scalar."""
  dtype = real_dtype(a, b)
  pairs = zip(pack(a, dtype), pack(b, dtype), strict=True)
  return sum_scalars([jnp.sum(x * y) for x, y in pairs])


def pack(tree: types.PyTree, dtype: Any) -> list[jax.Array]:
  """Returns the leaves as real arrays, all small ones in one vector.

  A sum over a vector of BatchNorm's is as many kernels, to compile and to
  launch, as one over a convolution's; most leaves are such vectors.
  """
  kept = [wide(x) for x in jax.tree.leaves(tree) if not is_float0(x)]
  leaves = [part.astype(dtype) for leaf in kept for part in _parts(leaf)]
  if any(map(is_cut, leaves)):
    return leaves
  small = [leaf.ravel() for leaf in leaves if leaf.size < SMALL]
  large = [leaf for leaf in leaves if leaf.size >= SMALL]
  return [*large, jnp.concatenate(small)] if small else large


def _parts(x: jax.Array) -> list[jax.Array]:
  """Returns the real and the imaginary part; a real array alone."""
  return [x.real, x.imag] if jnp.iscomplexobj(x) else [x]


def is_cut(leaf: jax.Array) -> bool:
  """Whether a leaf is cut along explicit mesh axes: such cannot be joined."""
  return any(axis is not None for axis in jax.typeof(leaf).sharding.spec)


@jax.custom_jvp
def sum_scalars(terms: list[jax.Array]) -> jax.Array:
  """Adds scalars of one dtype, the smallest first.

  The sort is there for XLA:CPU. It would copy a plain chain of additions into
  whatever uses the sum, such as the perturbation of every leaf, and so compile
  for a time that grows with the square of the number of leaves: PyramidNet-272
  has 997. No such copy passes a sort; an optimization barrier keeps from it in
  newer versions only.
  """
  return jnp.sum(jnp.sort(jnp.stack(terms))) if terms else jnp.float32(0)


@sum_scalars.defjvp
def _sum_scalars_jvp(
  primals: tuple[list[jax.Array]], tangents: tuple[list[jax.Array]]
) -> tuple[jax.Array, jax.Array]:
  """The derivative of a sum; that of the sort would depend on the values."""
  total = sum_scalars(primals[0])
  if not tangents[0]:
    return total, jnp.zeros_like(total)
  return total, functools.reduce(operator.add, tangents[0])


def by_split(
  tree: types.PyTree, axes: Iterable[str]
) -> dict[tuple[str, ...], list[jax.Array]]:
  """Returns the leaves by those of the mesh axes over which they are split."""
  groups: dict[tuple[str, ...], list[jax.Array]] = {}
  for leaf in jax.tree.leaves(tree):
    split = tuple(axis for axis in axes if axis in varying(leaf))
    groups.setdefault(split, []).append(leaf)
  return groups


def sum_over(
  axes: Iterable[str],
  measure: Callable[[list[jax.Array]], jax.Array],
  tree: types.PyTree,
) -> jax.Array:
  """Adds a measure of the leaves over the devices that hold slices of them.

  Args:
    axes: manual mesh axes over which leaves are split; a leaf that does not
      vary over one of them is there whole, and counts once.
    measure: of a list of leaves; that of two lists is the sum of theirs.
    tree: of arrays.
  """
  total = None
  for split, leaves in by_split(tree, axes).items():
    part = measure(leaves)
    part = jax.lax.psum(part, split) if split else part
    total = part if total is None else total + part
  return measure([]) if total is None else total


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


def squares(tree: types.PyTree) -> types.PyTree:
  """Returns the squared magnitudes of all elements, real, in >= float32."""

  def square(x: Any) -> jax.Array:
    x = wide(x)
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2

  return jax.tree.map(square, tree)
