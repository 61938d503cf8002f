"""Sharpness of a loss: Hessian, m-sharpness, slices of the landscape.

All functions take an `Objective`, the mean of a loss over a data set, and
parameters.
"""

from sam_jax.analysis.objective import Objective

__all__ = [
  'Objective',
]
