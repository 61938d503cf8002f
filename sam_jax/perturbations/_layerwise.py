"""Adaptive SAM with one stretch for each tensor."""

import math

from sam_jax import balls, types
from sam_jax.perturbations import _base, _metric, _norms


def layerwise(
  rho: types.Scalar,
  eta: float = 0.0,
  stretched: types.PyTree = None,
  axis_name: _base.AxisName = None,
) -> types.Perturbation:
  r"""Climbs within a ball that is stretched along tensors of a large norm.

  .. math::
    \hat\epsilon = \rho\, T^2 g / \|T g\|_2, \qquad
    T_l = (1 + \eta) \|w_l\|_2

  where l is the tensor, and the norm of T g is that of the whole tree. With a
  single tensor it is `l2` with the radius rho T; with nothing stretched it is
  `l2`. A tensor of zeros does not move, such as a bias at the beginning, unless
  it is not stretched.

  Args:
    rho: radius in the stretched units; a number or a traced scalar.
    eta: makes T larger by a share, >= 0. The default is the formula of the
      paper. If all parameters are stretched, it changes nothing but the unit of
      rho.
    stretched: which parameters are, a mask as in `masked`; the others have
      T = 1. None: all. SAM-ON's code stretches `masks.weights`.
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: rho is not a radius, or eta is negative.

  Source: Kwon et al. 2021 (ASAM), section 3; Mueller et al. 2023 (SAM-ON),
  whose code has the factor 1 + eta, with eta = 0.01.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> g, w = jnp.array([3.0, 4.0]), jnp.array([2.0, 0.0])
    >>> print(perturbations.layerwise(0.5)(g, w))
    [0.6 0.8]
  """
  if not 0 <= eta < math.inf:
    raise ValueError(f'eta is {eta}; T is (1 + eta) |w|: give a number >= 0')
  factor = 1 + float(eta)
  return _metric.stretched(
    _norms.l2(rho, axis_name),
    lambda w, g, axes: factor * balls.tensor_norm(w, axes),
    stretched,
  )
