"""SAM in a ball that is stretched tensor by tensor."""

from typing import Unpack

from sam_jax import perturbations
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.METRICS.register('layerwise')
def _layerwise(eta: float = 0.0) -> parts.Metric:
  """Returns the metric of `perturbations.layerwise`."""
  return lambda rho: perturbations.layerwise(rho, eta)


@registry.register('layerwise_sam', fixes=['metric'])
def layerwise_sam(
  rho: float = 0.02, eta: float = 0.0, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns SAM with a perturbation in proportion to the norm of each tensor.

  .. math::
    \epsilon_l = \rho\, \|w_l\|^2 g_l \Big/
      \Big(\sum_k \|w_k\|^2 \|g_k\|^2\Big)^{1/2}, \qquad
    \tilde g = \nabla L(w + \epsilon)

  where l is the tensor. A tensor of zeros does not move. Two gradients in a
  step. With rho = 0 it is SGD; for a network of a single tensor it is SAM with
  the radius rho times the norm of that tensor.

  Args:
    rho: radius in units of the tensors' norms; tune it. The default is ours.
    eta: makes all of it larger by a share, as in the code of SAM-ON.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Kwon et al. 2021 (ASAM), section 3, and Mueller et al. 2023 (SAM-ON).
  """
  return create(rho, axes, metric=_layerwise(eta))
