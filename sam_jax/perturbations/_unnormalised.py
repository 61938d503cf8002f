"""SAM without the division by the norm, and what is between the two."""

import numbers

import jax
import jax.numpy as jnp

from sam_jax import balls, types
from sam_jax.perturbations import _base


def unnormalised(
  rho: types.Scalar, axis_name: _base.AxisName = None
) -> types.Perturbation:
  r"""Climbs a multiple of the gradient.

  .. math:: \hat\epsilon = \rho\, g

  It is `unified` with lam = 0. It is homogeneous of degree one: near a minimum
  it perturbs less.

  Args:
    rho: factor; a number or a traced scalar. It is in other units than the rho
      of `l2`: divided by a usual norm of the gradient.
    axis_name: see `l2`. There is no norm; with it slices are not refused.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: rho is a number and negative, infinite or NaN.

  Source: Andriushchenko and Flammarion 2022 (USAM).

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> print(perturbations.unnormalised(0.5)(jnp.array([3.0, 4.0]), None))
    [1.5 2. ]
  """

  def climb(
    grads: types.Grads, params: types.Params, axes: tuple[str, ...]
  ) -> types.PyTree:
    del params, axes
    return balls.along(grads, jnp.asarray(rho))

  return _base.create(climb, rho, axis_name)


def unified(
  rho: types.Scalar, lam: types.Scalar, axis_name: _base.AxisName = None
) -> types.Perturbation:
  r"""Climbs between SAM and its unnormalised form.

  .. math::
    \hat\epsilon = \rho \left(1 - \lambda + \frac{\lambda}{\|g\|_2}\right) g

  with one norm over the whole tree. With lam = 1 it is `l2`, with lam = 0 it is
  `unnormalised`; between, it is not homogeneous in the gradient.

  Args:
    rho: see `l2`; a number or a traced scalar.
    lam: share of the normalised direction, in [0, 1]; a number or a traced
      scalar. The paper also has 1 / t and 1 - 1 / t at step t.
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: rho is not a radius, or lam is a number outside of [0, 1].

  Source: Oikonomou and Loizou 2025 (Unified SAM), arXiv 2503.02225.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> print(perturbations.unified(0.5, 0.5)(jnp.array([0.0, 4.0]), None))
    [0.   1.25]
  """
  if isinstance(lam, numbers.Real) and not 0 <= lam <= 1:
    raise ValueError(f'lam is {lam}; it is a share: give a number in [0, 1]')

  def climb(
    grads: types.Grads, params: types.Params, axes: tuple[str, ...]
  ) -> types.PyTree:
    del params
    length, is_zero = balls.norm(grads, axes)
    share = balls.like(lam, length)
    normalised: jax.Array = jnp.where(is_zero, 0, share / length)
    return balls.along(
      grads, balls.like(rho, length) * (1 - share + normalised)
    )

  return _base.create(climb, rho, axis_name)
