"""Adaptive SAM: a ball that is stretched along large parameters."""

from sam_jax import perturbations
from sam_jax.methods import base, radius, registry


@registry.register('asam')
def asam(
  rho: float = 0.5,
  eta: float = 0.01,
  p: float = 2.0,
  rho_schedule: str = 'constant',
  rho_min: float | None = None,
) -> base.Method:
  r"""Returns Adaptive SAM.

  .. math::
    \epsilon = \rho\, T^2 g / \|T g\|_2, \quad T = |w| + \eta, \qquad
    \tilde g = \nabla L(w + \epsilon)

  elementwise, with one norm over the whole tree; for p = inf it is rho T
  sign(g). A factor that moves from one layer to the next changes nothing if eta
  is 0. Two gradients in a step. With rho = 0 it is SGD, with T = 1 it is SAM.

  Args:
    rho: radius in the stretched units. The default is the paper's for
      CIFAR-10; it has 1.0 for CIFAR-100 and ImageNet.
    eta: added to the magnitudes, >= 0.
    p: norm of the ball, in [1, inf].
    rho_schedule: see `radius.create`.
    rho_min: see `radius.create`.

  Raises:
    ValueError: a value is out of range.

  Source: Kwon et al. 2021, equation 6. Differs from the authors' code, which
  has T = 1 for biases and BatchNorm: here the rule is the same for all.
  """
  radius_fn = radius.create(rho, rho_schedule, rho_min)
  perturbations.asam(rho, eta, p)  # refuses what is out of range
  return base.Perturbed(
    lambda ctx: perturbations.asam(radius_fn(ctx), eta, p),
    gradient_evaluations=1 if rho == 0 else 2,
  )
