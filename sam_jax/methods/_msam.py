"""MSAM: a perturbation against the momentum, at the cost of SGD."""

from typing import Unpack

import jax

from sam_jax import leaves, tree, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.interface import Context


@parts.DIRECTIONS.register('momentum')
class Momentum(parts.Direction):
  """Against the optimizer's momentum: where its next step leads, roughly."""

  needs_gradient = False
  needs = ('momentum',)

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> types.PyTree:
    """Returns the negative momentum."""
    del memory, grads
    return jax.tree.map(
      lambda v: -tree.wide(v) if leaves.is_float(v) else None,
      ctx.get('momentum'),
    )


_FIXED = ['direction', 'combine', 'ascent_share', 'descent_share', 'loss_share']


@registry.register('msam', fixes=_FIXED)
def msam(rho: float = 3.0, **axes: Unpack[Axes]) -> base.Method:
  r"""Returns Momentum-SAM.

  .. math::
    \epsilon = -\rho\, v / \|v\|_2, \qquad \tilde g = \nabla L(w + \epsilon)

  with the optimizer's momentum v of before the step: the velocity of SGD, the
  first moment of Adam and its family. The sign is minus: the gradient is taken
  ahead of w, on the way that the momentum leads. In the first step v is zero,
  and nothing is perturbed. One gradient in a step; no memory besides the
  optimizer's. With rho = 0 it is SGD. For when SAM's second gradient is too
  expensive.

  There is no gradient at w. Loss, error and BatchNorm statistics of the
  training are those at w + epsilon, and what compares the two is not logged. A
  batch has one perturbation, whatever m is. In a loop of one's own,
  `value_and_grad` needs `takes_momentum=True`.

  Args:
    rho: radius of the perturbation, in units of the parameters. The default is
      the authors' for CIFAR; they have 0.3 for ResNet-50 on ImageNet, and 3 in
      one place and 10 in another for ViT-S/32. Much larger than SAM's.
    **axes: metric, mask and times, see `Axes`.

  Raises:
    ValueError: a value is out of range; or, before the first step, the
      optimizer has no momentum.

  Source: Becker et al. 2024 (arXiv 2401.12033), and the authors' code. Differs
  from the code, which keeps w + epsilon between the steps and has to undo it
  before an evaluation or a checkpoint: here w is kept, and both need nothing.
  The momentum is what the optimizer has, of clipped gradients if they are
  clipped. It holds weight decay that is in the loss, where the gradient of the
  penalty is taken at w + epsilon as in the authors' code, or added to the
  gradient; decoupled weight decay takes no part.
  """
  return create(rho, axes, direction=Momentum())
