"""FSAM for language models: SAM of a tenth of the parameters."""

from typing import Unpack

import jax

from sam_jax import tree, types
from sam_jax.methods import base, masks, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.interface import Context, Problem


@parts.MASKS.register('squared_gradient')
class SquaredGradient(masks.Remembered):
  """Those with the largest squared gradient of the whole batch."""

  needs_gradient = True

  def __init__(self, keep_ratio: float = 0.1, refresh: int = 100) -> None:
    """Takes the share that is perturbed.

    Raises:
      ValueError: a value is out of range.
    """
    super().__init__(refresh)
    if not 0 < keep_ratio <= 1:
      raise ValueError(
        f'keep_ratio is {keep_ratio}; it is the share of the parameters that '
        'are perturbed: give a number in (0, 1]'
      )
    self._keep_ratio = keep_ratio

  def stats(
    self,
    problem: Problem,
    memory: types.PyTree,
    params: types.Params,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the gradient at w, to be averaged and then squared."""
    del problem, memory, params, ctx
    return grads

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the mask of the steps that follow."""
    del grads
    count = masks.kept(memory, self._keep_ratio)

    def remade() -> types.PyTree:
      scores = masks.flat(tree.squares(stats))
      return masks.like(masks.largest(scores, count), memory)

    return jax.lax.cond(self.is_due(ctx), remade, lambda: memory)


@registry.register('fisher_mask_sam', fixes=['mask'])
def fisher_mask_sam(
  rho: float = 0.05,
  keep_ratio: float = 0.1,
  refresh: int = 100,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns FSAM, sparse SAM for the fine-tuning of language models.

  .. math::
    \epsilon = \rho\, M \odot g / \|g\|_2, \qquad
    \tilde g = \nabla L(w + \epsilon)

  with the norm of the full gradient, and M = 1 for the share of all parameters
  with the largest squared gradient of one batch, the Fisher information as far
  as a batch shows it, made anew in every so many steps. It is the square of the
  averaged gradient of the whole batch, whatever m is. Two gradients in a step.
  The state is a bool for each parameter; the gradient at w is averaged over the
  devices like the other one. With keep_ratio = 1 it is SAM, and it is in the
  first step, which has no mask yet; with rho = 0 it is SGD. The name has the
  mask in it: FSAM, Fisher SAM and F-SAM are three methods.

  Args:
    rho: radius of the full perturbation, in units of the parameters; the
      authors have 0.05.
    keep_ratio: share of the parameters that are perturbed, in (0, 1]; the
      authors have 0.1.
    refresh: steps from one mask to the next; the authors have 100.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Zhong et al. 2022 (Improving sharpness-aware minimization with Fisher
  mask for better generalization on language models). Differs from the authors'
  code: there the mask leaves out biases and embeddings, which are always
  perturbed in full, the norm is that of each group of parameters, and a mask is
  used in the step that makes it; here it covers all parameters, and is used
  from the next step on.
  """
  return create(rho, axes, mask=SquaredGradient(keep_ratio, refresh))
