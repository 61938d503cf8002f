"""Balls of the p-norms: SAM itself."""

import functools
import math
from collections.abc import Callable

from sam_jax import balls, types
from sam_jax.perturbations import _base


def l2(
  rho: types.Scalar, axis_name: _base.AxisName = None
) -> types.Perturbation:
  r"""Climbs along the gradient, to a sphere of radius rho.

  .. math:: \hat\epsilon = \rho\, g / \|g\|_2

  with one norm over the whole tree (Foret et al. 2020, equation 2, p = 2).

  Args:
    rho: radius, in units of the parameters; a number or a traced scalar. The
      paper tunes it over 0.01, 0.02, 0.05, 0.1, 0.2, 0.5.
    axis_name: mesh axes of `jax.shard_map` over which parameters are split.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: rho is no number, or axis_name no name.
    ValueError: rho is a number and negative, infinite or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import l2
    >>> print(l2(0.5)({'w': jnp.array([3.0, 4.0])}, None)['w'])
    [0.3 0.4]
  """
  return _within(balls.round_ball, rho, axis_name)


def lp(
  rho: types.Scalar, p: float, axis_name: _base.AxisName = None
) -> types.Perturbation:
  r"""Climbs to the point of an l-p ball where the linearised loss is largest.

  .. math::
    \hat\epsilon = \rho\, \mathrm{sign}(g)\, |g|^{q-1} / (\|g\|_q^q)^{1/p},
    \qquad 1/p + 1/q = 1

  (Foret et al. 2020, equation 2), so that :math:`\|\hat\epsilon\|_p = \rho`
  over the whole tree. p = inf is rho sign(g); p = 1 moves the one weight with
  the largest gradient (several that tie share rho).

  Args:
    rho: radius of the ball, a number or a traced scalar.
    p: norm of the ball, in [1, inf]; known before tracing.
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: p is below 1 or NaN, or rho is not a radius.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import lp
    >>> print(lp(0.1, jnp.inf)(jnp.array([3.0, -4.0, 0.0]), None))
    [ 0.1 -0.1  0. ]
    >>> print(lp(0.1, 1)(jnp.array([3.0, -4.0, 0.0]), None))
    [ 0.  -0.1  0. ]
  """
  if not p >= 1:
    raise ValueError(f'p is {p}; the norm of the ball needs p in [1, inf]')
  named = {1: balls.cross, 2: balls.round_ball, math.inf: balls.cube}
  between = functools.partial(balls.between, p=float(p))
  return _within(named.get(p, between), rho, axis_name)


def _within(
  ball: Callable[..., types.PyTree],
  rho: types.Scalar,
  axis_name: _base.AxisName,
) -> types.Perturbation:
  """Returns the perturbation to the point of a ball."""
  return _base.create(
    lambda grads, params, axes: ball(grads, rho, axes), rho, axis_name
  )
