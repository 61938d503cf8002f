"""Optional dependencies: which extra of the package installs what.

`pip install sam_jax` installs jax and numpy. Everything else belongs to an
extra, and packages that need it import their modules under `required`. What is
imported late is looked for early, by `check`.
"""

import contextlib
import importlib.util
from collections.abc import Iterator

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
  'mlflow': 'mlflow',
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
  'xxhash': 'train',
}


@contextlib.contextmanager
def required() -> Iterator[None]:
  """Names the extra to install if an import within the block fails.

  Raises:
    ModuleNotFoundError: the message is one line that says what to install.

  Example:
    >>> from sam_jax import extras
    >>> with extras.required():
    ...   raise ModuleNotFoundError(name='flax.linen')
    Traceback (most recent call last):
      ...
    ModuleNotFoundError: flax is not installed; install it with: pip install ...
  """
  try:
    yield
  except ModuleNotFoundError as error:
    if (text := advice(error.name)) is None:
      raise
    raise ModuleNotFoundError(text, name=error.name) from error


def check(*modules: str) -> None:
  """Refuses to begin what will need modules that are not there.

  None is imported: that is for the moment that needs it.

  Args:
    *modules: names of modules, such as 'orbax.checkpoint'.

  Raises:
    ModuleNotFoundError: see `required`.
  """
  for module in modules:
    with required():
      if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f'No module named {module!r}', name=module)


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
