"""SAMSON: adaptive SAM in units of the largest weights of a tensor."""

import math

import jax.numpy as jnp

from sam_jax import balls, types
from sam_jax.perturbations import _base, _metric, _norms


def samson(
  rho: types.Scalar, p: float = 2.0, axis_name: _base.AxisName = None
) -> types.Perturbation:
  r"""Climbs within a ball that is stretched by |w| over the norm of its tensor.

  .. math::
    \hat\epsilon = \rho\, T^2 g / \|T g\|_2, \qquad T = |w| / \|w_l\|_p

  elementwise, where l is the tensor of w, and the norm of T g is that of the
  whole tree. Weights of zero do not move. A factor of a whole tensor changes
  nothing in T: unlike with `asam`, epsilon does not grow with the weights.

  This is a RECONSTRUCTION from the paper's abstract, which says that the
  perturbation of a weight depends on its magnitude and on the range of the
  weights. No code and no formula of the authors could be read.

  Args:
    rho: radius in the stretched units; a number or a traced scalar.
    p: norm that stands for the range of the weights, 2 or inf.
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: rho is not a radius, or p is neither 2 nor inf.

  Source: Mordido et al. 2022, arXiv 2211.11561 (abstract).

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> perturb = perturbations.samson(0.5, p=jnp.inf)
    >>> print(perturb(jnp.array([6.0, 4.0]), jnp.array([1.0, -2.0])))
    [0.15 0.4 ]
  """
  if p not in (2, math.inf):
    raise ValueError(f'p is {p}; the range of the weights is p = 2 or p = inf')
  range_of = balls.tensor_norm if p == 2 else balls.tensor_max
  return _metric.stretched(
    _norms.l2(rho, axis_name),
    lambda w, g, axes: jnp.abs(w) / balls.nonzero(range_of(w, axes)),
  )
