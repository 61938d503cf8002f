"""SAMSON, a reconstruction: ASAM by the range of each tensor."""

from typing import Unpack

from sam_jax import perturbations
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.METRICS.register('samson')
def _samson(p: float = 2.0) -> parts.Metric:
  """Returns the metric of `perturbations.samson`, a RECONSTRUCTION."""
  return lambda rho: perturbations.samson(rho, p)


@registry.register('samson', fixes=['metric'])
def samson(
  rho: float = 0.5, p: float = 2.0, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns SAMSON, a RECONSTRUCTION from the abstract of its paper.

  .. math::
    \epsilon = \rho\, T^2 g / \|T g\|_2, \quad T = |w| / \|w_l\|_p, \qquad
    \tilde g = \nabla L(w + \epsilon)

  elementwise, where l is the tensor of w. No formula and no code of the authors
  could be read: the abstract says that the perturbation of a weight depends on
  its magnitude and on the range of the weights. Two gradients in a step. With
  rho = 0 it is SGD.

  Args:
    rho: radius in the stretched units. The default is ours.
    p: norm that stands for the range of the weights of a tensor, 2 or inf.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Mordido et al. 2022, arXiv 2211.11561, the abstract alone.
  """
  return create(rho, axes, metric=_samson(p))
