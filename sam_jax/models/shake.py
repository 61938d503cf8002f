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

import jax
import jax.numpy as jnp
from flax import linen as nn

# Of what a dropped branch is multiplied by, forward and backward.
_ALPHA = (-1.0, 1.0)
_BETA = (0.0, 1.0)


class ShakeShake(nn.Module):
  """Mixes two branches: a g + b (1 - g), g in U(0, 1) for each example.

  In evaluation g is 1/2. Draws from the rng stream 'dropout'.

  Attributes:
    train: whether to draw.
    true_gradient: whether the backward pass has the forward coefficients.
  """

  train: bool
  true_gradient: bool = False

  @nn.compact
  def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the mixture; a and b are [batch, height, width, channels]."""
    if not self.train:
      return (a + b) / 2
    forward, backward = shake_shake_gates(self.make_rng('dropout'), a.shape[0])
    if self.true_gradient:
      backward = forward
    # b + (a - b) g: one multiplication, and one place for the two gradients.
    return b + scale(a - b, forward, backward)


class ShakeDrop(nn.Module):
  """Multiplies a dropped branch by alpha in U(-1, 1), an undropped one by 1.

  Backward it is beta in U(0, 1), independent of alpha. In evaluation all are
  multiplied by their expectation. Draws from the rng stream 'dropout'.

  Attributes:
    keep_probability: that the branch of an example is not dropped.
    train: whether to draw.
    true_gradient: whether the backward pass has the forward coefficients.
  """

  keep_probability: float
  train: bool
  true_gradient: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns x [batch, height, width, channels] times its coefficients."""
    p = self.keep_probability
    if not self.train:
      return x * (p + (1 - p) * sum(_ALPHA) / 2)
    kept, alpha, beta = shake_drop_draws(
      self.make_rng('dropout'), p, x.shape[0]
    )
    forward, backward = jnp.where(kept, 1, alpha), jnp.where(kept, 1, beta)
    return scale(x, forward, forward if self.true_gradient else backward)


def shake_shake_gates(
  key: jax.Array, batch_size: int
) -> tuple[jax.Array, jax.Array]:
  """Draws the forward and backward coefficients, each float32 [batch_size]."""
  forward_key, backward_key = jax.random.split(key)
  return (
    jax.random.uniform(forward_key, (batch_size,)),
    jax.random.uniform(backward_key, (batch_size,)),
  )


def shake_drop_draws(
  key: jax.Array, keep_probability: float, batch_size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws who is kept (bool), alpha and beta (float32), each [batch_size]."""
  keep_key, alpha_key, beta_key = jax.random.split(key, 3)
  shape = (batch_size,)
  return (
    jax.random.bernoulli(keep_key, keep_probability, shape),
    jax.random.uniform(alpha_key, shape, minval=_ALPHA[0], maxval=_ALPHA[1]),
    jax.random.uniform(beta_key, shape, minval=_BETA[0], maxval=_BETA[1]),
  )


def scale(x: jax.Array, forward: jax.Array, backward: jax.Array) -> jax.Array:
  """Returns x * forward, differentiated as if it were x * backward.

  Args:
    x: [batch, height, width, channels].
    forward: [batch].
    backward: [batch]; the very object `forward` gives the true gradient.
  """
  forward_by_example = _by_example(forward, x)
  if backward is forward:
    return x * forward_by_example
  backward_by_example = _by_example(backward, x)
  # Not jax.custom_vjp: Hessian-vector products go forward over reverse.
  return x * backward_by_example + jax.lax.stop_gradient(
    x * (forward_by_example - backward_by_example)
  )


def _by_example(coefficients: jax.Array, x: jax.Array) -> jax.Array:
  """Gives coefficients [batch] the rank and dtype of x."""
  shape = (-1,) + (1,) * (x.ndim - 1)
  return coefficients.reshape(shape).astype(x.dtype)
