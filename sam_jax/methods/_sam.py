"""Sharpness-Aware Minimization."""

from sam_jax import arguments, perturbations
from sam_jax.methods import base, radius, registry


@registry.register('sam')
def sam(
  rho: float = 0.05,
  p: float = 2.0,
  ascent_steps: int = 1,
  second_order: bool = False,
  rho_schedule: str = 'constant',
  rho_min: float | None = None,
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
    rho_schedule: see `radius.create`.
    rho_min: see `radius.create`.

  Raises:
    ValueError: a value is out of range, or there are several ascent steps with
      second_order.

  Source: Foret et al. 2020, algorithm 1.
  """
  radius_fn = radius.create(rho, rho_schedule, rho_min)
  perturbations.lp(rho, p)  # refuses a p that is none
  arguments.ascent(ascent_steps, second_order)
  # A Hessian-vector product differentiates a gradient: about two of them.
  cost = 1 if rho == 0 else ascent_steps + 1 + 2 * second_order
  return base.Perturbed(
    lambda ctx: perturbations.lp(radius_fn(ctx), p),
    gradient_evaluations=cost,
    ascent_steps=ascent_steps,
    second_order=second_order,
  )
