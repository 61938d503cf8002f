"""SAM along a random direction, a control."""

from sam_jax import perturbations
from sam_jax.methods import base, radius, registry


@registry.register('random')
def random(
  rho: float = 0.05,
  rho_schedule: str = 'constant',
  rho_min: float | None = None,
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
    rho_schedule: see `radius.create`.
    rho_min: see `radius.create`.

  Raises:
    ValueError: a value is out of range.

  Source: Foret et al. 2020, appendix C.5, a control.
  """
  radius_fn = radius.create(rho, rho_schedule, rho_min)
  return base.Perturbed(
    lambda ctx: perturbations.random(radius_fn(ctx), ctx.get('key')),
    gradient_evaluations=1 if rho == 0 else 2,
  )
