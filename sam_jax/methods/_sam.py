"""Sharpness-Aware Minimization."""

from typing import Unpack

from sam_jax import perturbations
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.METRICS.register('l2')
def _l2() -> parts.Metric:
  """Returns the metric of the Euclidean norm."""
  return perturbations.l2


@parts.METRICS.register('lp')
def _lp(p: float) -> parts.Metric:
  """Returns the metric of a p-norm."""
  return lambda rho: perturbations.lp(rho, p)


@registry.register('sam')
def sam(
  rho: float = 0.05,
  p: float = 2.0,
  ascent_steps: int = 1,
  second_order: bool = False,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns Sharpness-Aware Minimization.

  .. math::
    \epsilon = \rho\, \mathrm{sign}(g)\, |g|^{q-1} / (\|g\|_q^q)^{1/p}, \qquad
    \tilde g = \nabla L(w + \epsilon), \qquad 1/p + 1/q = 1

  with the gradient g at w; for p = 2 that is rho g / |g|. Two gradients in a
  step. With rho = 0 it is SGD.

  Args:
    rho: radius of the perturbation, in units of the parameters; the paper
      tunes it over 0.01, 0.02, 0.05, 0.1, 0.2 and 0.5.
    p: norm in which the radius is measured, in [1, inf].
    ascent_steps: gradient ascent steps that make the perturbation, each of the
      length rho / ascent_steps (appendix C.6); the paper's results have 1.
    second_order: whether to differentiate through the perturbation (appendix
      C.4), for about two gradients more; the paper's results do not.
    **axes: any other choice on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range, there are several ascent steps with
      second_order, or p and a metric are both given.

  Source: Foret et al. 2020, algorithm 1.
  """
  if p != 2 and axes.get('metric') is not None:
    raise ValueError(
      f'p is {p}, and metric is {axes["metric"]!r}, which is another; leave '
      'one of them out'
    )
  return create(
    rho,
    axes,
    metric=_lp(p),
    ascent_steps=ascent_steps,
    second_order=second_order,
  )
