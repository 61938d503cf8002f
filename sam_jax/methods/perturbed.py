"""The step that nearly every method of the family makes, with its choices."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sam_jax import perturbations, sam, types
from sam_jax.methods import base, parts
from sam_jax.methods.interface import Context, GroupResult, Problem, State


@dataclasses.dataclass(frozen=True)
class Perturbed(base.Method):
  """A perturbation made of a direction, and a gradient made at its end.

  Attributes:
    perturbation_fn: `ctx -> perturbation` of a group, applied to the direction.
    gradient_evaluations: see `Method`.
    needs: see `Method`.
    direction: along what is perturbed.
    mask: what is left of the perturbation.
    when: in which steps it is made; None is all.
    ascent_steps: see `sam_jax.value_and_grad`.
    second_order: see `sam_jax.value_and_grad`.
    combine: see `sam_jax.value_and_grad`; of the gradients of a group. Any but
      that of SAM makes something of both, which then are those of one function:
      the perturbation is made from the loss that is trained.
    ascent_share: of the group's examples that make the perturbation. What is
      measured before it is a mean over these alone.
    descent_share: of the group's examples whose gradient is taken at the
      perturbed parameters: those whose loss rises most.
    loss_share: of the group's examples that make both, those with the largest
      losses, as if there were no others. All make a step without perturbation.
  """

  perturbation_fn: Callable[[Context], types.Perturbation]
  gradient_evaluations: float = 2.0
  needs: tuple[str, ...] = ()
  direction: parts.Direction = dataclasses.field(default_factory=parts.Gradient)
  mask: parts.Mask = dataclasses.field(default_factory=parts.Mask)
  when: parts.When | None = None
  ascent_steps: int = 1
  second_order: bool = False
  combine: parts.Combine = sam.descent
  ascent_share: float = 1.0
  descent_share: float = 1.0
  loss_share: float = 1.0

  @property
  def measures_all(self) -> bool:
    """Whether what is measured of a step is a mean over all examples."""
    return min(self.ascent_share, self.descent_share, self.loss_share) == 1

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns what the parts remember before the first step, by axis."""
    memories = {n: part.memory(params) for n, part in self._parts().items()}
    return memories if jax.tree.leaves(memories) else ()

  def gradient(
    self, problem: Problem, state: State, params: types.Params, ctx: Context
  ) -> GroupResult:
    """Returns the gradient at the perturbed parameters, or the plain one."""
    memory = self._by_part(state.memory)
    if self.when is None:
      return self.perturb(problem, params, ctx, memory)[0]
    if self.direction.remembers:
      # Of steps that perturb and of others it is to remember the same loss.
      problem = problem.of_descent()
    first = None
    if self.when.needs_gradient:
      # It is that of the plain step too, and so of the loss that is trained. In
      # a trace it is the ascent's.
      problem = problem.of_descent()
      first = problem.ascend(params)
    grads = None if first is None else first[1]

    def plain() -> GroupResult:
      out, grads = problem.descend(params) if first is None else first
      stats = self._stats(problem, memory, params, grads, ctx)
      return GroupResult(out, grads, stats, jnp.float32(0), {})

    return base.either(
      self.when(memory['when'], grads, ctx),
      lambda: self.perturb(problem, params, ctx, memory, first)[0],
      plain,
    )

  def perturb(
    self,
    problem: Problem,
    params: types.Params,
    ctx: Context,
    memory: Any = None,
    first: tuple[Any, types.Grads] | None = None,
  ) -> tuple[GroupResult, sam.SamInfo]:
    """Returns the result of a step that perturbs, and what was found.

    Args:
      problem: of the group.
      params: unperturbed.
      ctx: of the group.
      memory: of the parts, by axis.
      first: what `ascend` returns at `params`, if it is known.
    """
    memory = self._by_part(()) if memory is None else memory
    if self.loss_share < 1:
      scores = problem.get('example_losses')(params)
      problem = problem.get('chosen')(scores, self.loss_share)
    if self.combine is not sam.descent:
      problem = problem.of_descent()
    perturbation = self.perturbation_fn(ctx)

    def perturb(grads: types.Grads, trained: types.Params) -> types.PyTree:
      along = grads
      if self.direction.needs_gradient:
        along = self.direction(memory['direction'], grads, ctx)
      return self.mask(memory['mask'], perturbation(along, trained), ctx)

    vars(perturb)['axis_name'] = perturbations.axes_of(perturbation)
    losses: list[jax.Array] = []
    ascend = self._ascend(problem, params, ctx, memory, first, losses)
    out, grads, info = sam.perturbed_gradient(
      self._descend(problem, params, losses),
      ascend,
      perturbations.none if perturbation is perturbations.none else perturb,
      params,
      ascent_steps=self.ascent_steps,
      second_order=self.second_order,
      combine=self.combine,
    )
    stats = self._stats(problem, memory, params, info.ascent_grads, ctx)
    if not self.direction.needs_gradient:
      out = (info.perturbed_value, info.perturbed_aux)
      return GroupResult(out, grads, stats, jnp.float32(1), {}), info
    diagnostics = problem.diagnose(params, out, info)
    return GroupResult(out, grads, stats, jnp.float32(1), diagnostics), info

  def conclude(
    self, memory: types.PyTree, result: GroupResult, ctx: Context
  ) -> tuple[types.Grads, types.PyTree]:
    """Returns the mean gradient, and what the parts remember of the step."""
    if memory == ():
      return result.grads, memory
    stats = self._by_part(result.stats)
    return result.grads, {
      name: part.remember(memory[name], stats[name], result.grads, ctx)
      for name, part in self._parts().items()
    }

  def _parts(self) -> dict[str, parts.Part]:
    """Returns the parts that may remember something, by axis."""
    named = {'direction': self.direction, 'mask': self.mask}
    return named if self.when is None else {**named, 'when': self.when}

  def _by_part(self, memory: types.PyTree) -> dict[str, types.PyTree]:
    """Returns a memory, or stats, by axis."""
    return {name: () for name in self._parts()} if memory == () else memory

  def _stats(
    self,
    problem: Problem,
    memory: dict[str, types.PyTree],
    params: types.Params,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns what of a group the parts want to be averaged, by axis."""
    stats = {
      name: part.stats(problem, memory[name], params, grads, ctx)
      for name, part in self._parts().items()
    }
    return stats if jax.tree.leaves(stats) else ()

  def _ascend(
    self,
    problem: Problem,
    params: types.Params,
    ctx: Context,
    memory: dict[str, types.PyTree],
    first: tuple[Any, types.Grads] | None,
    losses: list[jax.Array],
  ) -> types.GradientFn:
    """Returns the gradient from which the perturbation is made.

    It appends the losses of the examples that it has found on the way.
    """
    if not self.direction.needs_gradient:
      along = self.direction(memory['direction'], None, ctx)
      return lambda p: ((jnp.float32(0), ()), along)
    if self.ascent_share < 1:
      problem = problem.get('first')(self.ascent_share)
    if first is not None:
      return lambda p: first if p is params else problem.ascend(p)
    if self.descent_share == 1 or self.ascent_share < 1:
      return problem.ascend
    scored = problem.get('scored')

    def ascend(p: types.Params) -> tuple[Any, types.Grads]:
      out, grads, found = scored(p)
      losses.append(found)
      return out, grads

    return ascend

  def _descend(
    self,
    problem: Problem,
    params: types.Params,
    losses: list[jax.Array],
  ) -> types.GradientFn:
    """Returns the gradient that is taken at the perturbed parameters.

    Args:
      problem: of the group.
      params: unperturbed.
      losses: of the examples at these, if the ascent has found them.
    """
    if self.descent_share == 1:
      return problem.descend
    losses_fn = problem.get('example_losses')

    def descend(moved: types.Params) -> tuple[Any, types.Grads]:
      before = losses[0] if losses else losses_fn(params)
      rise = losses_fn(moved) - before
      return problem.get('chosen')(rise, self.descent_share).descend(moved)

    return descend
