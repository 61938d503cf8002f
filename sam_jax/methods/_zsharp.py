"""ZSharp: SAM along what stands out of the gradient."""

from typing import Unpack

from sam_jax import perturbations
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.METRICS.register('zsharp')
def _zsharp(quantile: float = 0.95) -> parts.Metric:
  """Returns the metric of `perturbations.zsharp`."""
  return lambda rho: perturbations.zsharp(rho, quantile)


@registry.register('zsharp', fixes=['metric'])
def zsharp(
  rho: float = 0.05, quantile: float = 0.95, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns ZSharp, which perturbs along the outliers of each tensor.

  .. math::
    \epsilon = \rho\, \bar g / \|\bar g\|_2, \quad
    \bar g_i = g_i \text{ where } |z_i| \ge Q_l, \text{ else } 0, \qquad
    \tilde g = \nabla L(w + \epsilon)

  where z is the gradient less the mean of its tensor l, over its standard
  deviation, and Q the quantile of |z| over that tensor. Two gradients in a
  step. With quantile = 0 it is SAM, with rho = 0 it is SGD.

  Args:
    rho: radius, in units of the parameters; the paper has 0.05.
    quantile: share of each tensor that is left out, in [0, 1); the paper has
      0.95.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Yun 2025, arXiv 2505.02369. Differs from the authors' code, which
  normalises each tensor by its own norm, so that every tensor moves by rho.
  """
  return create(rho, axes, metric=_zsharp(quantile))
