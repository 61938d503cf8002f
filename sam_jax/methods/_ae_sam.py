"""AE-SAM: SAM where the gradient is large for its time."""

import math
from typing import Unpack

import jax
import jax.numpy as jnp

from sam_jax import tree, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Untimed, create
from sam_jax.methods.interface import Context, Problem


@parts.WHENS.register('gradient_norm')
class GradientNorm(parts.When):
  """Where the squared norm of the gradient is far above its moving average.

  Each group decides by its own gradient, before the groups know of each other:
  by the averages of the steps before, which are of all groups, moved on by its
  own gradient. With one group that is the paper's decision.
  """

  needs_gradient = True

  def __init__(
    self, lambda_1: float = -1.0, lambda_2: float = 1.0, decay: float = 0.9
  ) -> None:
    """Takes the thresholds at the end and the start, and the forgetting rate.

    Raises:
      ValueError: a threshold is not finite, or the rate is not in [0, 1).
    """
    for name, value in (('lambda_1', lambda_1), ('lambda_2', lambda_2)):
      if not math.isfinite(value):
        raise ValueError(f'{name} is {value}; it must be a finite number')
    if not 0 <= decay < 1:
      raise ValueError(f'decay is {decay}; give a number in [0, 1)')
    self._end, self._start, self._decay = lambda_1, lambda_2, decay
    self.share = _expected_share(lambda_1, lambda_2)

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns mean and variance of the squared norm."""
    del params
    return {'mean': jnp.float32(0), 'variance': jnp.float32(0)}

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> jax.Array:
    """Returns whether the group's gradient is above the threshold."""
    square = tree.vdot(grads, grads)
    stats = self._moved(memory, self._measured(memory, square))
    progress = jnp.minimum(ctx.step / ctx.get('num_steps'), 1)
    threshold = self._start + (self._end - self._start) * progress
    deviation = jnp.sqrt(stats['variance'])
    return square >= stats['mean'] + threshold * deviation

  def stats(
    self,
    problem: Problem,
    memory: types.PyTree,
    params: types.Params,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns what the averages are moved by."""
    del problem, params, ctx
    return self._measured(memory, tree.vdot(grads, grads))

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the averages after the step."""
    del grads, ctx
    return self._moved(memory, stats)

  def _measured(
    self, memory: types.PyTree, square: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns a squared norm, and its squared distance from the new mean."""
    distance = self._decay * (square - memory['mean'])
    return {'mean': square, 'variance': distance**2}

  def _moved(
    self, memory: types.PyTree, measured: types.PyTree
  ) -> dict[str, jax.Array]:
    """Returns averages that are moved on."""
    return {
      name: self._decay * memory[name] + (1 - self._decay) * measured[name]
      for name in memory
    }


@registry.register('ae_sam')
def ae_sam(
  rho: float = 0.05,
  lambda_1: float = -1.0,
  lambda_2: float = 1.0,
  decay: float = 0.9,
  **axes: Unpack[Untimed],
) -> base.Method:
  r"""Returns AE-SAM: SAM where the landscape is sharp, else SGD.

  .. math::
    \mu_t &= \delta \mu_{t-1} + (1 - \delta) \|g_t\|^2, \qquad
    \sigma_t^2 = \delta \sigma_{t-1}^2 + (1 - \delta) (\|g_t\|^2 - \mu_t)^2, \\
    c_t &= \tfrac{t}{T} \lambda_1 + (1 - \tfrac{t}{T}) \lambda_2, \qquad
    \tilde g_t = \begin{cases}
      \nabla L(w_t + \rho\, g_t / \|g_t\|_2) &
        \|g_t\|^2 \ge \mu_t + c_t \sigma_t \\
      g_t & \text{else}
    \end{cases}

  One gradient in a step, and another one where it perturbs. The declared cost
  is an expectation: that of the paper's assumption that the squared norm is
  normal around its average, 1.5 with the defaults; training logs the share of
  the groups that were perturbed. With a very negative lambda_1 and lambda_2 it
  is SAM, with very large ones or rho = 0 it is SGD. Use it in place of `ss_sam`
  at the same cost. In a loop of one's own, `value_and_grad` needs `num_steps`.

  With several groups (m below B) each decides by its own gradient. mu and sigma
  are shared: means over the groups of the squared norm, and of its squared
  distance from mu as the group sees it.

  Args:
    rho: radius of the perturbation, in units of the parameters, as for `sam`.
    lambda_1: threshold at the end of the run, in standard deviations.
    lambda_2: threshold at its start. With the defaults, which are ours, SAM is
      rare at the start and frequent at the end, and in half of all steps as in
      the authors' results.
    decay: delta, how much of the averages is kept in a step, in [0, 1).
    **axes: other choices on the axes, see `Untimed`. The gradient is that of
      the loss that is trained: weight decay with `place='descent'` takes part
      in the perturbation too.

  Raises:
    ValueError: a value is out of range.

  Source: Jiang et al. 2023, section 3. Differs from the paper: both averages
  start at 0, so that the first step perturbs.
  """
  when = GradientNorm(lambda_1, lambda_2, decay)
  return create(rho, axes, when=when)


def _expected_share(low: float, high: float) -> float:
  """Returns how often a normal number is above a threshold that moves."""

  def above(c: float) -> float:
    return math.erfc(c / math.sqrt(2)) / 2

  def integral(c: float) -> float:
    return c * above(c) - math.exp(-c * c / 2) / math.sqrt(2 * math.pi)

  if high == low:
    return above(low)
  return (integral(high) - integral(low)) / (high - low)
