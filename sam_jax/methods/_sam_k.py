"""SAM-k: SAM in every k-th step."""

from typing import Unpack

from sam_jax.methods import base, registry
from sam_jax.methods.axes import Untimed, create


@registry.register('sam_k')
def sam_k(
  rho: float = 0.05, every: int = 5, **axes: Unpack[Untimed]
) -> base.Method:
  r"""Returns SAM-k: SAM in every k-th step, and SGD in the others.

  .. math::
    \tilde g_t = \begin{cases}
      \nabla L(w_t + \rho\, g_t / \|g_t\|_2) & t \bmod k = 0 \\
      \nabla L(w_t) & \text{else}
    \end{cases}

  One gradient, and in every k-th step, the first one included, another one:
  1 + 1 / k. With every = 1 it is SAM, with rho = 0 it is SGD. It is the control
  of LookSAM, whose authors find that this one loses accuracy, and the interval
  of MosaicML's Composer.

  Args:
    rho: radius of the perturbation, in units of the parameters. It is not
      scaled by the interval: Composer recommends a larger one with a longer
      interval, 0.5 with 10 steps for ResNet-50 on ImageNet. The default is that
      of `sam`.
    every: k, at least 1. The default is that of `looksam`.
    **axes: other choices on the axes, see `Untimed`; `sam` takes `every` too,
      together with the other choices of steps.

  Raises:
    ValueError: a value is out of range.

  Source: Liu et al. 2022 (LookSAM), where it is called SAM-k.
  """
  return create(rho, axes, every=every)
