"""LookSAM: what the perturbation adds to the gradient is used for k steps."""

import dataclasses
import math
from typing import Unpack

import jax
import jax.numpy as jnp

from sam_jax import leaves, tree, types
from sam_jax.methods import base, interface, registry
from sam_jax.methods.axes import Choices, create
from sam_jax.methods.perturbed import Perturbed


@registry.register('looksam', fixes=['direction', 'combine', 'descent_share'])
def looksam(
  rho: float = 0.1,
  every: int = 5,
  alpha: float = 0.7,
  rho_schedule: str = 'constant',
  rho_min: float | None = None,
  **axes: Unpack[Choices],
) -> base.Method:
  r"""Returns LookSAM, SAM at little more than the cost of SGD.

  In every k-th step, the first one included, with the gradient g at w,

  .. math::
    \tilde g = g_s = \nabla L(w + \rho\, g / \|g\|_2), \qquad
    g_v = g_s - \frac{\langle g_s, g\rangle}{\|g\|^2}\, g

  and in the k - 1 steps that follow, with the last g_v,

  .. math:: \tilde g = g + \alpha\, \frac{\|g\|}{\|g_v\|}\, g_v

  All gradients, norms and projections are those of the whole batch: of what the
  groups return, averaged. One gradient, and in every k-th step another one. The
  state is a tree like the parameters. With every = 1 it is SAM, with rho = 0 it
  is SGD. Both gradients are of the loss that is trained, else g_v would have
  the difference of two losses: weight decay with `place='descent'` takes part
  in the perturbation too.

  Args:
    rho: radius of the perturbation, in units of the parameters.
    every: k, the steps from one perturbation to the next, at least 1. The
      authors have 5, and 10.
    alpha: length of the part that is kept, in units of the gradient's, >= 0.
    rho_schedule: see `radius.create`.
    rho_min: see `radius.create`.
    **axes: metric, mask and ascent_share, see `Choices`.

  Raises:
    ValueError: a value is out of range.

  Source: Liu et al. 2022, algorithm 1. Public re-implementations take the norms
  tensor by tensor, which is another method. Differs from the paper: a g_v that
  is no longer than rounding makes it counts as zero, and is not stretched. The
  paper's Look-LayerSAM is left out: sources disagree whether its perturbation
  of a tensor is as long as rho, or as rho times the tensor.
  """
  if not isinstance(every, int) or every < 1:
    raise ValueError(f'every is {every!r}; it must be a whole number >= 1')
  if not 0 <= alpha < math.inf:
    raise ValueError(f'alpha is {alpha}; it must be a number >= 0')
  schedule = {'rho_schedule': rho_schedule, 'rho_min': rho_min}
  sam = create(rho, {**axes, **schedule})
  if not isinstance(sam, Perturbed):  # rho is 0
    return sam
  if sam.mask.remembers:
    raise ValueError(
      'looksam takes no mask that remembers something; choose one of names'
    )
  more = sam.gradient_evaluations - 1
  return _LookSam(sam, every, alpha, gradient_evaluations=1 + more / every)


@dataclasses.dataclass(frozen=True)
class _LookSam(base.Method):
  """See `looksam`."""

  sam: Perturbed
  every: int
  alpha: float
  gradient_evaluations: float

  @property
  def measures_all(self) -> bool:
    """Whether value and metrics of a step are means over all examples."""
    return self.sam.measures_all

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns the g_v of before the first step, zeros."""
    self.sam.memory(params)  # refuses a mask that does not fit
    return jax.tree.map(
      lambda p: jnp.zeros_like(p) if leaves.is_float(p) else None, params
    )

  def gradient(
    self,
    problem: interface.Problem,
    state: interface.State,
    params: types.Params,
    ctx: interface.Context,
  ) -> interface.GroupResult:
    """Returns SAM's gradient or the plain one; stats is the ascent gradient."""

    def perturbed() -> interface.GroupResult:
      # Both passes differentiate one function.
      result, info = self.sam.perturb(problem.of_descent(), params, ctx)
      return result._replace(stats=info.ascent_grads)

    plain = super().gradient
    return base.either(
      self._looks(ctx),
      perturbed,
      lambda: plain(problem, state, params, ctx),
    )

  def conclude(
    self,
    memory: types.PyTree,
    result: interface.GroupResult,
    ctx: interface.Context,
  ) -> tuple[types.Grads, types.PyTree]:
    """Makes g_v anew, or adds the last one."""
    return jax.lax.cond(self._looks(ctx), _look, self._reuse, result, memory)

  def _looks(self, ctx: interface.Context) -> jax.Array:
    """Whether the step perturbs."""
    return ctx.step % self.every == 0

  def _reuse(
    self, result: interface.GroupResult, memory: types.PyTree
  ) -> tuple[types.Grads, types.PyTree]:
    """Returns g + alpha (|g| / |g_v|) g_v."""
    grads = result.grads
    factor = self.alpha * tree.norm(grads) * tree.inverse_norm(memory)

    def add(v: jax.Array, g: jax.Array | None) -> jax.Array | None:
      return (
        None if g is None else tree.add(g, tree.times(factor, tree.wide(v)))
      )

    return jax.tree.map(add, memory, grads), memory


def _look(
  result: interface.GroupResult, memory: types.PyTree
) -> tuple[types.Grads, types.PyTree]:
  """Returns g_s, and its part that is orthogonal to g."""
  share = tree.projection(result.grads, result.stats)

  def part(v: jax.Array, s: jax.Array | None, g: jax.Array) -> jax.Array:
    if s is None:  # a parameter without a gradient
      return v
    return tree.add(s, tree.times(-share, tree.wide(g))).astype(v.dtype)

  orthogonal = jax.tree.map(part, memory, result.grads, result.stats)
  limit = _rounding(memory) * tree.norm(result.grads)
  is_noise = tree.norm(orthogonal) <= limit  # NaN is none
  return result.grads, jax.tree.map(
    lambda v: jnp.where(is_noise, jnp.zeros_like(v), v), orthogonal
  )


def _rounding(memory: types.PyTree) -> float:
  """Returns how long g_v may be by rounding alone, in units of |g_s|.

  The two gradients come from two computations, which round differently.
  """
  epsilons = [float(jnp.finfo(v.dtype).eps) for v in jax.tree.leaves(memory)]
  return min(100 * max(epsilons, default=0.0), 0.05)
