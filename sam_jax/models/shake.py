"""Shake-Shake and ShakeDrop: branches with random coefficients.

Each example's branch is multiplied by one random coefficient forward and by
another, independent one backward (Gastaldi 2017; Yamada et al. 2018). Then the
gradient is not that of the loss, and no direction in which to perturb: SAM's
ascent pass asks for `true_gradient`, where both are the forward coefficient.
Both passes draw from the same key, hence the same forward coefficients.

Source: official models/utils.py. Differs from the official release: its
command line replaced `jax.random.bernoulli` by a generator without key, so that
ShakeDrop's two passes dropped different blocks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Of what a dropped branch is multiplied by, forward and backward.
_ALPHA = (-1.0, 1.0)
_BETA = (0.0, 1.0)


class Coefficients(NamedTuple):
  """What branches are multiplied by, float32 [blocks, batch] or [batch].

  A whole network's are drawn at once: a draw for each block would take longer
  to compile than the block itself.

  Attributes:
    forward: in the forward pass.
    backward: in the backward pass; None are those of the forward pass, which
      makes the gradient the true one.
  """

  forward: jax.Array
  backward: jax.Array | None

  def of_block(self, index: int) -> 'Coefficients':
    """Returns those of one block."""
    return jax.tree.map(lambda x: x[index], self)


def shake_shake_coefficients(
  key: jax.Array, num_blocks: int, batch_size: int, *, true_gradient: bool
) -> Coefficients:
  """Draws the weights of the first of two branches, from U(0, 1).

  Args:
    key: the same in both passes of a step.
    num_blocks: of the network.
    batch_size: examples.
    true_gradient: whether the backward pass has the forward weights.
  """
  forward, backward = shake_shake_draws(key, num_blocks, batch_size)
  return Coefficients(forward, None if true_gradient else backward)


def shake_shake(
  a: jax.Array, b: jax.Array, weights: Coefficients | None
) -> jax.Array:
  """Mixes two branches: a g + b (1 - g) with the weights g of a block.

  Args:
    a: [batch, height, width, channels].
    b: likewise.
    weights: [batch]; None is evaluation, where all are 1/2.
  """
  if weights is None:
    return (a + b) / 2
  return b + scale(a - b, *weights)


def shake_drop_coefficients(
  key: jax.Array,
  keep_probabilities: jax.Array,
  batch_size: int,
  *,
  true_gradient: bool,
) -> Coefficients:
  """Draws what branches are multiplied by.

  1 for a branch that is kept; for one that is dropped alpha in U(-1, 1)
  forward, and beta in U(0, 1) backward.

  Args:
    key: the same in both passes of a step.
    keep_probabilities: of each block, [blocks].
    batch_size: examples.
    true_gradient: whether the backward pass has the forward coefficients.
  """
  kept, alpha, beta = shake_drop_draws(key, keep_probabilities, batch_size)
  forward, backward = jnp.where(kept, 1, alpha), jnp.where(kept, 1, beta)
  return Coefficients(forward, None if true_gradient else backward)


def shake_drop(
  x: jax.Array, coefficients: Coefficients | None, keep_probability: float
) -> jax.Array:
  """Multiplies a block's branch by its coefficients.

  Args:
    x: [batch, height, width, channels].
    coefficients: [batch]; None is evaluation, where all are their expectation.
    keep_probability: of the block.
  """
  if coefficients is None:
    drop_probability = 1 - keep_probability
    return x * (keep_probability + drop_probability * sum(_ALPHA) / 2)
  return scale(x, *coefficients)


def shake_shake_draws(
  key: jax.Array, num_blocks: int, batch_size: int
) -> tuple[jax.Array, jax.Array]:
  """Draws forward and backward weights, float32 [num_blocks, batch_size]."""
  draws = jax.random.uniform(key, (2, num_blocks, batch_size))
  return draws[0], draws[1]


def shake_drop_draws(
  key: jax.Array, keep_probabilities: jax.Array, batch_size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws who is kept (bool), alpha and beta, each [blocks, batch_size]."""
  draws = jax.random.uniform(key, (3, len(keep_probabilities), batch_size))
  kept = draws[0] < keep_probabilities[:, None]
  alpha, beta = (
    low + (high - low) * draw
    for (low, high), draw in zip((_ALPHA, _BETA), draws[1:], strict=True)
  )
  return kept, alpha, beta


def scale(
  x: jax.Array, forward: jax.Array, backward: jax.Array | None
) -> jax.Array:
  """Returns x * forward, differentiated as if it were x * backward.

  Args:
    x: [batch, height, width, channels].
    forward: [batch].
    backward: [batch]; None is what forward is.
  """
  if backward is None:
    return x * _by_example(forward, x)
  # The difference is zero, so the value is x * forward to the bit in either
  # pass. Not jax.custom_vjp: Hessian-vector products go forward over reverse.
  value = jax.lax.stop_gradient(x)
  return value * _by_example(forward, x) + (x - value) * _by_example(
    backward, x
  )


def _by_example(coefficients: jax.Array, x: jax.Array) -> jax.Array:
  """Gives coefficients [batch] the rank and dtype of x."""
  shape = (-1,) + (1,) * (x.ndim - 1)
  return coefficients.reshape(shape).astype(x.dtype)
