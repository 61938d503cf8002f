"""SAM with distances on the surface of the loss."""

from typing import Unpack

from sam_jax import perturbations
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.METRICS.register('monge')
def _monge() -> parts.Metric:
  """Returns the metric of `perturbations.monge`."""
  return perturbations.monge


@registry.register('monge_sam', fixes=['metric'])
def monge_sam(rho: float = 0.05, **axes: Unpack[Axes]) -> base.Method:
  r"""Returns Monge SAM, whose radius is measured on the surface of the loss.

  .. math::
    \epsilon = \frac{\rho\, g}{\|g\| \sqrt{1 + \|g\|^2}}, \qquad
    \tilde g = \nabla L(w + \epsilon)

  Where the gradient is small it is SAM; where it is large the perturbation
  vanishes, so that early steps are close to SGD. Two gradients in a step. With
  rho = 0 it is SGD. It depends on the unit of the loss.

  Args:
    rho: radius in units of the metric; tune it as SAM's. The default is ours.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Jacobsen and Arvanitidis 2025, arXiv 2502.08448.
  """
  return create(rho, axes, metric=_monge())
