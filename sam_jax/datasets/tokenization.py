"""From bytes to tokens and back."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from sam_jax import extras

BYTES = 'bytes'

# Characters that are given to a tokenizer at once, up to the end of a line:
# what it holds beside the tokens is a hundred times as large.
_PIECE = 2**20


class Tokenizer(Protocol):
  """Makes tokens of bytes.

  Attributes:
    vocabulary_size: ids lie in [0, vocabulary_size).
    description: what `of` makes it from again.
  """

  @property
  def vocabulary_size(self) -> int:
    """One more than the largest id."""

  @property
  def description(self) -> str:
    """What `of` makes it from again."""

  def encode(self, content: bytes) -> np.ndarray:
    """Returns the ids [n] of a text, unsigned integers.

    Raises:
      ValueError: the tokenizer cannot read these bytes.
    """

  def decode(self, tokens: Sequence[int] | np.ndarray) -> bytes:
    """Returns the text of some ids."""


class ByteTokenizer:
  """Every byte is a token; takes anything."""

  vocabulary_size = 256
  description = BYTES

  def encode(self, content: bytes) -> np.ndarray:
    """Returns the bytes."""
    return np.frombuffer(content, np.uint8)

  def decode(self, tokens: Sequence[int] | np.ndarray) -> bytes:
    """Returns the bytes; an id beyond 255, which no text has, is left out."""
    return bytes(token for token in map(int, tokens) if token < 256)


class FileTokenizer:
  """What a `tokenizer.json` of the library `tokenizers` says."""

  def __init__(self, description: str) -> None:
    """Takes the content of the file.

    Raises:
      ValueError: it is no tokenizer.
      ModuleNotFoundError: the library is not installed; says how to install it.
    """
    with extras.required():
      import tokenizers
    self.description = description
    try:
      self._tokenizer = tokenizers.Tokenizer.from_str(description)
    except Exception as error:  # the library's own class is no other
      raise ValueError(f'no tokenizer.json: {error}') from error

  @property
  def vocabulary_size(self) -> int:
    """One more than the largest id."""
    return 1 + max(self._tokenizer.get_vocab(True).values(), default=-1)

  def encode(self, content: bytes) -> np.ndarray:
    """Returns the ids of a text; no special tokens are added to it."""
    try:
      text = content.decode('utf-8')
    except UnicodeDecodeError as error:
      raise ValueError(
        f'it is not UTF-8: {error.reason} at byte {error.start:,}; a tokenizer '
        'needs UTF-8, and without one a text is read as bytes'
      ) from error
    parts = [
      self._tokenizer.encode(piece, add_special_tokens=False).ids
      for piece in _pieces(text)
    ]
    dtype = np.min_scalar_type(self.vocabulary_size)
    return np.concatenate([np.array(p, dtype) for p in parts or [[]]])

  def decode(self, tokens: Sequence[int] | np.ndarray) -> bytes:
    """Returns the text of some ids."""
    ids = [int(token) for token in tokens]
    text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
    return text.encode('utf-8')


def read(path: str | None) -> Tokenizer:
  """Returns the tokenizer of a file; None is that of bytes.

  Raises:
    ValueError: the file is no tokenizer.
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: the library is not installed; says how to install it.
  """
  if path is None:
    return ByteTokenizer()
  place = pathlib.Path(path)
  if not place.is_file():
    raise FileNotFoundError(
      f'data.tokenizer is {path}, and there is no such file; give the '
      'tokenizer.json of the library tokenizers, or none to read bytes'
    )
  try:
    return FileTokenizer(place.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'data.tokenizer is {path}: {error}') from error


def of(description: str | None) -> Tokenizer:
  """Returns the tokenizer that a data set was made with.

  Args:
    description: what the `info` of the data set has as `tokenizer`.

  Raises:
    ValueError: it is not known.
    ModuleNotFoundError: the library is not installed; says how to install it.

  Example:
    >>> from sam_jax.datasets import tokenization
    >>> tokenizer = tokenization.of('bytes')
    >>> tokenizer.decode(tokenizer.encode(b'to be'))
    b'to be'
  """
  if description is None:
    raise ValueError(
      'the data are ids of tokens whose text is not known; train with '
      'data.tokenizer, the tokenizer.json that made them'
    )
  if description == BYTES:
    return ByteTokenizer()
  return FileTokenizer(description)


def _pieces(text: str) -> Iterator[str]:
  """Yields a text in pieces that end with a line, the last one aside."""
  start = 0
  while start < len(text):
    end = text.find('\n', start + _PIECE) + 1 or len(text)
    yield text[start:end]
    start = end
