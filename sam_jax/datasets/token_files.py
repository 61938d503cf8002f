"""Tokens as nanoGPT writes them: files of uint16, which are mapped."""

import pathlib

import numpy as np

from sam_jax.datasets import text

_FILES = {'train': 'train.bin', 'validation': 'val.bin', 'test': 'test.bin'}
_BYTES = 2  # of a token


@text.register('tokens')
def load(directory: str | None, seed: int) -> text.Tokens:
  """Maps `train.bin`, `val.bin` and, if it is there, `test.bin`.

  Their text is not known, nor the vocabulary: nanoGPT's `meta.pkl` is not
  read, because it is unpickled, which runs what it says.

  Args:
    directory: holds the files.
    seed: unused.

  Raises:
    ValueError: a file holds no whole tokens.
    FileNotFoundError: no directory is given, or the first two files are not
      there; says how to get them.
  """
  del seed
  if directory is None:
    raise FileNotFoundError(
      "data.name='tokens' needs data.directory, with train.bin and val.bin as "
      "nanoGPT's prepare.py writes them"
    )
  place = pathlib.Path(directory)
  paths = {part: place / name for part, name in _FILES.items()}
  for part in ('train', 'validation'):
    if not paths[part].is_file():
      raise FileNotFoundError(
        f'there is no {paths[part]}; data.directory has train.bin and val.bin, '
        "tokens of 16 bits without a header, as nanoGPT's prepare.py writes "
        'them'
      )
  splits = {part: _map(path) for part, path in paths.items() if path.is_file()}
  return text.Tokens(splits, f'the token files in {place.name}')


def _map(path: pathlib.Path) -> np.ndarray:
  """Returns the tokens of a file, which stay on the disk."""
  size = path.stat().st_size
  if not size or size % _BYTES:
    raise ValueError(
      f'{path} has {size:,} bytes, which are no tokens of 16 bits each; write '
      'it again'
    )
  return np.memmap(path, '<u2', 'r')
