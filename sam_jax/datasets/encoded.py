"""Images that stay encoded until a batch wants them."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Storage(Protocol):
  """Where encoded images are: random access, and safe to copy to a process."""

  def __len__(self) -> int:
    """Returns the number of images."""

  def read(self, index: int) -> bytes:
    """Returns the content of an image file."""

  def name(self, index: int) -> str:
    """Returns what a message calls that image."""


@dataclasses.dataclass(frozen=True)
class Files:
  """Image files.

  Attributes:
    paths: of the files.
  """

  paths: Sequence[str]

  def __len__(self) -> int:
    """Returns the number of files."""
    return len(self.paths)

  def read(self, index: int) -> bytes:
    """Returns the content of a file."""
    return pathlib.Path(self.paths[index]).read_bytes()

  def name(self, index: int) -> str:
    """Returns the path."""
    return self.paths[index]


@dataclasses.dataclass(frozen=True)
class Records:
  """Records of TensorFlow Datasets, their images not decoded.

  Attributes:
    sources: of some splits; `sources[k][i]['image']` are the bytes of image i.
    what: name of the data set, for messages.
  """

  sources: tuple[Sequence[Any], ...]
  what: str

  def __len__(self) -> int:
    """Returns the number of records."""
    return sum(map(len, self.sources))

  def read(self, index: int) -> bytes:
    """Returns the content of the image file in a record."""
    for source in self.sources:
      if index < len(source):
        return source[index]['image']
      index -= len(source)
    raise IndexError(index)

  def name(self, index: int) -> str:
    """Returns the place of a record."""
    return f'{self.what}, record {index}'


@dataclasses.dataclass(frozen=True)
class EncodedImages:
  """Some images of a storage, in some order; has the look of an array.

  Attributes:
    storage: where they are.
    rows: int64 [n], which of them.
    size: height and width in pixels of what they are decoded to.
    workers: processes that decode; 0 decodes by threads of this one.

  Raises:
    ValueError: size < 1 or workers < 0.
  """

  storage: Storage
  rows: np.ndarray
  size: int
  workers: int = 0

  dtype = np.dtype(np.uint8)
  ndim = 4

  def __post_init__(self) -> None:
    """Refuses numbers that make no sense."""
    if self.size < 1:
      raise ValueError(f'image_size is {self.size}; it must be at least 1')
    if self.workers < 0:
      raise ValueError(
        f'workers is {self.workers}; it must be at least 0, which uses threads'
      )

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the decoded images, [n, size, size, 3]."""
    return (len(self), self.size, self.size, 3)

  def __len__(self) -> int:
    """Returns n."""
    return len(self.rows)

  def __getitem__(self, key: slice | np.ndarray) -> 'EncodedImages':
    """Returns those of a slice, or of an array of indices or bools."""
    return dataclasses.replace(self, rows=self.rows[key])

  def read(self, index: int) -> bytes:
    """Returns the content of the file of image `index` of n."""
    return self.storage.read(int(self.rows[index]))

  def name(self, index: int) -> str:
    """Returns what a message calls image `index` of n."""
    return self.storage.name(int(self.rows[index]))
