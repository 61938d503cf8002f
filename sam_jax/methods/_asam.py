"""Adaptive SAM: a ball that is stretched along large parameters."""

from typing import Unpack

from sam_jax import perturbations
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.METRICS.register('adaptive')
def _adaptive(eta: float = 0.01, p: float = 2.0) -> parts.Metric:
  """Returns the metric of `perturbations.asam`."""
  return lambda rho: perturbations.asam(rho, eta, p)


@registry.register('asam', fixes=['metric'])
def asam(
  rho: float = 0.5,
  eta: float = 0.01,
  p: float = 2.0,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns Adaptive SAM.

  .. math::
    \epsilon = \rho\, T^2 g / \|T g\|_2, \quad T = |w| + \eta, \qquad
    \tilde g = \nabla L(w + \epsilon)

  elementwise, with one norm over the whole tree; for p = inf it is rho T
  sign(g). A factor that moves from one layer to the next changes nothing if eta
  is 0. Two gradients in a step. With rho = 0 it is SGD, with T = 1 it is SAM.

  Args:
    rho: radius in the stretched units. The default is the paper's for
      CIFAR-10; it has 1.0 for CIFAR-100 and ImageNet.
    eta: added to the magnitudes, >= 0.
    p: norm of the ball, in [1, inf].
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Kwon et al. 2021, equation 6. Differs from the authors' code, which
  has T = 1 for biases and BatchNorm: here the rule is the same for all.
  """
  return create(rho, axes, metric=_adaptive(eta, p))
