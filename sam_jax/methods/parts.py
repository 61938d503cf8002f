"""The axes of which a method is made, and the simplest choice on each of them.

Nearly every method of the family makes a few choices: along which direction it
perturbs, by which metric it measures the radius, which parameters it perturbs,
in which steps, and what it makes of the two gradients. A choice is a part; what
a part remembers from step to step is made of averages over all groups.
"""

from typing import Any, Protocol

import jax

from sam_jax import leaves, perturbations, sam, types
from sam_jax.methods import choices
from sam_jax.methods.interface import Context, Problem

DIRECTIONS = choices.Axis('direction')
METRICS = choices.Axis('metric')
MASKS = choices.Axis('mask')
WHENS = choices.Axis('when')
COMBINES = choices.Axis('combine')


class Metric(Protocol):
  """How far a perturbation of a radius goes along a direction."""

  def __call__(self, rho: types.Scalar) -> types.Perturbation:
    """Returns a perturbation; see `sam_jax.perturbations`."""


class Combine(Protocol):
  """What the gradient is made of."""

  def __call__(
    self, ascent_grads: types.Grads, descent_grads: types.Grads
  ) -> types.Grads:
    """Returns the gradient of a group from those at w and at w + epsilon."""


class Part:
  """A choice that may remember something; by default nothing.

  Attributes:
    cost: gradients that its `stats` take in a step, as `gradient_evaluations`
      of a method counts them.
    needs: see `base.Method`.
  """

  cost: float = 0.0
  needs: tuple[str, ...] = ()

  @property
  def remembers(self) -> bool:
    """Whether something is remembered from step to step."""
    return type(self).remember is not Part.remember

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns what is remembered before the first step; `()` is nothing."""
    del params
    return ()

  def stats(
    self,
    problem: Problem,
    memory: types.PyTree,
    params: types.Params,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns what of a group is averaged for `remember`.

    Args:
      problem: of the group.
      memory: before the step.
      params: unperturbed.
      grads: the gradient at them, or in a direction that needs none the
        direction.
      ctx: of the group.
    """
    del problem, memory, params, grads, ctx
    return ()

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns what is remembered after a step.

    Args:
      memory: before the step.
      stats: averaged over all groups and devices.
      grads: the gradient that the optimizer gets.
      ctx: of the step.
    """
    del stats, grads, ctx
    return memory


class Direction(Part):
  """Along what a perturbation is made.

  Attributes:
    needs_gradient: whether the gradient at w is needed. Without it a step has
      one gradient, and what is logged of the loss is that of the perturbed
      parameters: there is no other.
  """

  needs_gradient: bool = True

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> types.PyTree:
    """Returns the direction, a tree like the gradient; its length may count.

    Args:
      memory: before the step.
      grads: the gradient of the group at w, None if it is not needed.
      ctx: of the group.
    """
    raise NotImplementedError


@DIRECTIONS.register('gradient')
class Gradient(Direction):
  """Along the gradient at w, as in SAM."""

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> types.PyTree:
    """Returns the gradient."""
    del memory, ctx
    return grads


class Mask(Part):
  """Which parameters are perturbed, where that changes along the run.

  Attributes:
    applies_later: whether it acts on the perturbation, after the metric; a mask
      of names acts before it.
    needs_gradient: whether the gradient at w is looked at.
  """

  applies_later: bool = False
  needs_gradient: bool = False

  def __call__(
    self, memory: types.PyTree, epsilon: types.PyTree, ctx: Context
  ) -> types.PyTree:
    """Returns the perturbation of those that are perturbed, others 0."""
    del memory, ctx
    return epsilon


@MASKS.register('none')
def _all() -> Mask:
  """Returns the mask of all parameters."""
  return Mask()


class Fixed(Mask):
  """What `sam_jax.masked` takes: the same parameters in every step.

  Norms are of these alone, so that it is there before the metric and not here.

  Attributes:
    chosen: a tree of bools, or a function that makes one of the parameters.
  """

  def __init__(self, chosen: Any) -> None:
    """Takes the mask."""
    self.chosen = chosen

  def memory(self, params: types.Params) -> types.PyTree:
    """Remembers nothing.

    Raises:
      TypeError: the mask has something else than bools.
      ValueError: it does not fit the parameters, or chooses none of them.
    """
    grads = jax.tree.map(lambda p: p if leaves.is_float(p) else None, params)
    perturbations.chosen(self.chosen, grads, params)
    return ()


class When(Part):
  """In which steps the parameters are perturbed.

  Attributes:
    share: of the steps that are perturbed, as expected, in [0, 1].
    needs_gradient: whether the gradient at w is looked at.
  """

  share: float = 1.0
  needs_gradient: bool = False

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> jax.Array:
    """Returns whether the step perturbs, a bool scalar."""
    raise NotImplementedError


@COMBINES.register('sam')
def _descent() -> Combine:
  """Returns what takes the gradient at w + epsilon, as in SAM."""
  return sam.descent
