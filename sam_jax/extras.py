"""Optional dependencies: which extra of the package installs what.

`pip install sam_jax` installs jax and numpy. Everything else belongs to an
extra, and code that needs it says so with `require`.
"""

import importlib.util

# Import name -> the extra that installs it, see setup.py.
_EXTRAS = {
  'absl': 'train',
  'cv2': 'train',
  'filelock': 'train',
  'flax': 'train',
  'grain': 'train',
  'matfree': 'analysis',
  'matplotlib': 'analysis',
  'ml_collections': 'train',
  'optax': 'train',
  'orbax': 'train',
  'PIL': 'train',
  'ray': 'ray',
  'scipy': 'analysis',
  'simplejpeg': 'train',
  'sklearn': 'train',
  'tensorboard': 'train',
  'tensorflow_datasets': 'train',
  'tokenizers': 'tokenizers',
  'torch': 'torch',
  'tqdm': 'train',
  'wandb': 'wandb',
}


def require(*packages: str) -> None:
  """Refuses to go on without some packages.

  Args:
    *packages: import names, each of a package that an extra installs.

  Raises:
    ModuleNotFoundError: one of them is not installed; the message is one line
      that names the extra.

  Example:
    >>> from sam_jax import extras
    >>> extras.require('flax', 'optax')
  """
  for package in packages:
    if importlib.util.find_spec(package) is None:
      raise ModuleNotFoundError(advice(package), name=package)


def advice(module: str | None) -> str | None:
  """Returns how to install a module, None if no extra installs it.

  Args:
    module: the name that `ModuleNotFoundError` has, such as 'flax.linen'.

  Example:
    >>> from sam_jax import extras
    >>> extras.advice('flax.linen')
    "flax is not installed; install it with: pip install 'sam_jax[train]'"
  """
  package = (module or '').partition('.')[0]
  if package not in _EXTRAS:
    return None
  return (
    f'{package} is not installed; install it with: '
    f"pip install 'sam_jax[{_EXTRAS[package]}]'"
  )
