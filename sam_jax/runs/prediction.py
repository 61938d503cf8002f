"""What a trained model sees in image files: classes and probabilities.

An image goes the way of the examples of an evaluation. A run whose images are
decoded to a chosen size takes images of any size, and crops the middle as
evaluation does; one whose images are arrays takes images of their size alone.
"""

import collections
import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np

from sam_jax.datasets import decoding, folders
from sam_jax.runs import evaluation, loading


class Prediction(NamedTuple):
  """What a model says of an image.

  Attributes:
    path: of the file.
    probabilities: float [num_classes]; None if it cannot be predicted.
    problem: why not, in one line; '' if it can.
  """

  path: pathlib.Path
  probabilities: np.ndarray | None
  problem: str = ''


@runtime_checkable
class _Classifier(Protocol):
  """A task that tells classes apart."""

  def probabilities(self, outputs: np.ndarray) -> np.ndarray:
    """Returns the probability of each class."""


def find(places: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Returns image files: those that are named, and all in folders.

  Args:
    places: files and folders.

  Raises:
    ValueError: one of them does not exist, or a folder has no images.
    OSError: a folder cannot be read.
  """
  for place in places:
    if not place.exists():
      raise ValueError(f'there is no file or folder {place}')
  return [
    path
    for place in places
    for path in (folders.images(place) if place.is_dir() else [place])
  ]


def check(restored: loading.Restored) -> None:
  """Refuses a run whose model does not tell classes of images apart.

  Raises:
    ValueError: it is of another task.
  """
  task = restored.task
  shape = task.info.get('image_shape')
  if shape and shape[-1] not in (1, 3):
    raise ValueError(
      f'the images of the run have {shape[-1]} channels, which no image file '
      'has'
    )
  if shape and isinstance(task, _Classifier):
    return
  advice = '; sam-generate writes text' if 'tokenizer' in task.info else ''
  raise ValueError(
    f'the run is of the task {restored.config.task.name!r}, which predicts no '
    f'classes of images{advice}'
  )


def predict(
  restored: loading.Restored,
  paths: Sequence[pathlib.Path],
  batch_size: int = 256,
) -> Iterator[Prediction]:
  """Yields a prediction for each image, in order; a bad one does not stop it.

  Images are decoded by threads, a batch ahead of the model.

  Args:
    restored: checkpoint of a run, see `check`.
    paths: of the files.
    batch_size: images at once; the result does not depend on it.

  Raises:
    ValueError: see `check`, or an output of the model is not finite.
  """
  check(restored)
  task: Any = restored.task
  size = max(min(batch_size, len(paths)), 1)
  decoded: list[list[np.ndarray | str]] = []  # what the model sees now

  def batches() -> Iterator[dict[str, np.ndarray]]:
    for images in _decoded(_reader(restored), paths, size):
      decoded.append(images)
      yield _batch(images, size, task.info['image_shape'])

  parts = evaluation.predict(
    restored.apply_fn, restored.variables, task, batches()
  )
  left = iter(paths)
  for part in parts:
    if not np.isfinite(part.outputs).all():
      raise ValueError(
        'an output of the model is NaN or infinite; its training has diverged'
      )
    rows = iter(task.probabilities(part.outputs))
    for image in decoded.pop():
      if isinstance(image, str):
        yield Prediction(next(left), None, image)
      else:
        yield Prediction(next(left), next(rows))


def _decoded(
  read: Callable[[pathlib.Path], np.ndarray | str],
  paths: Sequence[pathlib.Path],
  size: int,
) -> Iterator[list[np.ndarray | str]]:
  """Yields what is read of so many paths at once; the next ones are begun."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    begun: collections.deque[Iterator[np.ndarray | str]] = collections.deque()
    for start in range(0, len(paths), size):
      begun.append(pool.map(read, paths[start : start + size]))
      if len(begun) > 1:
        yield list(begun.popleft())
    while begun:
      yield list(begun.popleft())


def _batch(
  images: Sequence[np.ndarray | str], size: int, shape: Sequence[int]
) -> dict[str, np.ndarray]:
  """Returns a batch for an evaluation; what is no image is masked."""
  batch: dict[str, np.ndarray] = {
    'image': np.zeros((size, *shape), np.uint8),
    'label': np.zeros(size, np.int32),  # it is not known
    'mask': np.zeros(size, np.float32),
  }
  for row, image in enumerate(images):
    if not isinstance(image, str):
      batch['image'][row], batch['mask'][row] = image, 1
  return batch


def _reader(
  restored: loading.Restored,
) -> Callable[[pathlib.Path], np.ndarray | str]:
  """Returns what reads an image, or says what is wrong with it."""
  height, width, channels = restored.task.info['image_shape']
  is_cropped = restored.config.data.get('image_size') is not None

  def pixels(data: bytes) -> np.ndarray:
    if is_cropped:
      return decoding.center_crop(data, height)
    image = decoding.decode(data)
    if image.shape[:2] != (height, width):
      raise decoding.UndecodableError(
        f'it has {image.shape[1]} x {image.shape[0]} pixels, and the run takes '
        f'images of {width} x {height}; resize it first'
      )
    return image

  def read(path: pathlib.Path) -> np.ndarray | str:
    try:
      image = pixels(path.read_bytes())
    except OSError as error:
      return error.strerror or str(error)
    except decoding.UndecodableError as error:
      return ' '.join(str(error).split())
    if channels == 1:
      image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return image

  return read
