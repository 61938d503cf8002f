"""What a method and those who call it hand to each other."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

from sam_jax import sam, types

Diagnostics = Mapping[str, jax.Array]


class Context(NamedTuple):
  """What a method may depend on besides its state and the examples.

  In a user's own loop all but the step may be None; `get` refuses these.

  Attributes:
    step: number of steps made before, an int32 scalar.
    num_steps: length of the run.
    key: PRNG key of the step and, in `gradient`, of the group: the same
      wherever the group runs.
    learning_rate: of the step, a scalar.
    peak_learning_rate: the largest one that the run was asked for.
  """

  step: jax.Array
  num_steps: int | None = None
  key: jax.Array | None = None
  learning_rate: types.Scalar | None = None
  peak_learning_rate: types.Scalar | None = None

  def get(self, name: str) -> Any:
    """Returns a field that has to be there.

    Raises:
      ValueError: it is None; the message names it.
    """
    value = getattr(self, name)
    if value is None:
      raise ValueError(
        f'the method needs {name}; give {name}=... to its value_and_grad'
      )
    return value


class Problem(NamedTuple):
  """What a method may ask of a group; each is a mean over the whole group.

  Attributes:
    descend: `params -> (out, grads)` of the loss that is trained; `out` is
      `(value, aux)`.
    ascend: the same for the loss from which a perturbation is made: without a
      penalty that belongs to the descent alone, with the true gradient of
      random branches.
    diagnose: `(params, out, info) -> scalars by name`, what is logged of a
      perturbation; `out` is that of the first pass.
  """

  descend: types.GradientFn
  ascend: types.GradientFn
  diagnose: Callable[[types.Params, Any, sam.SamInfo], Diagnostics]


class GroupResult(NamedTuple):
  """What a group returns; averaged over all groups before `finish`.

  Attributes:
    out: `(value, aux)` at the unperturbed parameters.
    grads: the gradient.
    stats: whatever `finish` needs besides, a tree of floating-point arrays.
    perturbed: 1 if the group was perturbed, else 0; a float32 scalar. Its mean
      is the share of the groups that were.
    diagnostics: of the perturbation, and zeros without one. A mean over the
      perturbed groups is a mean over all, divided by that of `perturbed`.
  """

  out: Any
  grads: types.Grads
  stats: types.PyTree
  perturbed: jax.Array
  diagnostics: Diagnostics


class State(NamedTuple):
  """What is kept from step to step, the same on every device.

  Attributes:
    step: number of steps made, an int32 scalar.
    memory: of the method, a tree of arrays; `()` for most.
  """

  step: jax.Array
  memory: types.PyTree


class Halves(Protocol):
  """The two halves of a method, see `base.Method`."""

  def gradient(
    self, problem: Problem, state: State, params: types.Params, ctx: Context
  ) -> GroupResult:
    """Returns the gradient of one group, and what `finish` needs of it."""

  def finish(
    self, state: State, result: GroupResult, ctx: Context
  ) -> tuple[types.Grads, State]:
    """Returns the gradient for the optimizer, and the state after the step."""
