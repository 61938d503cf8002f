"""What a method and those who call it hand to each other."""

from collections.abc import Callable, Iterator, Mapping
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
    step_key: PRNG key of the step, the same for all groups.
    learning_rate: of the step, a scalar.
    peak_learning_rate: the largest one that the run was asked for.
    momentum: the optimizer's, a tree like the parameters, see `momentum_of`.
  """

  step: jax.Array
  num_steps: int | None = None
  key: jax.Array | None = None
  step_key: jax.Array | None = None
  learning_rate: types.Scalar | None = None
  peak_learning_rate: types.Scalar | None = None
  momentum: types.PyTree | None = None

  def get(self, name: str) -> Any:
    """Returns a field that has to be there.

    Raises:
      ValueError: it is None; the message names it.
    """
    value = getattr(self, name)
    if value is not None:
      return value
    if name == 'momentum':
      raise ValueError(
        "the method needs the optimizer's momentum, a mean or sum of "
        'gradients, and there is none; use sgd with momentum, or one like '
        'adamw, and in a loop of your own give '
        'momentum=methods.momentum_of(opt_state) to the function that '
        'value_and_grad returns'
      )
    name = name.removeprefix('step_')
    raise ValueError(
      f'the method needs {name}; give {name}=... to its value_and_grad'
    )


_ITEMS = {
  'example_losses': 'the loss of each example',
  'scored': 'the loss of each example',
  'first': 'a share of the examples',
  'chosen': 'chosen examples',
  'squared_gradients': 'the gradient of each example',
}


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
    example_losses: `params -> losses`, of those of the group's examples that
      are on this device.
    scored: `params -> (out, grads, losses)`, what `ascend` and
      `example_losses` return, by one forward pass.
    first: `share -> Problem`, that of the first examples alone.
    chosen: `(scores, share) -> Problem`, that of the examples with the largest
      scores, an array like the losses; of equal ones the first.
    squared_gradients: `(params, number) -> tree`, the mean over that many
      examples, the first ones, of the squared gradient of the loss of each one
      by itself, with the model as it is evaluated: BatchNorm of one example has
      nothing to normalise by.
  """

  descend: types.GradientFn
  ascend: types.GradientFn
  diagnose: Callable[[types.Params, Any, sam.SamInfo], Diagnostics]
  example_losses: Callable[[types.Params], jax.Array] | None = None
  scored: (
    Callable[[types.Params], tuple[Any, types.Grads, jax.Array]] | None
  ) = None
  first: Callable[[float], 'Problem'] | None = None
  chosen: Callable[[jax.Array, float], 'Problem'] | None = None
  squared_gradients: Callable[[types.Params, int], types.PyTree] | None = None

  def get(self, name: str) -> Any:
    """Returns an item that has to be there.

    Raises:
      ValueError: it is None; the message names it.
    """
    value = getattr(self, name)
    if value is None:
      raise ValueError(
        f'the method needs {_ITEMS[name]}, which a loss that is a function of '
        'the parameters does not offer; train with sam_jax.train, or choose a '
        'method that needs the loss alone'
      )
    return value


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


def momentum_of(opt_state: Any) -> types.PyTree | None:
  """Returns the momentum in the state of an optimizer of optax.

  Args:
    opt_state: of any chain, with the trace of SGD, or the first moment of Adam,
      Lion and their family.

  Returns:
    A tree like the parameters; None if the optimizer has no momentum. One of
    steps does not count, which points downhill and holds the learning rate, as
    that of RMSProp and LARS: a trace at the end of its chain.

  Raises:
    ValueError: there are several.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> from sam_jax import methods
    >>> optimizer = optax.sgd(0.1, momentum=0.9)
    >>> methods.momentum_of(optimizer.init({'w': jnp.ones(2)}))['w'].tolist()
    [0.0, 0.0]
  """
  found = list(_momenta(opt_state))
  if len(found) > 1:
    raise ValueError(
      f'the optimizer has {len(found)} momenta, and the method needs one; use '
      'an optimizer with one'
    )
  return found[0] if found else None


def _momenta(state: Any) -> Iterator[types.PyTree]:
  """Yields whatever has the name of a momentum in a nest of named tuples."""
  fields = getattr(state, '_fields', ())
  for name in fields:
    if name in ('trace', 'mu'):
      yield getattr(state, name)
  if isinstance(state, tuple | list):
    is_chain = not fields and len(state) > 1
    for part in state:
      is_of_steps = is_chain and part is state[-1] and hasattr(part, 'trace')
      if not is_of_steps:
        yield from _momenta(part)
  elif isinstance(state, Mapping):
    for part in state.values():
      yield from _momenta(part)
