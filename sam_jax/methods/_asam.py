"""Adaptive SAM: a ball that is stretched along large parameters."""

from typing import Unpack

from sam_jax import lookup, perturbations
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create

# Which parameters are stretched; the others have T = 1.
_STRETCHED = {'all': None, 'weights': perturbations.masks.weights}


@parts.METRICS.register('adaptive')
def _adaptive(
  eta: float = 0.01, p: float = 2.0, stretched: str = 'all'
) -> parts.Metric:
  """Returns the metric of `perturbations.asam`."""
  lookup.check('stretched', stretched, _STRETCHED)
  mask = _STRETCHED[stretched]
  return lambda rho: perturbations.asam(rho, eta, p, stretched=mask)


@registry.register('asam', fixes=['metric'])
def asam(
  rho: float = 0.5,
  eta: float = 0.01,
  p: float = 2.0,
  stretched: str = 'all',
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
    stretched: 'all' parameters, or 'weights', as in the authors' code: kernels,
      embeddings and the scale of normalisation layers. The others have T = 1.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Kwon et al. 2021, equation 6; the authors' code has stretched =
  'weights'. The most used implementation in PyTorch stretches all with eta = 0,
  and 2.0 is its usual rho.
  """
  return create(rho, axes, metric=_adaptive(eta, p, stretched))
