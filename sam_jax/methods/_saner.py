"""SANER: coordinates that the perturbation makes smaller get smaller yet."""

import dataclasses
import functools
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from sam_jax import sam, tree, types
from sam_jax.methods import base, interface, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.perturbed import Perturbed


@parts.COMBINES.register('saner')
def _combine(alpha: float = 0.5) -> parts.Combine:
  """Returns what takes alpha away from coordinates that got smaller.

  Raises:
    ValueError: alpha is not in [0, 1].
  """
  if not 0 <= alpha <= 1:
    raise ValueError(
      f'alpha is {alpha}; it is the share that is taken away from the '
      'coordinates of a gradient that the perturbation makes smaller: give a '
      'number in [0, 1]'
    )

  def combine(
    ascent_grads: types.Grads, descent_grads: types.Grads
  ) -> types.Grads:
    weaken = functools.partial(_weaken, factor=jnp.float32(1 - alpha))
    return jax.tree.map(weaken, ascent_grads, descent_grads)

  return combine


@registry.register('saner', fixes=['combine'])
def saner(
  rho: float = 0.1,
  alpha: float = 0.5,
  warmup: float = 0.25,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns Sharpness-Aware Noise-Explicit Reweighting, for wrong labels.

  With the gradients at w and at w + epsilon, coordinate by coordinate,

  .. math::
    g_s = \nabla L(w + \rho\, g / \|g\|_2), \qquad
    \tilde g_i = (1 - \alpha_t\, c_i)\, g_{s,i}, \qquad
    c_i = 1 \text{ where } 0 < g_{s,i} / g_i < 1, \text{ else } 0

  .. math::
    \alpha_t = \alpha \min(1,\ t / (s\, T))

  with the number T of steps of the run and the share s of them in which alpha
  rises. The authors find that where SAM makes a coordinate smaller, examples
  with wrong labels outweigh the others, and that this is why SAM learns wrong
  labels late; SANER makes these coordinates smaller yet. Two gradients in a
  step, and no state. With alpha = 0 it is SAM, with rho = 0 it is SGD. Use it
  where some labels are wrong. The authors combine it with other methods of the
  family too: `metric='adaptive'` is that of ASAM, `direction='minus_ema'` that
  of F-SAM, `direction='ema'` that of VaSSO.

  Each group, the m examples that share one perturbation, compares its own two
  gradients. Both are of the loss that is trained: weight decay with
  `place='descent'` takes part in the perturbation too. In a loop of one's own,
  `value_and_grad` needs `num_steps`, unless warmup is 0.

  Args:
    rho: radius of the perturbation, in units of the parameters; the authors
      have 0.1 (ResNet-18, CIFAR-10 and CIFAR-100 with wrong labels).
    alpha: share that is taken away, in [0, 1]; the authors have 0.5.
    warmup: s, share of the run in which alpha rises from 0, in [0, 1]; with 0
      it is alpha from the first step on. The authors have 50 of 200 epochs.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Luong et al. 2026 (AISTATS, PMLR 300, first of 2024 as arXiv
  2411.17132), by the formula and the values in the authors' README, and their
  `optimizer/saner.py`. Differs from it: alpha rises in every step, not once per
  epoch; signs and lengths are compared, where they add 1e-8 to g and divide, so
  that a gradient of that size is weighed otherwise; their weight decay is added
  after the weighing, as it is here with `weight_decay.place='gradient'`, while
  that of the default is part of both gradients.
  """
  if not 0 <= warmup <= 1:
    raise ValueError(
      f'warmup is {warmup}; it is a share of the run: give a number in [0, 1]'
    )
  method = create(rho, axes, combine=_combine(alpha))
  if warmup == 0 or not isinstance(method, Perturbed):
    return method
  return _Rising(**vars(method), warmup=float(warmup))


def _weaken(g: jax.Array, moved: jax.Array, factor: jax.Array) -> jax.Array:
  """Returns a leaf at w + epsilon, times the factor where it is below g.

  A complex number has two coordinates. One of the other sign is not below.
  """
  if jnp.iscomplexobj(moved):
    pairs = ((g.real, moved.real), (g.imag, moved.imag))
    return jax.lax.complex(*(_weaken(*pair, factor) for pair in pairs))
  is_below = (jnp.sign(g) == jnp.sign(moved)) & (jnp.abs(moved) < jnp.abs(g))
  return jnp.where(is_below, tree.scale(factor, moved), moved)


@dataclasses.dataclass(frozen=True)
class _Rising(Perturbed):
  """See `saner`: what is combined has a weight that rises from 0 to 1."""

  warmup: float = 1.0

  def perturb(
    self,
    problem: interface.Problem,
    params: types.Params,
    ctx: interface.Context,
    memory: Any = None,
    first: tuple[Any, types.Grads] | None = None,
  ) -> tuple[interface.GroupResult, sam.SamInfo]:
    """Returns what is between the gradient of SAM and the weaker one."""
    result, info = super().perturb(problem, params, ctx, memory, first)
    progress = ctx.step / ctx.get('num_steps')
    weight = jnp.minimum(progress / self.warmup, 1)

    def between(moved: jax.Array, weak: jax.Array) -> jax.Array:
      change = tree.wide(weak) - tree.wide(moved)
      return tree.add(moved, tree.times(weight, change))

    grads = jax.tree.map(between, info.descent_grads, result.grads)
    return result._replace(grads=grads), info
