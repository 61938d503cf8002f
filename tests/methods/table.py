"""What a row of the table of methods is; the rows are in `rows_*.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from sam_jax import methods

# Of gradient descent with momentum: v = MOMENTUM v + g, w = w - RATE v.
STEPS, RATE, MOMENTUM = 5, 0.1, 0.5
KEY = jax.random.key(3)
# Of data with five classes in three domains.
INFO = {'class_counts': [40, 30, 20, 6, 4], 'domains': ['a', 'b', 'c']}

# The quadratic w'Aw/2 + b'w, and those of the examples, whose mean it is.
HESSIAN = np.diag([4.0, 2.0, 1.0, 0.5, 0.25]) + 0.2
SHIFT = np.array([1.0, -0.5, 0.3, -0.2, 0.7])
START = np.array([1.0, -2.0, 0.5, 3.0, -1.5])
EXAMPLES = 8


def _examples():
  rng = np.random.default_rng(1)
  hessians = rng.normal(size=(EXAMPLES, 5, 5))
  hessians = 0.3 * (hessians + hessians.swapaxes(1, 2))
  shifts = rng.normal(size=(EXAMPLES, 5))
  return (
    HESSIAN + hessians - hessians.mean(axis=0),
    SHIFT + shifts - shifts.mean(axis=0),
  )


HESSIANS, SHIFTS = _examples()


class Moment(NamedTuple):
  """What an oracle may know of a step, in float64.

  `grad` is the gradient of the quadratic `w'Aw/2 + b'w` as a function of w, and
  `hessian` is A. `decay` is the learning rate in units of the first one, and
  `momentum` the v of the optimizer before the step.

  Of the examples, `losses(w)` and `grads(w)` have a row each.
  """

  step: int
  grad: Callable[[np.ndarray], np.ndarray]
  hessian: np.ndarray
  decay: float
  momentum: np.ndarray

  def losses(self, w: np.ndarray) -> np.ndarray:
    return 0.5 * np.einsum('nij,i,j->n', HESSIANS, w, w) + SHIFTS @ w

  def grads(self, w: np.ndarray) -> np.ndarray:
    return HESSIANS @ w + SHIFTS


class Row(NamedTuple):
  """A method with some fields, and what is known of it.

  Attributes:
    name: of the method.
    fields: that are set.
    oracle: `(w, memory, moment) -> (gradient, memory)` by the paper's formula
      in NumPy, on a vector of all parameters; memory starts as None.
    equal: fields with which the method is another one.
    other: that one, with its fields.
    period: steps after which the costs of the steps repeat.
    uncounted: gradients in a step that the compiler does not count, because it
      counts the body of a loop once.
    needs_examples: whether the loss has to be one of examples.
    is_of_network: whether it looks into the loss. Then the trials of a function
      of the parameters are those of a network in `losses_test.py`, and the
      oracle is of that.
    is_chance: whether it depends on more than the step's number whether the
      step perturbs.
  """

  name: str
  fields: dict[str, Any]
  oracle: Callable[..., tuple[np.ndarray, Any]]
  equal: dict[str, Any] | None = None
  other: tuple[str, dict[str, Any]] = ('sgd', {})
  period: int = 1
  uncounted: float = 0.0
  needs_examples: bool = False
  is_chance: bool = False
  is_of_network: bool = False

  def create(self, **changes):
    return methods.create(self.name, **self.fields | changes)

  def __str__(self):
    return ','.join([self.name, *(f'{k}={v}' for k, v in self.fields.items())])
