"""SAM in a ball of the Fisher metric."""

from typing import Unpack

from sam_jax import perturbations
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.METRICS.register('fisher')
def _fisher(eta: float = 1.0) -> parts.Metric:
  """Returns the metric of `perturbations.fisher`."""
  return lambda rho: perturbations.fisher(rho, eta)


@registry.register('fisher_sam', fixes=['metric'])
def fisher_sam(
  rho: float = 0.1, eta: float = 1.0, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns Fisher SAM, which moves less along large gradients.

  .. math::
    \epsilon = \rho\, F^{-1} g / \sqrt{\langle g, F^{-1} g\rangle}, \quad
    F = 1 + \eta\, g^2, \qquad \tilde g = \nabla L(w + \epsilon)

  elementwise: the squared gradient of the group stands for the diagonal of the
  Fisher information. Two gradients in a step. With eta = 0 it is SAM, with rho
  = 0 it is SGD. It depends on the unit of the loss.

  Args:
    rho: radius in units of the metric; 0.1 is usual.
    eta: weight of the Fisher information, >= 0; 1 is usual.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Kim et al. 2022, in the form of a public implementation, whose gamma
  is rho here; the authors' code could not be read.
  """
  return create(rho, axes, metric=_fisher(eta))
