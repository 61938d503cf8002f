"""Parameters, and all that has their shapes, cut over several devices.

The devices of a group, which share one perturbation, hold one copy of the
parameters between them: each array is cut along one of its axes (fully sharded
data parallelism). It is put together where the model needs it, and its gradient
is cut again. All of this is said by constraints on one automatic mesh axis; the
compiler inserts the communication.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from sam_jax import tree, types

AXIS = 'fsdp'


def spec(shape: tuple[int, ...], size: int) -> jax.sharding.PartitionSpec:
  """Returns how an array of that shape is cut.

  It depends on the shape alone, so that the states of optimizers and methods
  are cut as the parameters are whose shapes they have.

  Args:
    shape: of the array.
    size: number of devices that hold one copy.

  Returns:
    The longest axis that `size` divides is cut, the last one of several; a
    small array, or one without such an axis, is whole on every device.

  Example:
    >>> from sam_jax.training import sharded
    >>> tuple(sharded.spec((50257, 768), 4))
    (None, 'fsdp')
    >>> tuple(sharded.spec((768,), 4))
    ()
  """
  fitting = [i for i, n in enumerate(shape) if n % size == 0]
  # What is small is joined with others for every norm, and cheap to have whole.
  is_small = math.prod(shape) < tree.SMALL
  if size == 1 or is_small or not fitting:
    return jax.sharding.PartitionSpec()
  cut = max(fitting, key=lambda i: (shape[i], i))
  return jax.sharding.PartitionSpec(*[None] * cut, AXIS)


def cut(values: types.PyTree, size: int) -> types.PyTree:
  """Constrains arrays within a compiled step to be cut, see `spec`."""
  return jax.tree.map(lambda x: _constrain(x, spec(x.shape, size)), values)


def spread(values: types.PyTree) -> types.PyTree:
  """Constrains `[pieces, examples, ...]` to have the examples cut."""
  rows = jax.sharding.PartitionSpec(None, AXIS)
  return jax.tree.map(lambda x: _constrain(x, rows), values)


def gathering(apply_fn: Callable[..., Any], size: int) -> Callable[..., Any]:
  """Returns a model's `apply` that takes cut variables.

  They are put together going forward, and again going backward where they are
  needed there: what is kept between the two is what depends on the examples,
  and no whole array.

  Args:
    apply_fn: `(variables, inputs, **options)`.
    size: number of devices that hold one copy of the variables.
  """

  def whole(x: jax.Array) -> jax.Array:
    # The first constraint is for the gradient, which is cut as soon as it is
    # summed over the devices.
    x = _constrain(x, spec(x.shape, size))
    return _constrain(x, jax.sharding.PartitionSpec())

  @functools.wraps(apply_fn)
  def apply(variables: types.PyTree, inputs: Any, **options: Any) -> Any:
    def run(variables: types.PyTree, inputs: Any) -> Any:
      return apply_fn(jax.tree.map(whole, variables), inputs, **options)

    return jax.checkpoint(run, policy=_keeps)(variables, inputs)

  return apply


def _keeps(primitive: Any, *args: Any, **params: Any) -> bool:
  """Whether what an operation returns is kept for the backward pass."""
  del args, params
  return primitive.name != 'sharding_constraint'


def _constrain(x: Any, spec: jax.sharding.PartitionSpec) -> Any:
  """Says how an array is cut over the devices of a group."""
  return jax.lax.with_sharding_constraint(x, spec)
