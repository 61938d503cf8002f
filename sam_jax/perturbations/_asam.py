"""Adaptive SAM: a ball that is stretched along large parameters."""

import math

import jax.numpy as jnp

from sam_jax import types
from sam_jax.perturbations import _base, _metric, _norms


def asam(
  rho: types.Scalar,
  eta: float = 0.01,
  p: float = 2.0,
  stretched: types.PyTree = None,
  axis_name: _base.AxisName = None,
) -> types.Perturbation:
  r"""Climbs within a ball that is stretched along large parameters.

  .. math::
    \hat\epsilon = T\, \mathrm{lp}(T g), \quad T = |w| + \eta, \qquad
    p = 2:\; \hat\epsilon = \rho\, T^2 g / \|T g\|_2

  elementwise, so that :math:`\|T^{-1} \hat\epsilon\|_p = \rho`. With eta = 0 a
  factor that moves from one layer to the next changes nothing. Where nothing is
  stretched it is `lp`.

  Two rules are in use for what is stretched. The authors' code stretches what
  PyTorch calls a weight, and has T = 1 for biases: `masks.weights`. The most
  used implementation in PyTorch stretches everything, with eta = 0.

  Args:
    rho: radius in the stretched units; a number or a traced scalar. The paper
      has 0.5 for CIFAR-10, 1.0 for CIFAR-100 and ImageNet; with everything
      stretched and eta = 0, 2.0 is usual.
    eta: added to the magnitudes, >= 0: what lets a zero weight move. The
      default is that of the paper.
    p: norm of the ball, in [1, inf].
    stretched: which parameters are, a mask as in `masked`; the others have
      T = 1, and are in the norm. None: all.
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: rho is not a radius, eta is negative, or p is below 1.

  Source: Kwon et al. 2021 (ASAM), equation 6 and its p = inf; the rule for
  what is stretched: the authors' code.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> print(perturbations.asam(0.5, eta=0)(
    ...   jnp.array([3.0, 2.0]), jnp.array([1.0, -2.0])))
    [0.3 0.8]
  """
  if not 0 <= eta < math.inf:
    raise ValueError(f'eta is {eta}; it is added to |w|: give a number >= 0')
  offset = float(eta)
  return _metric.stretched(
    _norms.lp(rho, p, axis_name),
    lambda w, g, axes: jnp.abs(w) + offset,
    stretched,
  )


adaptive = asam
