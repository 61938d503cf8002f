"""S2-SAM: a perturbation along the gradient of the step before."""

from typing import Unpack

from sam_jax import leaves, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.interface import Context


@parts.DIRECTIONS.register('previous')
class Previous(parts.Direction):
  """Along what the optimizer got in the step before; at first nothing."""

  needs_gradient = False

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns zeros."""
    return leaves.wide_zeros(params)

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> types.PyTree:
    """Returns the gradient that is remembered."""
    del grads, ctx
    return memory

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the gradient of the step."""
    del stats, ctx
    return leaves.kept(memory, grads)


_FIXED = ['direction', 'combine', 'ascent_share', 'descent_share', 'loss_share']


@registry.register('s2sam', fixes=_FIXED)
def s2sam(rho: float = 0.05, **axes: Unpack[Axes]) -> base.Method:
  r"""Returns single-step SAM (S2-SAM), with the gradient of the step before.

  .. math::
    \epsilon_t = \rho\, \tilde g_{t-1} / \|\tilde g_{t-1}\|_2, \qquad
    \tilde g_t = \nabla L_t(w_t + \epsilon_t)

  where the gradient before the first step is zero: it perturbs nothing. One
  gradient in a step; the state is a tree like the parameters. With rho = 0 it
  is SGD. For when SAM's second gradient is too expensive; `msam` has the whole
  momentum in place of one gradient, and the other sign.

  There is no gradient at w. Loss, error and BatchNorm statistics of the
  training are those at w + epsilon, and what compares the two is not logged.
  The gradient that is kept is that of the whole batch, before it is clipped: a
  batch has one perturbation, whatever m is.

  Args:
    rho: radius of the perturbation, in units of the parameters. The default is
      that of the authors' code.
    **axes: metric, mask and times, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Ji et al. 2024 (NeurIPS), whose abstract has the idea; the formula is
  that of a public copy of their code. Differs from it in the first step, which
  is a step of SAM there, with two gradients. Not the same as ascent on the
  previous batch (Andriushchenko and Flammarion 2022, `sam_use_prev_batch` in
  their code): that evaluates the batch of the step before at the present w, for
  a second gradient in each step. It is not here, since no step has two batches.
  """
  return create(rho, axes, direction=Previous())
