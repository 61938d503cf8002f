"""What is measured of a step: scalars that are logged, and nothing else."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sam_jax import methods, sam, tree, types
from sam_jax.training import precision

# What makes a JSON key of a metric of the perturbed pass.
PERTURBED = 'perturbed_'


class Aux(NamedTuple):
  """What a forward pass leaves besides the loss.

  Attributes:
    metrics: scalars by name, `loss` among them: the mean of the examples'
      losses, without the weight penalty.
    statistics_change: what is added to the BatchNorm statistics.
  """

  metrics: Mapping[str, jax.Array]
  statistics_change: types.PyTree


class Metrics(NamedTuple):
  """What a step has measured.

  Attributes:
    step: scalars by name, of every step.
    perturbed: those of the perturbation, means over the groups that were
      perturbed; zeros if none was. Empty for a method that never perturbs.
    share: of the groups that were perturbed, in [0, 1].
    skipped: 1 if the step was not finite and left no trace, else 0; `()` where
      none is skipped.
  """

  step: Mapping[str, jax.Array]
  perturbed: Mapping[str, jax.Array]
  share: jax.Array
  skipped: jax.Array | tuple[()] = ()


@jax.named_scope('diagnostics')
def of_step(
  result: methods.GroupResult,
  params: types.Params,
  *,
  learning_rate: jax.Array,
  max_norm: float,
) -> Metrics:
  """Returns the metrics of a step.

  Args:
    result: of the groups, averaged, with the gradient for the optimizer.
    params: after the update.
    learning_rate: of the step.
    max_norm: to which the gradient was clipped.

  Returns:
    `step`: the metrics of the unperturbed pass, gradient_norm of the gradient
    and clipped_gradient_norm after clipping, param_norm after the update,
    learning_rate. `perturbed`: see `of_perturbation`.
  """
  _, aux = result.out
  gradient_norm = tree.norm(result.grads)
  share = result.perturbed
  return Metrics(
    step={
      **aux.metrics,
      'gradient_norm': gradient_norm,
      'clipped_gradient_norm': jnp.minimum(gradient_norm, max_norm),
      'param_norm': tree.norm(params),
      'learning_rate': jnp.float32(learning_rate),
    },
    perturbed=jax.tree.map(
      lambda total: total / jnp.where(share == 0, 1, share),
      dict(result.diagnostics),
    ),
    share=share,
  )


@jax.named_scope('diagnostics')
def of_perturbation(
  params: types.Params,
  out: tuple[Any, Aux],
  info: sam.SamInfo,
  mantissa_bits: int,
) -> dict[str, jax.Array]:
  """Returns the metrics of the perturbation of one group.

  Args:
    params: unperturbed.
    out: value and aux of the first pass.
    info: of the second one.
    mantissa_bits: that a multiplication sees of a parameter.

  Returns:
    Scalars by name: the metrics of the perturbed pass, `perturbed_loss` and so
    on; sharpness = perturbed_loss - loss; cosine between the gradients at w and
    at w + epsilon; gradient_norm_ratio, the norm of the latter over that of the
    former; perturbation_norm, the length of epsilon; curvature, see
    `_curvature`; and where parameters are rounded those
    of `precision.effective_perturbation`.

  Differs from the official release, which logs loss and error of the perturbed
  pass of the first device, as if they were those of the network.
  """
  clean, perturbed = out[1].metrics, info.perturbed_aux.metrics
  metrics = {f'{PERTURBED}{name}': x for name, x in perturbed.items()}
  metrics |= {
    'sharpness': perturbed['loss'] - clean['loss'],
    'cosine': tree.cosine(info.ascent_grads, info.descent_grads),
    'gradient_norm_ratio': tree.norm(info.descent_grads)
    * tree.inverse_norm(info.ascent_grads),
    'perturbation_norm': tree.norm(info.epsilon),
    'curvature': _curvature(info),
  }
  if mantissa_bits < precision.FLOAT32_BITS:
    metrics |= precision.effective_perturbation(
      params, info.epsilon, mantissa_bits
    )
  return metrics


def _curvature(info: sam.SamInfo) -> jax.Array:
  r"""Returns the Rayleigh quotient of the Hessian along epsilon.

  .. math::
    (g' - g) \cdot \epsilon / |\epsilon|^2 \approx
    \epsilon^T H \epsilon / |\epsilon|^2

  with the gradients g at w and g' at w + epsilon of a group: the mean of the
  Hessian along the way between them, at most its largest eigenvalue there. It
  is 0 without a perturbation.

  With the weight penalty in the loss H has it too: weight_decay.rate on the
  diagonal. If the two gradients are of different functions, their difference
  also holds that of the functions: the penalty's w . epsilon where weight decay
  is of the descent alone, and noise for Shake-Shake and ShakeDrop, whose
  descent gradient is not that of their loss. With several ascent steps, g is
  the first gradient and epsilon the sum: the mean of H along the straight line.
  """
  change = jax.tree.map(jnp.subtract, info.descent_grads, info.ascent_grads)
  inverse = tree.inverse_norm(info.epsilon)
  return tree.vdot(change, info.epsilon) * inverse * inverse
