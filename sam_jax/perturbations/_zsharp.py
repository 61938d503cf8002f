"""ZSharp: the part of each tensor's gradient that stands out."""

import math

import jax
import jax.numpy as jnp

from sam_jax import balls, tree, types
from sam_jax.perturbations import _base


def zsharp(
  rho: types.Scalar, quantile: float = 0.95, axis_name: _base.AxisName = None
) -> types.Perturbation:
  r"""Climbs along the numbers of the gradient that stand out in their tensor.

  .. math::
    \hat\epsilon = \rho\, \tilde g / \|\tilde g\|_2, \qquad
    \tilde g_i = g_i \text{ if } |z_i| \ge Q_l \text{ else } 0, \qquad
    z_i = (g_i - \mu_l) / \sigma_l

  where mu and sigma are the mean and the standard deviation over the tensor l,
  Q is the quantile of |z| over that tensor, and the norm is that of the whole
  tree. Numbers that tie with the quantile are kept, so that a tensor whose
  numbers are all the same, or that is a single number, is kept whole. With
  quantile = 0 it is `l2`.

  Args:
    rho: radius, in units of the parameters; a number or a traced scalar. The
      paper has 0.05.
    quantile: share of each tensor that is left out, in [0, 1); the next whole
      number of them where it is between two.
    axis_name: see `l2`. Of a tensor that is split each device gathers the
      whole, one tensor after the other.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: rho is not a radius, or quantile is outside of [0, 1).

  Source: Yun 2025 (ZSharp), arXiv 2505.02369. Differs from the authors' code,
  which normalises the filtered gradient of each tensor by its own norm, so that
  every tensor moves by rho, and leaves vectors unfiltered.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> perturb = perturbations.zsharp(0.5, quantile=0.5)
    >>> print(perturb(jnp.array([3.0, 0.1, -4.0, -0.1]), None))
    [ 0.3  0.  -0.4  0. ]
  """
  if not 0 <= quantile < 1:
    raise ValueError(
      f'quantile is {quantile}; it is the share that is left out of a tensor: '
      'give a number in [0, 1)'
    )

  def climb(
    grads: types.Grads, params: types.Params, axes: tuple[str, ...]
  ) -> types.PyTree:
    del params
    kept = balls.each(lambda g: _outstanding(g, quantile, axes), grads)
    return balls.round_ball(kept, rho, axes)

  return _base.create(climb, rho, axis_name)


def _outstanding(
  g: jax.Array, quantile: float, axes: tuple[str, ...]
) -> jax.Array:
  """Returns a tensor with zeros where |z| is below its quantile."""
  g = jnp.asarray(g)
  if not g.size:
    return g
  whole = _whole(jax.lax.stop_gradient(tree.wide(g)), axes)
  mean = jnp.mean(whole)
  # The order of |z| is that of the deviations: sigma is not needed, and none is
  # divided by. With a few roundings of slack, ties stay ties.
  ordered = jnp.sort(jnp.abs(whole - mean))
  slack = 8 * jnp.finfo(ordered.dtype).eps * jnp.max(jnp.abs(whole))
  # Of 101 numbers and 0.55, the one of rank 55, though 0.55 * 100 is above 55.
  rank = math.ceil(round(quantile * (ordered.size - 1), 6))
  threshold = ordered[rank] - slack
  deviation = jnp.abs(jax.lax.stop_gradient(tree.wide(g)) - mean)
  # In this order a NaN is not below the threshold, and stays.
  return jnp.where(deviation < threshold, 0, g)


def _whole(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """Returns all numbers of a tensor that may be split, in one vector."""
  if tree.is_cut(x):
    x = jax.sharding.reshard(x, jax.sharding.PartitionSpec())
  return balls.gathered(x, axes).ravel()
