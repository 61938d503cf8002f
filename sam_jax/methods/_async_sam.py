"""AsyncSAM: the perturbation is made of the gradient some steps ago."""

from typing import Unpack

import jax

from sam_jax import leaves, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.interface import Context, Problem


@parts.DIRECTIONS.register('delayed')
class Delayed(parts.Direction):
  """Along the gradient at w of some steps ago; before there is one, nothing."""

  def __init__(self, delay: int = 1) -> None:
    """Takes the number of steps.

    Raises:
      ValueError: it is negative.
    """
    if delay < 0:
      raise ValueError(
        f'delay is {delay}; it is a number of steps: give one >= 0'
      )
    self._delay = delay

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns zeros for each step of the delay."""
    return [leaves.wide_zeros(params) for _ in range(self._delay)]

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> types.PyTree:
    """Returns the oldest gradient."""
    del ctx
    if not self._delay:
      return grads
    return jax.tree.map(
      lambda old, g: None if g is None else old, memory[0], grads
    )

  def stats(
    self,
    problem: Problem,
    memory: types.PyTree,
    params: types.Params,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the gradient at w."""
    del problem, memory, params, ctx
    return leaves.differentiable(grads) if self._delay else ()

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the gradients with that of the step, without the oldest."""
    del grads, ctx
    if not self._delay:
      return memory
    return [*memory[1:], leaves.kept(memory[0], stats)]


@registry.register('async_sam', fixes=['direction'])
def async_sam(
  rho: float = 0.1, delay: int = 1, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns asynchronous SAM (AsyncSAM).

  .. math::
    \epsilon_t = \rho\, g_{t-\tau} / \|g_{t-\tau}\|_2, \quad
    g_t = \nabla L_t(w_t), \qquad \tilde g_t = \nabla L_t(w_t + \epsilon_t)

  The perturbation is ready before the step begins, so that its two gradients do
  not wait for each other. Two gradients in a step: the work is that of SAM, and
  time is gained only where they run at the same time, which is left to the
  compiler here. The state is a tree like the parameters for each step of the
  delay. With delay = 0 it is SAM, with rho = 0 it is SGD. The first steps, as
  many as the delay, perturb nothing.

  The gradient that is kept is that of the whole batch: a batch has one
  perturbation, whatever m is. To spend less on it, as the authors do, set
  `ascent_share`.

  Args:
    rho: radius of the perturbation, in units of the parameters. The default is
      ours: tune it as for SAM.
    delay: tau, the age of the gradient in steps, >= 0; the authors have 1.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Jo et al. 2025 (arXiv 2503.11147). Differs from the paper, where
  another processor makes the gradient of the perturbation at the same time, of
  as many examples as it has time for.
  """
  return create(rho, axes, direction=Delayed(delay))
