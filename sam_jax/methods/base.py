"""What a method is: how the gradient of a step is obtained.

A method has two halves. `gradient` makes the gradient of one group, the m
examples that share one perturbation; a device may make those of several groups
in turn. `finish` runs once in a step, on what the groups returned, averaged
over all groups and devices. Whatever is not linear in the gradients and belongs
to the whole batch, such as a norm or a projection of the averaged gradient, is
made in `finish`, and so is everything that is remembered from step to step.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from sam_jax import convolutions, tree, types
from sam_jax.methods import own_loop
from sam_jax.methods.interface import Context, GroupResult, Problem, State

# What a task may have besides a loss, and what a message calls it.
NEEDS = {
  'logits': 'a model whose outputs are logits of a softmax',
  'classes': 'examples of classes, and to know how many each class has',
  'examples': (
    'training examples whose numbers are known, and that are not mixed with '
    'each other, see mixing.name="none"'
  ),
  'domains': 'examples of several domains, see data.name="rotated_digits"',
}


class Method:
  """How the gradient of a step is obtained; all functions are pure.

  A method of one's own overrides `gradient`, and of the others what differs.

  Attributes:
    gradient_evaluations: what a step costs: examples that go through a forward
      and a backward pass, in units of the batch size. A mean, if steps differ.
    needs: fields of the context that not every run of `sam_jax.train` has, and
      without which the method cannot run; checked before the first step.
    needs_of_task: what it needs besides the loss, words of `NEEDS`.
  """

  gradient_evaluations: float = 1.0
  needs: tuple[str, ...] = ()
  needs_of_task: ClassVar[tuple[str, ...]] = ()

  def check(self, offers: Mapping[str, Any]) -> None:
    """Refuses a task that lacks what the method needs.

    Args:
      offers: what the task has besides a loss, by the words of `NEEDS`.

    Raises:
      ValueError: the message names what is missing.
    """
    for name in self.needs_of_task:
      if name not in offers:
        raise ValueError(
          f'the method needs {NEEDS[name]}, which the task and its data do not '
          'have; choose others, or a method that needs the loss alone'
        )

  @property
  def measures_all(self) -> bool:
    """Whether value and metrics of a step are means over all examples.

    If not, training logs over how many they are taken.
    """
    return True

  def init(self, params: types.Params) -> State:
    """Returns the state before the first step."""
    return State(jnp.int32(0), self.memory(params))

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns what is remembered before the first step."""
    del params
    return ()

  def gradient(
    self, problem: Problem, state: State, params: types.Params, ctx: Context
  ) -> GroupResult:
    """Returns the gradient of one group, and what `finish` needs of it."""
    del state, ctx
    out, grads = problem.descend(params)
    return GroupResult(out, grads, (), jnp.float32(0), {})

  def finish(
    self, state: State, result: GroupResult, ctx: Context
  ) -> tuple[types.Grads, State]:
    """Returns the gradient for the optimizer, and the state after the step.

    Args:
      state: before the step.
      result: of the groups, averaged over all of them and all devices; its
        rows are those of the batch.
      ctx: as in `gradient`, with a key that is that of no group.
    """
    grads, memory = self.conclude(state.memory, result, ctx)
    return grads, State(state.step + 1, memory)

  def conclude(
    self, memory: types.PyTree, result: GroupResult, ctx: Context
  ) -> tuple[types.Grads, types.PyTree]:
    """Returns the gradient for the optimizer, and what is remembered."""
    del ctx
    return result.grads, memory

  def eval_params(self, state: State, params: types.Params) -> types.Params:
    """Returns the parameters to evaluate with."""
    del state
    return params

  def value_and_grad(
    self, fun: Callable[..., Any], **options: Any
  ) -> Callable[..., Any]:
    """Returns what a training loop of one's own calls; see `own_loop`."""
    return own_loop.value_and_grad(self, fun, **options)


def either(
  is_perturbed: jax.Array,
  perturbed: Callable[[], GroupResult],
  unperturbed: Callable[[], GroupResult],
) -> GroupResult:
  """Runs one of two branches, and only that one.

  Args:
    is_perturbed: a bool scalar, the same on all devices that share the group;
      groups may differ.
    perturbed: returns a result with stats and diagnostics.
    unperturbed: returns one without diagnostics, and perhaps without stats;
      these are zeros then.

  Returns:
    The result of the branch that ran, in the structure of the first.
  """
  shapes = jax.eval_shape(perturbed)

  def filled() -> GroupResult:
    result = unperturbed()
    if result.stats == ():
      result = result._replace(stats=jax.tree.map(tree.zeros, shapes.stats))
    diagnostics = jax.tree.map(tree.zeros, shapes.diagnostics)
    return result._replace(diagnostics=diagnostics)

  # Within shard_map both have to vary over the same mesh axes, and over those
  # over which the choice does, which JAX does not add by itself.
  others = jax.eval_shape(filled)

  def alike(result: GroupResult) -> GroupResult:
    return jax.tree.map(
      lambda x, *like: _vary_like_all(x, *like, is_perturbed),
      result,
      shapes,
      others,
    )

  return jax.lax.cond(
    is_perturbed,
    convolutions.canonical(lambda: alike(perturbed())),
    convolutions.canonical(lambda: alike(filled())),
  )


def _vary_like_all(x: jax.Array, *others: Any) -> jax.Array:
  """Returns x as an array that may differ over the mesh axes of others."""
  for other in others:
    x = tree.vary_like(x, other)
  return x
