"""SAM along a random direction, a control."""

from typing import Unpack

from sam_jax import perturbations, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.interface import Context


@parts.DIRECTIONS.register('random')
class Random(parts.Direction):
  """Along normal numbers, drawn anew by each group in every step.

  The gradient at w is made all the same: of it are value and metrics.
  """

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> types.PyTree:
    """Returns the direction."""
    del memory
    return perturbations.random(1.0, ctx.get('key'))(grads, None)


@registry.register('random', fixes=['direction'])
def random(
  rho: float = 0.05,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns SAM along a random direction in place of the gradient's.

  .. math::
    \epsilon = \rho\, z / \|z\|_2, \quad z \sim N(0, I), \qquad
    \tilde g = \nabla L(w + \epsilon)

  Each group draws a direction of its own in every step. Two gradients in a
  step, the first of which serves value, metrics and BatchNorm alone. With rho =
  0 it is SGD. In a loop of one's own, `value_and_grad` needs a `key`.

  Args:
    rho: radius of the perturbation, in units of the parameters.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Foret et al. 2020, appendix C.5, a control.
  """
  return create(rho, axes, direction=Random())
