"""SAM without its normalisation, and all between the two."""

from typing import Unpack

from sam_jax import perturbations
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.METRICS.register('unnormalised')
def _unnormalised() -> parts.Metric:
  """Returns the metric in which a perturbation is rho times the gradient."""
  return perturbations.unnormalised


@parts.METRICS.register('unified')
def _unified(lam: float = 0.5) -> parts.Metric:
  """Returns the metric between 'unnormalised' and 'l2', lam = 0 and 1."""
  return lambda rho: perturbations.unified(rho, lam)


@registry.register('usam', fixes=['metric'])
def usam(rho: float = 0.05, **axes: Unpack[Axes]) -> base.Method:
  r"""Returns unnormalised SAM.

  .. math:: \tilde g = \nabla L(w + \rho\, g)

  The analyses of SAM often have this form. The perturbation vanishes at a
  minimum, and grows with the gradient. Two gradients in a step. With rho = 0 it
  is SGD; it is `unified_sam` with lam = 0.

  Args:
    rho: factor of the gradient; in other units than SAM's, so tune it anew. The
      default is ours.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Andriushchenko and Flammarion 2022.
  """
  return create(rho, axes, metric=_unnormalised())


@registry.register('unified_sam', fixes=['metric'])
def unified_sam(
  rho: float = 0.05, lam: float = 0.5, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns Unified SAM, between SAM and its unnormalised form.

  .. math::
    \epsilon = \rho \left(1 - \lambda + \frac{\lambda}{\|g\|_2}\right) g, \qquad
    \tilde g = \nabla L(w + \epsilon)

  Two gradients in a step. With lam = 1 it is SAM, with lam = 0 it is `usam`,
  and with rho = 0 it is SGD.

  Args:
    rho: radius, in units between those of the two forms.
    lam: share of the normalised direction, in [0, 1]. The default is ours.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Oikonomou and Loizou 2025, arXiv 2503.02225. Its step sizes are not
  here.
  """
  return create(rho, axes, metric=_unified(lam))
