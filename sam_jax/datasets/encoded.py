"""Images that stay encoded until a batch wants them."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from sam_jax import extras

# What `decoding` imports, when the first batch is made.
_DECODERS = ('cv2', 'PIL', 'simplejpeg')


class UndecodableError(ValueError):
  """The bytes are not, or not all, of an image."""


class Storage(Protocol):
  """Where encoded images are: random access, and safe to copy to a process."""

  def __len__(self) -> int:
    """Returns the number of images."""

  def read(self, index: int) -> bytes:
    """Returns the content of an image file."""

  def name(self, index: int) -> str:
    """Returns what a message calls that image."""

  def file(self, index: int) -> str | None:
    """Returns the path below the data set's directory; None if it has none."""

  def num_bytes(self, index: int) -> int | None:
    """Returns the bytes of the file; None if that is not known unread."""


@dataclasses.dataclass(frozen=True)
class Files:
  """Image files of a data set.

  Attributes:
    names: paths of the files below the directory of the data set, SPLIT/...
    root: this directory.
    sizes: of the files in bytes, where they are known.
  """

  names: Sequence[str]
  root: str = ''
  sizes: Sequence[int] | None = None

  def __len__(self) -> int:
    """Returns the number of files."""
    return len(self.names)

  def read(self, index: int) -> bytes:
    """Returns the content of a file."""
    return pathlib.Path(self.name(index)).read_bytes()

  def name(self, index: int) -> str:
    """Returns the whole path."""
    return str(pathlib.Path(self.root, self.names[index]))

  def file(self, index: int) -> str:
    """Returns the path below the directory."""
    return self.names[index]

  def num_bytes(self, index: int) -> int | None:
    """Returns the bytes of the file; None if they were not asked for."""
    return None if self.sizes is None else self.sizes[index]


def joined(parts: Sequence[Files]) -> Files:
  """Returns the files of several places of one directory, in turn."""
  if len(parts) == 1:
    return parts[0]
  sizes = [part.sizes for part in parts if part.sizes is not None]
  return Files(
    list(itertools.chain.from_iterable(part.names for part in parts)),
    parts[0].root,
    list(itertools.chain(*sizes)) if len(sizes) == len(parts) else None,
  )


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
    """Returns the content of the image file in a record.

    Raises:
      OSError: the record is damaged.
    """
    offset = index
    for source in self.sources:
      if offset < len(source):
        try:
          return source[offset]['image']
        except Exception as error:  # whatever array_record raises
          raise OSError(f'{self.name(index)}: {error}') from error
      offset -= len(source)
    raise IndexError(index)

  def name(self, index: int) -> str:
    """Returns the place of a record."""
    return f'{self.what}, record {index}'

  def file(self, index: int) -> None:
    """Returns None: records are in no files of their own."""

  def num_bytes(self, index: int) -> None:
    """Returns None: it is not known unread."""


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
    ModuleNotFoundError: a library that decodes is not installed.
  """

  storage: Storage
  rows: np.ndarray
  size: int
  workers: int = 0

  dtype = np.dtype(np.uint8)
  ndim = 4

  def __post_init__(self) -> None:
    """Refuses numbers that make no sense, and what could not be decoded."""
    extras.check(*_DECODERS)
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

  def file(self, index: int) -> str | None:
    """Returns the path of image `index` below the data set's directory."""
    return self.storage.file(int(self.rows[index]))

  def num_bytes(self, index: int) -> int | None:
    """Returns the bytes of image `index`; None if that is not known unread."""
    return self.storage.num_bytes(int(self.rows[index]))
