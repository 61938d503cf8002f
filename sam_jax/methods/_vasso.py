"""VaSSO: the noise of a batch is averaged out of the perturbation."""

from typing import Unpack

import jax
import jax.numpy as jnp

from sam_jax import leaves, tree, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.interface import Context, Problem


@parts.DIRECTIONS.register('ema')
class Ema(parts.Direction):
  """Along a moving average of the gradients at w, the present one included.

  What is remembered is the average over all groups. Each group makes its
  perturbation of what was remembered before the step and its own gradient. The
  average also moves in steps that do not perturb.
  """

  def __init__(self, theta: float = 0.9) -> None:
    """Takes the weight of the newest gradient.

    Raises:
      ValueError: it is not in (0, 1].
    """
    if not 0 < theta <= 1:
      raise ValueError(
        f'theta is {theta}; it is the weight of the newest gradient in the '
        'average: give a number in (0, 1]'
      )
    self._theta = theta

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns an average of nothing."""
    # The number of the step would not tell: the first ones may be skipped.
    return {'average': leaves.wide_zeros(params), 'is_made': jnp.bool_(False)}

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> types.PyTree:
    """Returns the average with the gradient of the group."""
    del ctx
    return self.moved(memory, grads)

  def moved(
    self, memory: types.PyTree, grads: types.Grads | None
  ) -> types.PyTree:
    """Returns the average with one gradient more."""
    weight = jnp.where(memory['is_made'], self._theta, 1.0)

    def move(average: jax.Array, g: jax.Array | None) -> jax.Array | None:
      if g is None:
        return None
      return average + tree.times(weight, tree.wide(g) - average)

    return jax.tree.map(move, memory['average'], grads)

  def stats(
    self,
    problem: Problem,
    memory: types.PyTree,
    params: types.Params,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the gradient."""
    del problem, memory, params, ctx
    return leaves.differentiable(grads)

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the average with the gradient of the whole batch."""
    del grads, ctx
    average = leaves.kept(memory['average'], self.moved(memory, stats))
    return {'average': average, 'is_made': jnp.bool_(True)}


@registry.register('vasso', fixes=['direction'])
def vasso(
  rho: float = 0.2, theta: float = 0.9, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns Variance-Suppressed Sharpness-aware Optimization (VaSSO).

  .. math::
    d_0 = g_0, \quad d_t = (1 - \theta)\, d_{t-1} + \theta\, g_t, \qquad
    \epsilon = \rho\, d_t / \|d_t\|_2, \qquad
    \tilde g = \nabla L(w + \epsilon)

  with the gradient g at w: the perturbation is made of a moving average, in
  which the noise of single batches is weaker. Two gradients in a step; the
  state is a tree like the parameters. With theta = 1 it is SAM, with rho = 0 it
  is SGD. For small batches and noisy gradients; `friendly_sam` is the opposite
  idea.

  Args:
    rho: radius of the perturbation, in units of the parameters. The default is
      the authors' for WRN-28-10 on CIFAR-100.
    theta: weight of the newest gradient, in (0, 1]; the authors have 0.9 there.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Li and Giannakis 2023 (NeurIPS), and the authors' code. Differs from
  it where a batch has several groups: the remembered average is that of the
  whole batch, and each group adds its own gradient to it.
  """
  return create(rho, axes, direction=Ema(theta))
