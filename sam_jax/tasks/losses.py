"""The training loss: cross entropy with label smoothing, and weight penalty."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sam_jax import tree, types


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
    >>> from sam_jax import losses
    >>> print(losses.cross_entropy(jnp.zeros((1, 4)), jnp.array([2])))
    [1.3862944]
  """
  log_probs = jax.nn.log_softmax(tree.wide(logits))
  picked = _weigh(log_probs, labels)
  if label_smoothing == 0:
    return -picked
  spread = jnp.mean(log_probs, axis=-1)
  return -(1 - label_smoothing) * picked - label_smoothing * spread


def _weigh(values: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the value of each label, or the mean with the labels' weights."""
  if labels.ndim == values.ndim:
    return jnp.sum(labels * values, axis=-1)
  return jnp.take_along_axis(values, labels[..., None], axis=-1)[..., 0]


def _classes(labels: jax.Array) -> jax.Array:
  """Returns the class of each example of a batch."""
  return labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1)


def l2_penalty(
  params: types.Params, weight_decay: float, mask: types.PyTree
) -> jax.Array:
  """Returns 0.5 * weight_decay * |w|^2 over the parameters the mask selects.

  Args:
    params: tree of parameters.
    weight_decay: coefficient; 0 returns 0.
    mask: tree of Python bools like `params`.
  """
  if weight_decay == 0:
    return jnp.float32(0)
  kept = jax.tree.map(lambda p, keep: p if keep else None, params, mask)
  return 0.5 * weight_decay * tree.vdot(kept, kept)


def classification_loss(
  apply_fn: Callable[..., Any],
  *,
  label_smoothing: float = 0.0,
  penalty_fn: Callable[[types.Params], jax.Array] | None = None,
  true_gradient: bool = False,
) -> Callable[..., tuple[jax.Array, dict[str, Any]]]:
  """Returns the loss function of one microbatch.

  Args:
    apply_fn: a Flax module's `apply`; the module takes `train` and
      `true_gradient`.
    label_smoothing: see `cross_entropy`.
    penalty_fn: added to the value, not to what is logged.
    true_gradient: handed to the model: whether stochastic branches (Shake-
      Shake, ShakeDrop) have the same coefficients backward as forward, as the
      ascent pass wants it.

  Returns:
    `(params, batch_stats, key, images, labels) -> (loss, aux)` with float
    images `[batch, height, width, channels]`, labels as `cross_entropy` takes
    them, `key` for the dropout masks, and aux = batch_stats (updated), loss
    (mean cross entropy, without the penalty) and error_rate (of a mixed image:
    against the class of the largest weight).
  """

  def loss_fn(
    params: types.Params,
    batch_stats: types.PyTree,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
  ) -> tuple[jax.Array, dict[str, Any]]:
    logits, updated = apply_fn(
      {'params': params, 'batch_stats': batch_stats},
      images,
      train=True,
      true_gradient=true_gradient,
      mutable=['batch_stats'],
      rngs={'dropout': key},
    )
    loss = jnp.mean(cross_entropy(logits, labels, label_smoothing))
    aux = {
      'batch_stats': updated.get('batch_stats', {}),
      'loss': loss,
      'error_rate': jnp.mean(jnp.argmax(logits, axis=-1) != _classes(labels)),
    }
    penalty = 0.0 if penalty_fn is None else penalty_fn(params)
    return loss + penalty, aux

  return loss_fn
