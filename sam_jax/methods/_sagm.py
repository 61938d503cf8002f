"""SAGM: the plain and the perturbed gradient are made to agree."""

import math
from typing import Unpack

import jax
import jax.numpy as jnp

from sam_jax import perturbations, tree, types
from sam_jax.methods import _wsam, base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.COMBINES.register('mean')
def _mean() -> parts.Combine:
  """Returns what takes the mean of the two gradients."""
  return lambda ascent, descent: _wsam.weigh(ascent, descent, weight=0.5)


@parts.METRICS.register('sagm')
def _metric(alpha: float = 0.001) -> parts.Metric:
  """Returns the metric of a sphere, less alpha times the gradient.

  Raises:
    ValueError: alpha is negative, infinite or NaN.
  """
  if not 0 <= alpha < math.inf:
    raise ValueError(f'alpha is {alpha}; it must be a number >= 0')

  def metric(rho: types.Scalar) -> types.Perturbation:
    climb = perturbations.l2(rho)
    if climb is perturbations.none:
      return climb

    def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
      # Uphill is along the conjugate of JAX's gradient.
      return jax.tree.map(
        lambda e, g: tree.add(e, -alpha * jnp.conj(tree.wide(g))),
        climb(grads, params),
        grads,
      )

    return perturb

  return metric


@registry.register('sagm', fixes=['combine', 'metric'])
def sagm(
  rho: float = 0.05,
  alpha: float = 0.001,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns Sharpness-Aware Gradient Matching.

  .. math::
    \tilde g = \tfrac12\, g + \tfrac12\, \nabla L\!\left(w +
      \left(\frac{\rho}{\|g\|_2} - \alpha\right) g\right)

  To minimise the loss at w + epsilon - alpha g lowers the perturbed loss and,
  to first order, makes its gradient agree with g. Two gradients in a step. With
  alpha = 0 it is WSAM with gamma = 1/3, the mean of SGD and SAM; with rho = 0
  it is SGD: no perturbation is made then, and alpha has no effect. Both
  gradients are of the loss that is trained: weight decay with
  `place='descent'` takes part in the perturbation too. Meant for domain
  generalisation, where the test data are of another distribution.

  Args:
    rho: radius of the perturbation, in units of the parameters; the authors
      have 0.05.
    alpha: of the gradient that is subtracted from the perturbation, >= 0, in
      units of a learning rate: unlike rho it counts with the gradient's length.
      The authors have 0.001.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Wang et al. 2023 (CVPR), with the authors' code. Differs from it: a
  zero gradient gives no NaN.
  """
  return create(rho, axes, metric=_metric(alpha), combine=_mean())
