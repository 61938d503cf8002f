"""Loss-equated SAM: a budget of the loss in place of a radius."""

import math

import jax.numpy as jnp

from sam_jax import balls, types
from sam_jax.perturbations import _base


def loss_equated(
  sigma: types.Scalar,
  rho_max: float = math.inf,
  axis_name: _base.AxisName = None,
) -> types.Perturbation:
  r"""Climbs until the linearised loss has risen by a budget.

  .. math::
    \hat\epsilon = \min\left(\frac{\sigma}{\|g\|_2}, \rho_{max}\right)
      \frac{g}{\|g\|_2}

  with one norm over the whole tree, so that :math:`\langle g, \hat\epsilon
  \rangle = \sigma` unless the radius is at its limit. There it is `l2` with the
  radius rho_max. It is homogeneous of degree minus one where it is not: half
  the gradient is twice the perturbation.

  Args:
    sigma: the budget, in units of the loss; a number or a traced scalar. The
      authors have 0.35 for CIFAR-100, reached in 10 epochs, constant, and from
      epoch 160 of 200 on annealed to 0 along a cosine.
    rho_max: the largest radius, > 0. The authors have 0.3 or no limit; without
      one a gradient near zero gives a perturbation without bounds.
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: sigma is a number and negative, infinite or NaN, or rho_max is
      not above zero.

  Source: Wang et al. 2026 (LE-SAM), arXiv 2605.10183, and the authors' code,
  which adds 1e-12 to the norms; here a zero gradient is treated apart.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> perturb = perturbations.loss_equated(5.0, rho_max=2.0)
    >>> print(perturb(jnp.array([3.0, 4.0]), None))
    [0.6 0.8]
    >>> print(perturb(jnp.array([0.75, 1.0]), None))
    [1.2 1.6]
  """
  if not rho_max > 0:
    raise ValueError(
      f'rho_max is {rho_max}; it is the largest radius: give a number > 0'
    )

  def climb(
    grads: types.Grads, params: types.Params, axes: tuple[str, ...]
  ) -> types.PyTree:
    del params
    length, is_zero = balls.norm(grads, axes)
    radius = jnp.minimum(
      balls.like(sigma, length) / length, balls.like(rho_max, length)
    )
    return balls.along(grads, jnp.where(is_zero, 0, radius / length))

  return _base.create(
    climb, sigma, axis_name, name='sigma', kind='a budget of the loss'
  )
