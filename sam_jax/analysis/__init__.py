"""Sharpness of a loss: Hessian, m-sharpness, slices of the landscape.

All functions take an `Objective`, the mean of a loss over a data set, and
parameters. `load` makes one of a checkpoint of a run.
"""

from sam_jax.analysis.hessian import (
  Eigenpairs,
  Spectrum,
  Trace,
  spectrum,
  top_eigenpairs,
  trace,
)
from sam_jax.analysis.landscape import interpolate, random_direction, scan
from sam_jax.analysis.objective import Objective
from sam_jax.analysis.sharpness import (
  Ball,
  Sharpness,
  average_case,
  worst_case,
)
from sam_jax.analysis.trained import Trained, load

__all__ = [
  'Ball',
  'Eigenpairs',
  'Objective',
  'Sharpness',
  'Spectrum',
  'Trace',
  'Trained',
  'average_case',
  'interpolate',
  'load',
  'random_direction',
  'scan',
  'spectrum',
  'top_eigenpairs',
  'trace',
  'worst_case',
]
