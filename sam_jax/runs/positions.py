"""Learned positions of a vision transformer, for images of another size."""

import math
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from sam_jax import types

NAME = 'params/Transformer/posembed_input/pos_embedding'
_TOKEN = 'params/cls'


def resize(
  loaded: Mapping[str, types.PyTree],
  variables: Mapping[str, types.PyTree],
  source: str,
) -> tuple[dict[str, types.PyTree], str | None]:
  """Returns loaded variables whose positions have the grid of the model's.

  The grids are squares; between their points the values are interpolated
  bilinearly, and the corners stay as they are. The row of the class token, if
  there is one, stays too.

  Args:
    loaded: params and batch_stats, arrays.
    variables: of the model, arrays or shapes.
    source: where the arrays come from, for the message.

  Returns:
    The variables, and what was resized in words; None if nothing was.

  Raises:
    ValueError: a grid is not a square.

  Source: google-research/vision_transformer, checkpoint.py.
  """
  ours = flax.traverse_util.flatten_dict(variables, sep='/')
  theirs = flax.traverse_util.flatten_dict(loaded, sep='/')
  new, old = ours.get(NAME), theirs.get(NAME)
  if not _is_resized(new, old):
    return dict(loaded), None
  tokens = int(_TOKEN in ours)
  sides = [_side(x.shape[1] - tokens, source) for x in (old, new)]
  token, grid = np.split(np.asarray(old, np.float32), [tokens], axis=1)
  grid = grid.reshape(sides[0], sides[0], -1)
  from scipy import ndimage  # takes a moment: few runs resize

  factor = sides[1] / sides[0]
  grid = ndimage.zoom(grid, (factor, factor, 1), order=1)
  grid = grid.reshape(1, sides[1] ** 2, -1)
  theirs[NAME] = np.concatenate([token, grid], axis=1)
  words = 'positions {0}x{0} -> {1}x{1}'.format(*sides)
  return flax.traverse_util.unflatten_dict(theirs, sep='/'), words


def _is_resized(new: Any, old: Any) -> bool:
  """Whether two arrays, or None, differ in the number of positions alone."""
  return (
    new is not None
    and old is not None
    and len(old.shape) == 3
    and new.shape[1] != old.shape[1]
    and new.shape[::2] == old.shape[::2]
  )


def _side(count: int, source: str) -> int:
  """Returns the side of a square grid."""
  side = math.isqrt(max(count, 0))
  if side < 1 or side**2 != count:
    raise ValueError(
      f'{source} does not fit the model: {NAME} cannot be resized, because '
      f'{count} positions are no square; choose square images, and the '
      'classifier with which it was trained'
    )
  return side
