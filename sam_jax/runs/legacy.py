"""Reads checkpoints of the official 2020 release: flax 0.2.2's msgpack files.

Our models carry the official names, so that the name map is the identity: the
parameter 'WideResnetGroup_0/WideResnetBlock_0/conv1/kernel' is found under the
same path there and here.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

# What msgpack, numpy and flax raise when they read bytes that are damaged.
_DAMAGE = (
  LookupError,
  OverflowError,
  RecursionError,
  SyntaxError,
  TypeError,
  ValueError,
)

_Flat = dict[tuple[str, ...], Any]


def read(path: str | pathlib.Path) -> dict[str, Any]:
  """Reads what the official release would evaluate.

  Three layouts are known: a checkpoint of a training run; one of a run with an
  exponential moving average, of which the average is taken; and a pair of
  model and state, as the pretrained EfficientNets were published. The format
  has no checksum: damage that leaves the structure whole shows in the values
  alone.

  Args:
    path: a file, or a directory that holds files checkpoint_<N>, of which the
      newest is read, or one named checkpoint.

  Returns:
    {'params': ..., 'batch_stats': ...}, nested dicts of float32 arrays under
    the names that our models use.

  Raises:
    ValueError: there is no such checkpoint in the directory, or the file is
      damaged or something else.
    FileNotFoundError: there is no such path.

  Source: official training_utils/flax_training.py, save_checkpoint and train;
  imagenet_models/load_model.py, get_model. Differs from the official release:
  the empty dicts that modules without parameters left behind are dropped.
  """
  file = _find(pathlib.Path(path))
  params, state = _pick(_restore(file), file)
  arrays = {
    'params': flax.traverse_util.flatten_dict(params),
    'batch_stats': _split_names(flax.traverse_util.flatten_dict(state)),
  }
  for flat in arrays.values():
    _check(flat, file)
  return {
    collection: flax.traverse_util.unflatten_dict(
      {name: np.asarray(array, np.float32) for name, array in flat.items()}
    )
    for collection, flat in arrays.items()
  }


def _find(path: pathlib.Path) -> pathlib.Path:
  """Returns the file that a path means."""
  if not path.exists():
    raise FileNotFoundError(f'there is no {path}')
  if not path.is_dir():
    return path
  numbered = {}
  for file in path.iterdir():
    match = re.fullmatch('checkpoint_([0-9]+)', file.name)
    if match and file.is_file():
      numbered[int(match[1])] = file
  if numbered:
    return numbered[max(numbered)]
  if not (path / 'checkpoint').is_file():
    raise ValueError(
      f'{path} is no run directory (it has no config.json) and holds no '
      'official checkpoint (checkpoint_<N>, or checkpoint); give one or the '
      'other, or the file itself'
    )
  return path / 'checkpoint'


def _restore(file: pathlib.Path) -> Any:
  """Returns the tree that a file holds."""
  try:
    content = file.read_bytes()
  except OSError as error:
    raise ValueError(f'{file} cannot be read: {error.strerror}') from error
  try:
    return flax.serialization.msgpack_restore(content)
  except _DAMAGE as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise ValueError(
      f'{file} ({len(content):,} bytes) cannot be read as a checkpoint of '
      f'flax 0.2.2: {reason[:100]}; unpack it if it is an archive, else fetch '
      'it again: it is damaged, truncated or something else'
    ) from error


def _pick(
  tree: Any, file: pathlib.Path
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns parameters and BatchNorm state, whichever the layout."""
  match tree:
    # A run with EMA keeps (state, average) where others keep the state.
    case {
      'model_state': {
        '1': {'param_ema': {'0': {'params': dict(params)}, '1': dict(state)}}
      }
    }:
      return params, state
    case {
      'optimizer': {'target': {'params': dict(params)}},
      'model_state': dict(state),
    }:
      return params, state
    case {'0': {'params': dict(params)}, '1': dict(state)}:
      return params, state
  found = f'a {type(tree).__name__}'
  if isinstance(tree, Mapping):
    found = ', '.join(sorted(map(str, tree))[:5]) or 'nothing'
  raise ValueError(
    f'{file} is no checkpoint of the official release: it holds '
    f'{found[:100]}, expected optimizer and model_state, or the pair 0 and 1'
  )


def _split_names(flat: _Flat) -> _Flat:
  """Turns ('/Group_0/bn', 'mean') into ('Group_0', 'bn', 'mean')."""
  return {
    (*str(module).strip('/').split('/'), *rest): value
    for (module, *rest), value in flat.items()
  }


def _check(flat: _Flat, file: pathlib.Path) -> None:
  """Refuses what is no array of real numbers under a name."""
  for name, value in flat.items():
    if not all(isinstance(part, str) for part in name):
      raise ValueError(
        f'{file} is damaged: {"/".join(map(str, name))} is no name; fetch it '
        'again'
      )
    is_array = isinstance(value, np.ndarray)
    if not is_array or not jnp.issubdtype(value.dtype, jnp.floating):
      found = value.dtype if is_array else type(value).__name__
      raise ValueError(
        f'{file} is damaged: {"/".join(map(str, name))} should be an array of '
        f'real numbers, found {found}; fetch it again'
      )
