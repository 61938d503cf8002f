"""Losses of examples."""

import jax
import jax.numpy as jnp

from sam_jax import tree


def cross_entropy(
  logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
  """Returns the cross entropy of each example.

  Args:
    logits: `[..., num_classes]`, floating point.
    labels: `[...]`, integers in [0, num_classes), or `[..., num_classes]`, the
      weights of the classes, which add up to 1 (of mixed images).
    label_smoothing: share of the target that is spread evenly over all
      classes, the true one included (as in the official release).

  Returns:
    `[...]`, in nats, in at least float32.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax.tasks import losses
    >>> print(losses.cross_entropy(jnp.zeros((1, 4)), jnp.array([2])))
    [1.3862944]
  """
  log_probs = jax.nn.log_softmax(tree.wide(logits))
  picked = _weigh(log_probs, labels)
  if label_smoothing == 0:
    return -picked
  spread = jnp.mean(log_probs, axis=-1)
  return -(1 - label_smoothing) * picked - label_smoothing * spread


def sigmoid_cross_entropy(
  logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
  """Returns the sum of the cross entropies of "is it this class?".

  Each class is a question of its own, whose probability is a sigmoid. With all
  logits at -10, instead of 0, the loss begins at about 10 and not at the number
  of classes times ln 2.

  Args:
    logits: `[..., num_classes]`, floating point.
    labels: see `cross_entropy`.
    label_smoothing: see `cross_entropy`.

  Returns:
    `[...]`, in nats, in at least float32.

  Source: google-research/big_vision, utils.py, sigmoid_xent.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax.tasks import losses
    >>> logits = jnp.full((1, 1000), -10.0)
    >>> print(losses.sigmoid_cross_entropy(logits, jnp.array([2])))
    [10.045399]
  """
  logits = tree.wide(logits)
  picked = _weigh(logits, labels)
  if label_smoothing:
    spread = jnp.mean(logits, axis=-1)
    picked = (1 - label_smoothing) * picked + label_smoothing * spread
  return jnp.sum(jax.nn.softplus(logits), axis=-1) - picked


def _weigh(values: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the value of each label, or the mean with the labels' weights."""
  if labels.ndim == values.ndim:
    return jnp.sum(labels * values, axis=-1)
  return jnp.take_along_axis(values, labels[..., None], axis=-1)[..., 0]
