"""LE-SAM: a budget of the loss in place of a radius."""

import math
from typing import Unpack

from sam_jax import perturbations
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.METRICS.register('loss_equated')
def _loss_equated(rho_max: float = math.inf) -> parts.Metric:
  """Returns the metric in which rho is a rise of the linearised loss."""
  return lambda rho: perturbations.loss_equated(rho, rho_max)


@registry.register('le_sam', fixes=['metric'])
def le_sam(
  rho: float = 0.35, rho_max: float = 0.3, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns LE-SAM, whose perturbation raises the linearised loss by a budget.

  .. math::
    \epsilon = \min\left(\frac{\sigma}{\|g\|}, \rho_{max}\right)
      \frac{g}{\|g\|}, \qquad \tilde g = \nabla L(w + \epsilon)

  Two gradients in a step. With a budget that is never reached it is SAM with
  the radius rho_max; with rho = 0 it is SGD.

  Args:
    rho: sigma, the budget, in units of the loss. The authors have 0.35 for
      CIFAR-100, reached in 10 epochs and annealed from epoch 160 of 200 on; a
      rho_schedule of 'cosine' or 'linear' falls from the first step.
    rho_max: the largest radius, in units of the parameters; the authors have
      0.3.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Wang et al. 2026, arXiv 2605.10183, and the authors' code. Differs
  from it: its schedule of sigma has three parts, see `rho`.
  """
  return create(rho, axes, metric=_loss_equated(rho_max))
