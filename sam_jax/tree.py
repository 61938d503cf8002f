"""Inner products over whole pytrees, accumulated in at least float32.

`optax.tree` has the same functions in the dtype of the leaves; a norm over
millions of bfloat16 gradients needs more digits than that.
"""

import jax
import jax.numpy as jnp

from sam_jax import types


def wide(x: jax.Array) -> jax.Array:
  """Casts an array to float32, or leaves what is wider already."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def vdot(a: types.PyTree, b: types.PyTree) -> jax.Array:
  """Returns the inner product of two trees of the same structure, a scalar."""
  products = jax.tree.map(lambda x, y: jnp.sum(wide(x) * wide(y)), a, b)
  return _sum(jax.tree.leaves(products))


def _sum(terms: list[jax.Array]) -> jax.Array:
  """Adds scalars, the smallest first.

  The sort is there for XLA:CPU. It would copy a plain chain of additions into
  whatever uses the sum, such as the perturbation of every leaf, and so compile
  for a time that grows with the square of the number of leaves: PyramidNet-272
  has 997. No such copy passes a sort; an optimization barrier keeps from it in
  newer versions only.
  """
  return jnp.sum(jnp.sort(jnp.stack(terms))) if terms else jnp.float32(0)


def norm(tree: types.PyTree) -> jax.Array:
  """Returns the Euclidean norm of all leaves together, a scalar."""
  return jnp.sqrt(vdot(tree, tree))


def cosine(a: types.PyTree, b: types.PyTree) -> jax.Array:
  """Returns the cosine of the angle between two trees; 0 if one is zero."""
  # One after the other: the product of two squares is soon out of range.
  return vdot(a, b) * _inverse_norm(a) * _inverse_norm(b)


def _inverse_norm(tree: types.PyTree) -> jax.Array:
  """Returns 1 / norm; 0 for zero, where the derivative is 0 too."""
  squared = vdot(tree, tree)
  is_zero = squared == 0
  return jnp.where(is_zero, 0, jax.lax.rsqrt(jnp.where(is_zero, 1, squared)))
