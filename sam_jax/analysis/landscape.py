"""Slices through a loss: along directions, and between two networks."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import types
from sam_jax.analysis import checks, objective as objective_lib, units


def random_direction(params: types.Params, seed: int = 0) -> types.PyTree:
  """Returns a random direction in the scale of the parameters.

  Every filter of a Gaussian direction gets the norm of the parameters' filter,
  so that the slices of two networks compare although their weights differ in
  size. A filter is what makes one output channel: a kernel's last axis.
  Vectors, such as biases and the parameters of BatchNorm, do not move.

  Args:
    params: float arrays, kernels `[..., inputs, outputs]` as in Flax.
    seed: of the Gaussian.

  Returns:
    Numpy arrays in at least float32, a tree like the parameters.

  Raises:
    ValueError: params is no tree of floating-point arrays.

  Source: Li et al. 2018, section 4, with their option to ignore vectors.
  """
  checks.params(params)
  rng = np.random.default_rng(seed)

  def draw(w: np.ndarray) -> np.ndarray:
    w = np.asarray(w, jnp.promote_types(np.asarray(w).dtype, jnp.float32))
    if w.ndim < 2:
      return np.zeros_like(w)
    drawn = rng.standard_normal(w.shape, np.float32).astype(w.dtype)
    return _normalised(drawn, w)

  return jax.tree.map(draw, params)


def _normalised(direction: np.ndarray, w: np.ndarray) -> np.ndarray:
  """Scales each filter of a direction to the norm of the kernel's."""
  axes = tuple(range(w.ndim - 1))
  norms = [
    np.sqrt(np.sum(np.square(x), axes, keepdims=True)) for x in (w, direction)
  ]
  return direction * (norms[0] / np.where(norms[1] == 0, 1, norms[1]))


def scan(
  objective: objective_lib.Objective,
  params: types.Params,
  directions: Sequence[types.PyTree],
  coordinates: np.ndarray,
  *,
  unit: units.Unit = units.compute,
) -> np.ndarray:
  """Returns the loss on a line or in a plane through the parameters.

  Args:
    objective: the loss.
    params: the origin.
    directions: one or two trees like the parameters.
    coordinates: `[n]`, how far to go along each of them, in their lengths.
    unit: see `units`; a piece is a point of a line or a row of a plane.

  Returns:
    float64 `[n]`, or `[n, n]` with the first direction along the first axis.

  Raises:
    ValueError: another number of directions, or one is not like params.
  """
  if len(directions) not in (1, 2):
    raise ValueError(f'{len(directions)} directions are given; give one or two')
  for direction in directions:
    checks.alike('a direction', direction, params)
  across = coordinates if len(directions) == 2 else np.zeros(1)

  def row(along: float) -> units.Result:
    places = [(along, other) for other in across]
    return {
      'loss': np.array(
        [objective.value(_moved(params, directions, p)) for p in places]
      )
    }

  losses = np.stack(
    [
      unit(f'row-{i}', functools.partial(row, along))['loss']
      for i, along in enumerate(coordinates)
    ]
  )
  return losses if len(directions) == 2 else losses[:, 0]


def interpolate(
  objective: objective_lib.Objective,
  start: types.Params,
  end: types.Params,
  fractions: np.ndarray,
  *,
  unit: units.Unit = units.compute,
) -> np.ndarray:
  """Returns the loss on the straight line through two networks.

  Args:
    objective: the loss.
    start: parameters at fraction 0.
    end: parameters at fraction 1, a tree like it.
    fractions: `[n]`; those outside [0, 1] lie beyond the two.
    unit: see `units`; a piece is a point.

  Returns:
    float64 `[n]`.

  Raises:
    ValueError: the two are not the parameters of one model.
  """
  shapes = [jax.tree.map(np.shape, tree) for tree in (start, end)]
  if shapes[0] != shapes[1]:
    raise ValueError(
      'the two ends have other parameters: there is a line between two '
      'networks of one and the same model only'
    )
  direction = jax.tree.map(
    lambda a, b: np.asarray(b) - np.asarray(a), start, end
  )
  return scan(objective, start, [direction], fractions, unit=unit)


def _moved(
  params: types.Params,
  directions: Sequence[types.PyTree],
  place: Sequence[float],
) -> types.Params:
  """Returns the parameters at a place of the slice, in their dtypes."""

  def move(w: np.ndarray, *steps: np.ndarray) -> np.ndarray:
    w = np.asarray(w)
    wide = jnp.promote_types(w.dtype, jnp.float32)
    shifts = zip(place, steps, strict=False)
    moved = w + sum(np.asarray(c, wide) * np.asarray(s) for c, s in shifts)
    return moved.astype(w.dtype)

  return jax.tree.map(move, params, *directions)
