"""Keeps the pieces of an analysis, so that it can be interrupted."""

import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from sam_jax.analysis import units
from sam_jax.runs import files


class Store:
  """A `units.Unit` that keeps each piece in a file and repeats none."""

  def __init__(
    self,
    directory: pathlib.Path,
    on_piece: Callable[[str, bool], None] = lambda name, is_kept: None,
  ) -> None:
    """Keeps the pieces of one computation.

    Args:
      directory: for these pieces alone, made with the first; its name has to
        tell the computation from any other.
      on_piece: called with the name of each piece, and whether it was kept.
    """
    self._directory = directory
    self._on_piece = on_piece

  def __call__(self, name: str, fn: Callable[[], units.Result]) -> units.Result:
    """Returns a piece: read, or computed and written, whole or not at all."""
    path = self._directory / f'{name}.npz'
    is_kept = path.exists()
    if not is_kept:
      result = fn()
      self._directory.mkdir(parents=True, exist_ok=True)
      arrays: dict[str, Any] = dict(result)
      files.write_atomically(path, lambda stream: np.savez(stream, **arrays))
    self._on_piece(name, is_kept)
    with np.load(path) as saved:
      return dict(saved)

  def clear(self) -> None:
    """Removes the pieces, once their result is written elsewhere."""
    shutil.rmtree(self._directory, ignore_errors=True)
