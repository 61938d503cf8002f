"""What tells the examples of a split from others, in a few bytes.

It depends neither on the directory nor on the machine, the times of files or
the order in which a disk lists them. Arrays of up to 4 GiB are hashed whole,
images and labels; of larger ones, 1,000 examples, evenly spaced. Of images that
stay encoded, the labels, the names and the sizes of all files are hashed, and
the whole content of `SAMPLED` of them, evenly spaced: a split of so few is
covered whole, and in a larger one an image may go unnoticed that was replaced
by another of the same name and number of bytes. The tokens of a text are hashed
as an array of windows.
"""

import concurrent.futures
import hashlib
import os
import unicodedata
from typing import TypedDict

import numpy as np

from sam_jax.datasets import encoded

# Reading so many takes a moment, even from a network disk.
SAMPLED = 100

_MAX_BYTES, _ROWS = 2**32, 1000  # of an array that is hashed whole; else rows
_CHUNK = 2**23  # bytes that are hashed at once, by a thread each
_LENGTH = 32  # of a digest, in hexadecimal digits


class Fingerprint(TypedDict):
  """Of the examples of a split, as JSON; None is for what they do not have."""

  count: int
  labels: str | None
  names: str | None
  contents: str


def of(
  images: np.ndarray | encoded.EncodedImages,
  labels: np.ndarray,
  domains: np.ndarray | None = None,
) -> Fingerprint:
  """Returns the fingerprint of labelled images, encoded ones in any order.

  Where the examples have domains, those belong to the labels.
  """
  if domains is not None:
    labels = np.stack([labels, domains], axis=1)
  if isinstance(images, np.ndarray):
    return {
      'count': len(labels),
      'labels': of_array(labels),
      'names': None,
      'contents': of_array(images),
    }
  order = np.argsort(images.rows, kind='stable')
  return {
    'count': len(labels),
    'labels': of_array(labels[order]),
    'names': _of_names(images, order),
    'contents': _of_contents(images, order),
  }


def of_array(array: np.ndarray) -> str:
  """Returns the digest of the type, the shape and the bytes of an array."""
  total = hashlib.sha256(f'{array.dtype.str} {array.shape}'.encode())
  if array.nbytes > _MAX_BYTES:
    array = array[_evenly(len(array), _ROWS)]
  content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  chunks = [content[i : i + _CHUNK] for i in range(0, len(content), _CHUNK)]
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for part in pool.map(hashlib.sha256, chunks):
      total.update(part.digest())
  return total.hexdigest()[:_LENGTH]


def _of_names(images: encoded.EncodedImages, order: np.ndarray) -> str | None:
  """Returns the digest of the files' names; None if they have none.

  The folder of the split is left out: it may be called val or validation.
  """
  names = [images.file(int(i)) for i in order]
  known = [name.partition('/')[2] for name in names if name is not None]
  if len(known) < len(names):
    return None
  text = unicodedata.normalize('NFC', '\n'.join(known))
  return _digest(text.encode('utf-8', 'surrogateescape'))


def _of_contents(images: encoded.EncodedImages, order: np.ndarray) -> str:
  """Returns the digest of the sizes of all files and the content of some."""
  sizes = ' '.join(str(images.num_bytes(int(i))) for i in order)
  places = _evenly(len(order), SAMPLED)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    parts = pool.map(lambda i: _of_file(images, int(i)), order[places])
    return _digest(sizes.encode() + b''.join(parts))


def _of_file(images: encoded.EncodedImages, index: int) -> bytes:
  """Returns the digest of an image file; of one that cannot be read, its own.

  Training skips such an image and says so.
  """
  try:
    return hashlib.sha256(images.read(index)).digest()
  except OSError:
    return hashlib.sha256(b'unreadable').digest()


def _evenly(count: int, sampled: int) -> np.ndarray:
  """Returns so many indices of `count`, or all."""
  return np.unique(np.linspace(0, count - 1, sampled).astype(int))


def _digest(content: bytes) -> str:
  """Returns the digest of some bytes."""
  return hashlib.sha256(content).hexdigest()[:_LENGTH]
