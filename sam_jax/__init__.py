"""Sharpness-Aware Minimization (Foret et al. 2020) for JAX and Flax.

The gradient is a drop-in for `jax.value_and_grad`, and `methods` has the family
of methods for your own training loop; both need jax and numpy alone. The rest
of the package trains the paper's models (`python -m sam_jax.train`) and studies
what was trained (`sam_jax.analysis`).
"""

import importlib

from sam_jax import startup as _startup

if _startup.is_command():  # before the imports that take a second
  _startup.end_at_once()
  _startup.share_memory()

from sam_jax import extras as _extras  # noqa: E402
from sam_jax.perturbations import adaptive, asam, l2, lp, masked
from sam_jax.sam import SamInfo, grad, value_and_grad

__version__ = '0.2.0'
__all__ = [
  'LoadedModel',
  'SamInfo',
  '__version__',
  'adaptive',
  'analysis',
  'asam',
  'grad',
  'l2',
  'load',
  'lp',
  'masked',
  'methods',
  'perturbations',
  'value_and_grad',
]

# Imported when they are asked for: they need more than jax and numpy, or time.
_MODULES = ('analysis', 'methods')
_LOADING = ('LoadedModel', 'load')


def __getattr__(name: str) -> object:
  """Imports what is not needed for the gradient."""
  with _extras.required():
    if name in _MODULES:
      return importlib.import_module(f'sam_jax.{name}')
    if name in _LOADING:
      return getattr(importlib.import_module('sam_jax.runs.loading'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
