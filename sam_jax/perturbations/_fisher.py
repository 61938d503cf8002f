"""Fisher SAM: a ball of the model's predictions, not of its parameters."""

import math

import jax
import jax.numpy as jnp

from sam_jax import balls, tree, types
from sam_jax.perturbations import _base, _metric


def fisher(
  rho: types.Scalar, eta: float = 1.0, axis_name: _base.AxisName = None
) -> types.Perturbation:
  r"""Climbs within a ball of the Fisher metric, less along large gradients.

  .. math::
    \hat\epsilon = \rho\, F^{-1} g / \sqrt{\langle g, F^{-1} g \rangle},
    \qquad F = 1 + \eta\, g^2

  elementwise: the squared gradient of the batch stands for the diagonal of the
  Fisher information. With eta = 0 it is `l2`. It is not homogeneous in the
  gradient: a loss in other units is another perturbation.

  Args:
    rho: radius in units of the metric; a number or a traced scalar. 0.1 is
      usual.
    eta: weight of the Fisher information, >= 0.
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: rho is not a radius, or eta is negative.

  Source: Kim et al. 2022 (Fisher SAM), in the form and with the defaults of a
  public implementation; the authors' code could not be read. Their gamma is rho
  here.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> print(perturbations.fisher(0.5, eta=0)(jnp.array([3.0, 4.0]), None))
    [0.3 0.4]
  """
  if not 0 <= eta < math.inf:
    raise ValueError(f'eta is {eta}; F is 1 + eta g^2: give a number >= 0')
  weight = float(eta)

  def root(g: jax.Array) -> jax.Array:
    """Returns T = F^(-1/2): the perturbation is T l2(T g)."""
    return jax.lax.rsqrt(1 + weight * jnp.square(jnp.abs(tree.wide(g))))

  def climb(
    grads: types.Grads, params: types.Params, axes: tuple[str, ...]
  ) -> types.PyTree:
    del params
    factors = balls.each(root, grads)
    ascended = balls.round_ball(_metric.times(factors, grads), rho, axes)
    return _base.rounded(_metric.times(factors, ascended), grads)

  return _base.create(climb, rho, axis_name)
