"""Sharpness-Aware Minimization (Foret et al. 2020) for JAX and Flax.

The gradient is a drop-in for `jax.value_and_grad`; the rest of the package
trains the paper's models with it (`python -m sam_jax.train`).
"""

from sam_jax.perturbations import asam, l2, lp
from sam_jax.sam import SamInfo, grad, value_and_grad

__version__ = '0.1.0'
__all__ = [
  'LoadedModel',
  'SamInfo',
  '__version__',
  'asam',
  'grad',
  'l2',
  'load',
  'lp',
  'value_and_grad',
]


def __getattr__(name: str) -> object:
  """Imports what needs the training stack only when it is asked for."""
  if name in ('load', 'LoadedModel'):
    from sam_jax.runs import loading

    return getattr(loading, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
