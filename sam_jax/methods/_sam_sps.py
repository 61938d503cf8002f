"""SAM-SPS: SAM with the step size of Polyak, in place of a learning rate."""

import dataclasses
import math
from typing import Unpack

import jax
import jax.numpy as jnp

from sam_jax import tree, types
from sam_jax.methods import base, interface, registry
from sam_jax.methods.axes import Choices, create
from sam_jax.methods.perturbed import Perturbed


@registry.register('sam_sps', fixes=['direction', 'combine', 'descent_share'])
def sam_sps(
  rho: float = 0.1,
  largest: float = 1.0,
  lower_bound: float = 0.0,
  rho_schedule: str = 'constant',
  rho_min: float | None = None,
  **axes: Unpack[Choices],
) -> base.Method:
  r"""Returns SAM with a Stochastic Polyak Scheduler.

  The gradient is multiplied by the step size, so that an optimizer with the
  learning rate 1 makes the step,

  .. math::
    \tilde g = \gamma_t\, g_s, \qquad
    g_s = \nabla L(w + \epsilon), \qquad \epsilon = \rho\, g / \|g\|_2

  .. math::
    \gamma_t = \min\left\{\frac{[L(w + \epsilon) - \ell^* -
      \langle g_s, \epsilon\rangle]_+}{\|g_s\|^2},\ \gamma_b\right\}

  Two gradients in a step. With rho = 0 it is the step of SPS_max, which costs
  one gradient; where the bound gamma_b decides, it is SAM with the learning
  rate gamma_b. Everything in gamma_t is that of the whole batch, also where
  several groups have a perturbation each. Use it with `optimizer.name='sgd'`,
  no momentum, a constant learning rate of 1 and no weight decay in the loss, if
  no learning rate is to be tuned; another learning rate or a schedule
  multiplies gamma_t, and an optimizer that divides by the length of the
  gradient, such as Adam, undoes it.

  Args:
    rho: radius of the perturbation, in units of the parameters; the authors
      have 0.1 to 0.4 (ResNet-32, CIFAR-100).
    largest: gamma_b, the largest step size, > 0; the authors have 1.
    lower_bound: l*, below the loss of any batch; 0 for losses that are not
      negative. With label smoothing the smallest loss is above 0.
    rho_schedule: see `radius.create`.
    rho_min: see `radius.create`.
    **axes: metric, mask and ascent_share, see `Choices`. With
      `metric='unnormalised'` it is USAM-SPS.

  Raises:
    ValueError: a value is out of range.

  Source: Oikonomou and Loizou 2026 (ICML, arXiv 2606.01827), with the authors'
  code. Differs from it: their weight decay is added to g_s after gamma_t is
  known, and multiplied by it; a zero gradient leaves the parameters, whatever
  gamma_t would be.
  """
  if not 0 < largest < math.inf:
    raise ValueError(
      f'largest is {largest}; it is a step size: give a number > 0'
    )
  if not math.isfinite(lower_bound):
    raise ValueError(f'lower_bound is {lower_bound}; it must be a number')
  schedule = {'rho_schedule': rho_schedule, 'rho_min': rho_min}
  method = create(rho, {**axes, **schedule})
  if isinstance(method, Perturbed) and method.mask.remembers:
    raise ValueError(
      'sam_sps takes a mask that remembers nothing; choose another one'
    )
  return _SamSps(
    method,
    float(largest),
    float(lower_bound),
    gradient_evaluations=method.gradient_evaluations,
    needs=method.needs,
  )


@dataclasses.dataclass(frozen=True)
class _SamSps(base.Method):
  """See `sam_sps`."""

  method: base.Method
  largest: float
  lower_bound: float
  gradient_evaluations: float
  needs: tuple[str, ...]

  @property
  def measures_all(self) -> bool:
    """Whether value and metrics of a step are means over all examples."""
    return self.method.measures_all

  def gradient(
    self,
    problem: interface.Problem,
    state: interface.State,
    params: types.Params,
    ctx: interface.Context,
  ) -> interface.GroupResult:
    """Returns SAM's gradient; stats is what the linearised loss is at w."""
    if isinstance(self.method, Perturbed):
      result, info = self.method.perturb(problem, params, ctx)
      # JAX's gradient is the conjugate of the way uphill.
      uphill = jax.tree.map(jnp.conj, info.descent_grads)
      slope = tree.vdot(uphill, info.epsilon)
      return result._replace(stats=info.perturbed_value - slope)
    result = self.method.gradient(problem, state, params, ctx)
    return result._replace(stats=result.out[0])

  def conclude(
    self,
    memory: types.PyTree,
    result: interface.GroupResult,
    ctx: interface.Context,
  ) -> tuple[types.Grads, types.PyTree]:
    """Multiplies the gradient by the step size."""
    del ctx
    squared = tree.vdot(result.grads, result.grads)
    is_zero = squared == 0
    excess = jnp.maximum(result.stats - self.lower_bound, 0)
    size = excess / jnp.where(is_zero, 1, squared)
    size = jnp.minimum(size, self.largest)
    return jax.tree.map(lambda g: tree.scale(size, g), result.grads), memory
