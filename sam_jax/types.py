"""Aliases used in signatures."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

PyTree = Any
Params = Any
Grads = Any
Scalar = jax.Array | float
Metrics = Mapping[str, jax.Array]
Perturbation = Callable[[Grads, Params], Any]
# What differentiates a loss that is closed over: `params -> (out, grads)`.
GradientFn = Callable[[Params], tuple[Any, Grads]]
