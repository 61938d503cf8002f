"""Sharpness of a loss: Hessian, m-sharpness, slices of the landscape.

All functions take an `Objective`, the mean of a loss over a data set, and
parameters. `load` makes one of a checkpoint of a run; it needs the training
stack too.
"""

import importlib

from sam_jax import extras

with extras.required():
  from sam_jax.analysis.hessian import (
    Eigenpairs,
    Spectrum,
    Trace,
    bottom_eigenpairs,
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

__all__ = [
  'Ball',
  'Eigenpairs',
  'Objective',
  'Sharpness',
  'Spectrum',
  'Trace',
  'Trained',
  'average_case',
  'bottom_eigenpairs',
  'interpolate',
  'load',
  'random_direction',
  'scan',
  'spectrum',
  'top_eigenpairs',
  'trace',
  'worst_case',
]


def __getattr__(name: str) -> object:
  """Imports what needs the training stack only when it is asked for."""
  if name in ('Trained', 'load'):
    with extras.required():
      module = importlib.import_module('sam_jax.analysis.trained')
    return getattr(module, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
