"""The pieces of a long computation, for whoever wants to keep them."""

from collections.abc import Callable, Mapping

import numpy as np

# What a piece computes: arrays by name.
Result = Mapping[str, np.ndarray]
# `(name, compute) -> result`: computes a piece, or has it already. The name
# says which piece of one computation it is.
Unit = Callable[[str, Callable[[], Result]], Result]


def compute(name: str, fn: Callable[[], Result]) -> Result:
  """Computes a piece and keeps nothing: the default of all that take a unit."""
  del name
  return fn()
