"""What a method and those who call it hand to each other."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from sam_jax import sam, types

Diagnostics = Mapping[str, jax.Array]
# `(outputs, losses, penalty, values) -> losses`, see `Problem.with_losses`.
LossesFn = Callable[[Any, jax.Array, Any, Any], jax.Array]


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
    params: at the start of the step, for `finish`.
  """

  step: jax.Array
  num_steps: int | None = None
  key: jax.Array | None = None
  step_key: jax.Array | None = None
  learning_rate: types.Scalar | None = None
  peak_learning_rate: types.Scalar | None = None
  momentum: types.PyTree | None = None
  params: types.Params | None = None

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
  'outputs': "the model's outputs",
  'observed': "the model's outputs",
  'slopes': "the derivative of the loss by the model's outputs",
  'with_losses': 'losses of its own',
  'class_values': 'the class of each example',
  'class_counts': 'the number of training examples of each class',
  'examples': 'the number of each example in the training set',
  'domains': 'the domain of each example',
  'num_domains': 'the number of domains',
  'mean': 'means over the examples',
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
    trained: see `of_descent`.
    outputs: `params -> outputs` of the model, for those of the group's examples
      that are on this device: a tree of arrays `[microbatches, b, ...]`.
    observed: `params -> (out, grads, outputs)`, what `descend` and `outputs`
      return, by one forward pass.
    slopes: `params -> ((out, grads), slopes)`: what `ascend` returns, and the
      derivative of each example's loss by the model's outputs, a tree like
      these.
    with_losses: `(losses_fn, values) -> Problem`, that of the same examples
      with other losses. `losses_fn` takes the outputs and the losses of a
      microbatch, the penalty that is added to each of these, and the
      microbatch's part of `values`, a tree of arrays `[microbatches, b, ...]`.
      It returns the loss of each example with its penalty. What is logged stays
      the loss of the task.
    class_values: `values -> [microbatches, b]`: the one of the class of each
      example on this device; of mixed labels, the mean.
    class_counts: training examples of each class, `[classes]`.
    examples: number in the training set of each example on this device, an
      int32 array like the losses; a batch has none twice.
    domains: number of the domain of each example on this device, an int32 array
      like the losses.
    num_domains: of the data set.
    mean: `values -> mean` over the group's examples, of a tree of arrays
      `[microbatches, b, ...]`.
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
  trained: Callable[[], 'Problem'] | None = None
  outputs: Callable[[types.Params], types.PyTree] | None = None
  observed: (
    Callable[[types.Params], tuple[Any, types.Grads, types.PyTree]] | None
  ) = None
  slopes: Callable[[types.Params], tuple[Any, types.PyTree]] | None = None
  with_losses: Callable[[LossesFn, types.PyTree], 'Problem'] | None = None
  class_values: Callable[[Any], jax.Array] | None = None
  class_counts: np.ndarray | None = None
  examples: jax.Array | None = None
  domains: jax.Array | None = None
  num_domains: int | None = None
  mean: Callable[[types.PyTree], types.PyTree] | None = None
  squared_gradients: Callable[[types.Params, int], types.PyTree] | None = None

  def of_descent(self) -> 'Problem':
    """Returns the one whose perturbation is made from the loss that is trained.

    Its shares are so too. For whoever compares the two gradients: they are then
    of one function.
    """
    if self.trained is not None:
      return self.trained()
    return self._replace(ascend=self.descend)

  def get(self, name: str) -> Any:
    """Returns an item that has to be there.

    Raises:
      ValueError: it is None; the message names it.
    """
    value = getattr(self, name)
    if value is None:
      raise ValueError(
        f'the method needs {_ITEMS[name]}, which a loss that is a function of '
        'the parameters does not offer; train with sam_jax.train and a task '
        'that has it, or choose a method that needs the loss alone'
      )
    return value


class GroupResult(NamedTuple):
  """What a group returns; averaged over all groups before `finish`.

  All but `rows`: these are put together.

  Attributes:
    out: `(value, aux)` at the unperturbed parameters.
    grads: the gradient.
    stats: whatever `finish` needs besides, a tree of floating-point arrays.
    perturbed: 1 if the group was perturbed, else 0; a float32 scalar. Its mean
      is the share of the groups that were.
    diagnostics: of the perturbation, and zeros without one. A mean over the
      perturbed groups is a mean over all, divided by that of `perturbed`.
    rows: whatever `finish` needs of each example, a tree of arrays
      `[microbatches, b, ...]` of all that are on this device. It gets those of
      the batch, `[B, ...]`, in the order of the batch, on every device.
  """

  out: Any
  grads: types.Grads
  stats: types.PyTree
  perturbed: jax.Array
  diagnostics: Diagnostics
  rows: types.PyTree = ()


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
