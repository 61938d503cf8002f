"""Monge SAM: a ball on the surface of the loss."""

import jax
import jax.numpy as jnp

from sam_jax import balls, types
from sam_jax.perturbations import _base


def monge(
  rho: types.Scalar, axis_name: _base.AxisName = None
) -> types.Perturbation:
  r"""Climbs to a distance rho, measured on the surface of the loss.

  .. math:: \hat\epsilon = \frac{\rho\, g}{\|g\|_2 \sqrt{1 + \|g\|_2^2}}

  the point of the ball of the metric :math:`I + g g^\top` where the linearised
  loss is largest; one norm over the whole tree. Where the gradient is small it
  is `l2`, and where it is large epsilon vanishes. It is not homogeneous in the
  gradient: a loss in other units is another perturbation.

  Args:
    rho: radius in units of the metric; a number or a traced scalar.
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: rho is a number and negative, infinite or NaN.

  Source: Jacobsen and Arvanitidis 2025 (Monge SAM), arXiv 2502.08448.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> print(perturbations.monge(0.5)(jnp.array([0.6, 0.8]), None) * 2**0.5)
    [0.3 0.4]
  """

  def climb(
    grads: types.Grads, params: types.Params, axes: tuple[str, ...]
  ) -> types.PyTree:
    del params
    length, is_zero = balls.norm(grads, axes)
    radius = balls.like(rho, length) * jax.lax.rsqrt(1 + jnp.square(length))
    return balls.along(grads, jnp.where(is_zero, 0, radius / length))

  return _base.create(climb, rho, axis_name)
