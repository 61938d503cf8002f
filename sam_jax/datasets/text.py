"""Data sets of text: read, cut into splits by position, made into tokens.

A loader reads its source whole. `create` cuts it into training, validation and
test text, one after the other, which never overlap, and makes tokens of each.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sam_jax import lookup
from sam_jax.datasets import fingerprints, registry, tokenization, windows

Windows = windows.Windows

KIND = 'text'
_SPLITS = ('train', 'validation', 'test')
_SHARE = 0.05  # of the text that validation and test have, unless it is given
# Bytes by which a split may begin later, to begin with a line; and which share
# of the text they are at most.
_LINE, _LATER = 10_000, 0.01
_CHUNK = 2**24  # tokens that are looked at together

register = functools.partial(registry.register, kind=KIND)
names = functools.partial(registry.names, kind=KIND)


class Text(NamedTuple):
  """What a loader of text returns.

  Attributes:
    content: the whole text.
    origin: what it is, for messages.
  """

  content: bytes
  origin: str


class Tokens(NamedTuple):
  """What a loader returns whose text has been made into tokens by others.

  Attributes:
    splits: ids [n] of each split that there is, by name; unsigned integers.
    origin: what they are, for messages.
  """

  splits: Mapping[str, np.ndarray]
  origin: str


@dataclasses.dataclass(frozen=True)
class TextDataset:
  """A text as a run uses it.

  Attributes:
    name: the name it was created by.
    train: windows to train on, whichever split is evaluated.
    evaluation: windows of the split that is evaluated.
    splits: windows of each split that there is, by name.
    vocabulary_size: ids lie in [0, vocabulary_size).
    tokenizer: `Tokenizer.description`; None if it is not known.
    origin: what the text is.
  """

  name: str
  train: Windows
  evaluation: Windows
  splits: Mapping[str, Windows]
  vocabulary_size: int
  tokenizer: str | None
  origin: str

  @property
  def info(self) -> dict[str, Any]:
    """What it takes to use a model without the data set, as JSON."""
    return {
      'vocabulary_size': self.vocabulary_size,
      'context_length': self.train.context_length,
      'tokenizer': self.tokenizer,
      'bytes_known': self.train.bytes_per_token is not None,
      'origin': self.origin,
    }

  @property
  def fingerprints(self) -> dict[str, fingerprints.Fingerprint]:
    """What tells each split from others."""
    return {name: part.fingerprint for name, part in self.splits.items()}


def create(
  name: str,
  *,
  directory: str | None = None,
  split: str = 'test',
  seed: int = 0,
  label_noise: float = 0.0,
  label_noise_kind: str = 'symmetric',
  context_length: int = 256,
  tokenizer: str | None = None,
  vocabulary_size: int | None = None,
  validation_share: float | None = None,
  test_share: float | None = None,
  **loader_options: object,
) -> TextDataset:
  """Loads a text, and makes tokens of it.

  Args:
    name: one of `names()`.
    directory: where its files are; None for the usual places.
    split: what to evaluate on, 'test' or 'validation'. The training text is
      the same for both, and contains neither.
    seed: of nothing; the splits are by position.
    label_noise: has to be 0; a text has no labels.
    label_noise_kind: of nothing.
    context_length: T, tokens of a window.
    tokenizer: path of a `tokenizer.json`; None makes a token of each byte. For
      a source that is tokens, what they were made by, if it is known.
    vocabulary_size: ids that a model has outputs for; None is as many as the
      tokenizer has.
    validation_share: share of the text, before that of the test; None is 0.05.
      A split begins with a line, if lines are short.
    test_share: share of the text, at its end; None is 0.05.
    **loader_options: of the loader.

  Raises:
    ValueError: an unknown name, split or option; a text that is too short, or
      that the tokenizer cannot read; an id that is not in the vocabulary.
    FileNotFoundError: the files are missing; says how to get them.
    ModuleNotFoundError: the tokenizer needs a package that is not installed.
  """
  del label_noise_kind
  lookup.check('split', split, registry.SPLITS)
  if label_noise:
    raise ValueError(
      f'data.label_noise is {label_noise}, and a text has no labels; set it '
      'to 0'
    )
  if context_length < 1:
    raise ValueError(f'context_length is {context_length}; it must be positive')
  loader = registry.find_loader(name, loader_options, KIND)
  reads = tokenization.read(tokenizer)  # before texts that take long to read
  source = loader(directory, seed, **loader_options)
  shares = (validation_share, test_share)
  if isinstance(source, Text):
    made = _encode(source, reads, shares)
    known: str | None = reads.description
  else:
    made = _of_tokens(source, shares)
    known = None if tokenizer is None else reads.description
  if vocabulary_size is None and known is not None:
    vocabulary_size = reads.vocabulary_size
  parts = {
    part: Windows(tokens, context_length, mean)
    for part, (tokens, mean) in made.items()
  }
  size = _check_ids(source.origin, parts, vocabulary_size)
  _check_lengths(source.origin, parts, split)
  return TextDataset(
    name=name,
    train=parts['train'],
    evaluation=parts[split],
    splits=parts,
    vocabulary_size=size,
    tokenizer=known,
    origin=source.origin,
  )


_Made = dict[str, tuple[np.ndarray, float | None]]
_Shares = tuple[float | None, float | None]


def _encode(
  source: Text, reads: tokenization.Tokenizer, shares: _Shares
) -> _Made:
  """Returns the tokens of each split, and bytes for each that is predicted."""
  made: _Made = {}
  for part, content in cut(source.content, *shares).items():
    try:
      tokens = reads.encode(content)
    except ValueError as error:
      raise ValueError(f'{source.origin}, split {part!r}: {error}') from error
    # The first one is not predicted.
    known = len(content) - len(reads.decode(tokens[:1]))
    made[part] = tokens, known / max(len(tokens) - 1, 1)
  return made


def _of_tokens(source: Tokens, shares: _Shares) -> _Made:
  """Returns the tokens of each split; how many bytes they are is not known."""
  if shares != (None, None):
    raise ValueError(
      f'{source.origin} has splits of its own; leave out '
      'data.validation_share and data.test_share'
    )
  return {part: (tokens, None) for part, tokens in source.splits.items()}


def cut(
  content: bytes,
  validation_share: float | None = None,
  test_share: float | None = None,
) -> dict[str, bytes]:
  """Cuts a text into training, validation and test text, in this order.

  Args:
    content: the text.
    validation_share: see `create`.
    test_share: see `create`.

  Returns:
    By name; together they are the whole text. A split without a share is not
    there.

  Raises:
    ValueError: the shares leave nothing to train on.

  Example:
    >>> from sam_jax.datasets import text
    >>> text.cut(b'0123456789', 0.2, 0.1)['validation']
    b'78'
  """
  validation = _SHARE if validation_share is None else validation_share
  test = _SHARE if test_share is None else test_share
  if min(validation, test) < 0 or validation + test >= 1:
    raise ValueError(
      f'data.validation_share is {validation} and data.test_share {test}; they '
      'must be at least 0, and together less than 1'
    )
  count = len(content)
  places = [
    _boundary(content, round(count * (1 - validation - test))),
    _boundary(content, round(count * (1 - test))),
  ]
  ends = zip(_SPLITS, [0, *places], [*places, count], strict=True)
  kept = {'train': 1.0, 'validation': validation, 'test': test}
  return {part: content[i:j] for part, i, j in ends if kept[part]}


def _boundary(content: bytes, place: int) -> int:
  """Returns where a line begins, or at least a character of UTF-8."""
  if place in (0, len(content)):
    return place
  later = min(_LINE, round(_LATER * len(content)))
  end = content.find(b'\n', place - 1, place + later)
  if end >= 0:
    return end + 1
  while place < len(content) and 0x80 <= content[place] < 0xC0:
    place += 1
  return place


def _check_ids(
  origin: str, parts: Mapping[str, Windows], vocabulary_size: int | None
) -> int:
  """Returns the size of the vocabulary, in which all ids are.

  Raises:
    ValueError: one is not, or the size is not known.
  """
  for part, of_part in parts.items():
    largest = _largest(of_part.tokens)
    if vocabulary_size is None:
      raise ValueError(
        f'{origin} does not say how many tokens its vocabulary has; set '
        f'data.vocabulary_size, at least {largest + 1:,}, or data.tokenizer'
      )
    if largest >= vocabulary_size:
      raise ValueError(
        f'{origin}, split {part!r}: the largest id of a token is {largest:,}, '
        f'and the vocabulary has {vocabulary_size:,}; set '
        f'data.vocabulary_size to at least {largest + 1:,}'
      )
  assert vocabulary_size is not None
  return vocabulary_size


def _largest(tokens: np.ndarray) -> int:
  """Returns the largest id; of a memory map, without reading it whole."""
  starts = range(0, len(tokens), _CHUNK)
  return max((int(tokens[i : i + _CHUNK].max()) for i in starts), default=-1)


def _check_lengths(
  origin: str, parts: Mapping[str, Windows], split: str
) -> None:
  """Refuses a text that is shorter than a window, or cannot be evaluated."""
  train = parts['train']
  if len(train.tokens) <= train.context_length:
    raise ValueError(
      f'{origin} has {len(train.tokens):,} tokens to train on, and a window '
      f'needs {train.context_length + 1:,}; give more text, or a smaller '
      'data.context_length'
    )
  if split not in parts:
    others = ' and '.join(map(repr, sorted(parts.keys() - {'train'}))) or 'none'
    raise ValueError(
      f'{origin} has no split {split!r} to evaluate on; it has {others}'
    )
  if len(parts[split].tokens) < 2:
    raise ValueError(
      f'{origin}, split {split!r}, has {len(parts[split].tokens)} tokens, and '
      'none of them can be predicted; give more text, or a larger share'
    )
