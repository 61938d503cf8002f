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


class Moment(NamedTuple):
  """What an oracle may know of a step, in float64.

  `grad` is the gradient of the quadratic `w'Aw/2 + b'w` as a function of w, and
  `hessian` is A. `decay` is the learning rate in units of the first one, and
  `momentum` the v of the optimizer before the step.
  """

  step: int
  grad: Callable[[np.ndarray], np.ndarray]
  hessian: np.ndarray
  decay: float
  momentum: np.ndarray


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
    is_of_network: whether it looks into the loss. Then the trials of a
      function of the parameters are those of a network in `losses_test.py`,
      and the oracle is of that.
  """

  name: str
  fields: dict[str, Any]
  oracle: Callable[..., tuple[np.ndarray, Any]]
  equal: dict[str, Any] | None = None
  other: tuple[str, dict[str, Any]] = ('sgd', {})
  period: int = 1
  is_of_network: bool = False

  def create(self, **changes):
    return methods.create(self.name, **self.fields | changes)

  def __str__(self):
    return ','.join([self.name, *(f'{k}={v}' for k, v in self.fields.items())])
