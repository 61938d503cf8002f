"""The configs that are shipped, one file for each family of experiments.

A config, or a sweep, is found by name from any directory: 'cifar10',
'cifar10.py' and 'configs/cifar10.py' are the file here, each also with an
argument, as in 'cifar10:1800'. A file of one's own is given by its path.
"""

import os
import pathlib

from sam_jax import lookup

_SHIPPED = pathlib.Path(__file__).parent


def find(name: str) -> str:
  """Returns the absolute path of a config file, with its argument if any.

  Args:
    name: path of a file, which wins, or the name of a shipped config; either
      may be followed by ':' and an argument for its `get_config`.

  Raises:
    ValueError: there is no such file; the message lists the shipped configs.

  Example:
    >>> from sam_jax import configs
    >>> configs.find('digits:noisy').endswith('/configs/digits.py:noisy')
    True
  """
  path, colon, argument = name.partition(':')
  return f'{_find(path, "config", "configs")}{colon}{argument}'


def find_sweep(name: str) -> str:
  """Returns the absolute path of a sweep file.

  Args:
    name: path of a file, which wins, or the name of a shipped sweep.

  Raises:
    ValueError: there is no such file; the message lists the shipped sweeps.
  """
  return str(_find(name, 'sweep', 'configs/sweeps'))


def _find(name: str, kind: str, folder: str) -> pathlib.Path:
  """Returns a file of one's own, or else the shipped one of that name."""
  own = pathlib.Path(os.path.expanduser(name))
  if os.path.isfile(own):  # False for a name that is too long
    return own.absolute()
  shipped = {
    path.stem: path
    for path in sorted((_SHIPPED.parent / folder).glob('[!_]*.py'))
  }
  if os.path.isfile(own / 'config.json'):
    raise ValueError(
      f'{name!r} is a run directory; give {own / "config.json"}, its config'
    )
  stem = name.removeprefix(f'{folder}/').removesuffix('.py')
  if stem not in shipped:
    known = ', '.join(shipped)
    if '/' in stem or own.suffix:
      raise ValueError(
        f'{kind} file {name!r} does not exist; give the path of a file, or one '
        f'of the shipped names: {known}'
      )
    raise lookup.unknown(kind, name, shipped)
  return shipped[stem]
