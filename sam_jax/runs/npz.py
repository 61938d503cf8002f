"""Reads the checkpoints of google-research/vision_transformer: .npz files.

ViT and MLP-Mixer, those trained with SAM included. Our models carry the names
of these files, so that the name map is the identity: the array
'Transformer/encoderblock_0/LayerNorm_0/scale' is found under the same path
there and here. Two things are left out: a prefix 'opt/target/', under which
some files have the parameters beside an optimizer's state, and that state.
"""

import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

# What numpy and zipfile raise when they read bytes that are damaged. A damaged
# header may ask for any amount of memory.
_DAMAGE = (
  AttributeError,  # it holds one array without a name
  EOFError,
  LookupError,
  MemoryError,
  NotImplementedError,
  OSError,
  OverflowError,
  RuntimeError,
  SyntaxError,
  TypeError,
  UnicodeError,
  ValueError,
  zipfile.BadZipFile,
  zlib.error,
)
_SUFFIX = '.npz'
_MAGIC = b'PK\x03\x04'  # of a zip archive, which an .npz file is
_OPTIMIZED = 'opt/target/'
_FIRST = ('embedding', 'stem')  # of a ViT, of an MLP-Mixer


def is_npz(path: pathlib.Path) -> bool:
  """Whether a path is a file that claims to be an .npz file."""
  if not path.is_file():
    return False
  if path.suffix == _SUFFIX:
    return True
  try:
    with path.open('rb') as stream:
      return stream.read(len(_MAGIC)) == _MAGIC
  except OSError:
    return False  # whoever reads it says why


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads the parameters that a file holds.

  Args:
    path: an .npz file. Nothing in it is unpickled.

  Returns:
    {'params': ..., 'batch_stats': {}}, nested dicts of float32 arrays under
    the names of the file, which are those that our models use.

  Raises:
    ValueError: the file is damaged or something else.
  """
  arrays = _arrays(path)
  if any(name.startswith(_OPTIMIZED) for name in arrays):
    arrays = {
      name.removeprefix(_OPTIMIZED): array
      for name, array in arrays.items()
      if name.startswith(_OPTIMIZED)
    }
  for name, array in arrays.items():
    _check(name, array, arrays, path)
  params = flax.traverse_util.unflatten_dict(
    {name: np.asarray(array, np.float32) for name, array in arrays.items()},
    sep='/',
  )
  return {'params': params, 'batch_stats': {}}


def renormalise(
  loaded: Mapping[str, Any],
  mean: Sequence[float] | None,
  std: Sequence[float] | None,
) -> dict[str, Any]:
  """Returns parameters that do with normalised images what they were made for.

  The models of these files take pixels that are scaled to [-1, 1]. The first
  layer is a convolution without padding, so that another normalisation can be
  moved into its kernel and bias exactly, up to rounding.

  Args:
    loaded: of `read`.
    mean: of each channel, by which the images are normalised, in [0, 1]; None
      is for data that are no images.
    std: of each channel, likewise.

  Returns:
    The variables; unchanged if there is no such layer for as many channels.
  """
  params = loaded['params']
  name = next((name for name in _FIRST if name in params), '')
  layer = params.get(name)
  if mean is None or std is None or not _takes(layer, len(mean)):
    return dict(loaded)
  scale = np.asarray(std, np.float32)[:, None] * 2
  shift = np.asarray(mean, np.float32)[:, None] * 2 - 1
  kernel = layer['kernel']
  moved = {
    'kernel': kernel * scale,
    'bias': layer['bias'] + np.sum(kernel * shift, axis=(0, 1, 2)),
  }
  return {**loaded, 'params': {**params, name: moved}}


def _takes(layer: Any, channels: int) -> bool:
  """Whether a layer is a convolution over so many channels, with a bias."""
  if not isinstance(layer, Mapping) or layer.keys() != {'kernel', 'bias'}:
    return False
  shape = np.shape(layer['kernel'])
  return len(shape) == 4 and shape[2] == channels


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a file by name."""
  try:
    # numpy would leave a damaged file open that it opens itself.
    with path.open('rb') as stream:
      archive = np.load(stream, allow_pickle=False)
      arrays = {name: archive[name] for name in archive.files}
  except _DAMAGE as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise ValueError(
      f'{path} cannot be read as an {_SUFFIX} file of arrays: {reason[:100]}; '
      'fetch it again: it is damaged, truncated or something else'
    ) from error
  if not arrays:
    raise ValueError(f'{path} holds no arrays; fetch it again')
  return arrays


def _check(
  name: str, array: Any, arrays: dict[str, Any], path: pathlib.Path
) -> None:
  """Refuses what is no array of real numbers under a path of its own."""
  if not isinstance(array, np.ndarray) or not jnp.issubdtype(
    array.dtype, jnp.floating
  ):
    found = getattr(array, 'dtype', type(array).__name__)
    raise ValueError(
      f'{path} is no checkpoint of a model: {name} should be an array of real '
      f'numbers, found {found}; give an {_SUFFIX} file of parameters'
    )
  parts = name.split('/')
  above = ('/'.join(parts[:n]) for n in range(1, len(parts)))
  if inner := next((outer for outer in above if outer in arrays), None):
    raise ValueError(
      f'{path} is no checkpoint of a model: it has an array {inner} and, in '
      f'it, {name}; give an {_SUFFIX} file of parameters'
    )
