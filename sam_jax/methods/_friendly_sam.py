"""F-SAM, "friendly SAM": the full gradient is taken out of the perturbation."""

import math
from typing import Unpack

import jax
import jax.numpy as jnp

from sam_jax import tree, types
from sam_jax.methods import _vasso, base, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.interface import Context


@parts.DIRECTIONS.register('minus_ema')
class MinusEma(_vasso.Ema):
  """Along the gradient at w, less a share of its moving average.

  The average is made of the gradients themselves, not of these differences.
  """

  def __init__(self, sigma: float = 1.0, lam: float = 0.9) -> None:
    """Takes the share and the decay of the average.

    Raises:
      ValueError: sigma is negative or no number, or lam is not in [0, 1).
    """
    if not 0 <= sigma < math.inf:
      raise ValueError(f'sigma is {sigma}; it must be a number >= 0')
    if not 0 <= lam < 1:
      raise ValueError(
        f'lam is {lam}; it is the decay of the average: give a number in [0, 1)'
      )
    super().__init__(1 - lam)
    self._sigma = sigma

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> types.PyTree:
    """Returns the gradient, less sigma times the average."""
    del ctx
    average = self.moved(memory, grads)
    share = jnp.where(memory['is_made'], self._sigma, 0.0)
    return jax.tree.map(
      lambda m, g: tree.wide(g) - tree.times(share, m), average, grads
    )


@registry.register('friendly_sam', fixes=['direction'])
def friendly_sam(
  rho: float = 0.2,
  sigma: float = 1.0,
  lam: float = 0.9,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns Friendly Sharpness-Aware Minimization (F-SAM).

  .. math::
    m_t = \lambda\, m_{t-1} + (1 - \lambda)\, g_t, \qquad
    d_t = g_t - \sigma\, m_t, \qquad
    \epsilon = \rho\, d_t / \|d_t\|_2, \qquad
    \tilde g = \nabla L(w + \epsilon)

  with the gradient g at w, and m_0 = d_0 = g_0 in the first step. The moving
  average m stands for the gradient of all data, which the authors find to harm
  the perturbation: what is left is the noise of the batch. Two gradients in a
  step; the state is a tree like the parameters. With sigma = 0 it is SAM, with
  rho = 0 it is SGD. It needs noise: with the whole data set in every batch, d
  is the change of the gradient from step to step. `vasso` is the opposite idea.
  Two other methods are called FSAM too: SAM with a Fisher mask, for language
  models, and Fisher-SAM.

  Args:
    rho: radius of the perturbation, in units of the parameters. The default is
      the authors' for ResNet-18 on CIFAR-100.
    sigma: share of the average that is taken out, >= 0; the authors have 1.
    lam: decay of the average, in [0, 1); the authors have 0.6, 0.9 and 0.95.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Li et al. 2024 (CVPR), and the authors' code. Differs from the code,
  which subtracts the average of before the step: with sigma = 1, the authors'
  value, the direction is the same, since g - m_t = lambda (g - m_(t-1)). Where
  a batch has several groups, m_(t-1) is that of the whole batch, and each group
  adds its own gradient to it.
  """
  return create(rho, axes, direction=MinusEma(sigma, lam))
