"""Random numbers keyed by an example's position in the global batch."""

import jax
import jax.numpy as jnp


def example_bits(key: jax.Array, positions: jax.Array, count: int) -> jax.Array:
  """Draws uint32 [n, count], each row by its position alone.

  The bias of a remainder of 32 random bits is below 1e-6 for any image size.
  """

  def draw(position: jax.Array) -> jax.Array:
    return jax.random.bits(jax.random.fold_in(key, position), (count,))

  return jax.vmap(draw)(positions)


def places(bits: jax.Array, height: int, width: int) -> jax.Array:
  """Turns uint32 [n, 2] into rows and columns of pixels, int32 [n, 2]."""
  size = jnp.array([[height, width]], bits.dtype)
  return (bits % size).astype(jnp.int32)
