"""A picture of gaps against sharpness: a point per run, a panel per m.

A row of panels is one gap of one problem.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import lines as lines_lib

from sam_jax.drawing import palette, sheet, words
from sam_jax.sweeps import predictors

_LOG_RATIO = 10.0  # of the largest sharpness to the smallest, for a log scale
_APART = 4.0  # points between runs that have the same numbers


def draw(
  path: pathlib.Path,
  predictions: Sequence[predictors.Prediction],
  rho: float,
) -> None:
  """Draws all predictions.

  Args:
    path: of the PNG.
    predictions: at least one; those of a row are one after the other.
    rho: radius of the sharpness.
  """
  rows: dict[tuple[str, str], list[predictors.Prediction]] = {}
  for prediction in predictions:
    key = (repr(prediction.problem.fields), prediction.score.metric)
    rows.setdefault(key, []).append(prediction)
  columns = max(map(len, rows.values()))
  methods = list(dict.fromkeys(m for p in predictions for m in p.methods))
  looks = dict(zip(methods, palette.styles(methods), strict=True))
  size = (max(0.6 + 2.5 * columns, 5.0), 0.9 + 2.5 * len(rows))
  with sheet.picture(
    path,
    size,
    _title(predictions, rho),
    rows=len(rows),
    columns=columns,
    sharey='row',
  ) as (figure, grid):
    for axes, row in zip(grid, rows.values(), strict=True):
      for panel, prediction in zip(axes, row, strict=False):
        _draw_panel(panel, prediction, looks)
      for panel in axes[len(row) :]:
        panel.remove()
      axes[0].set_ylabel(_label(row[0]))
    sheet.legend(figure, handles=_handles(looks))


def _title(predictions: Sequence[predictors.Prediction], rho: float) -> str:
  """Returns what is shown, and what the numbers above the panels are."""
  runs = [run.fields for p in predictions for run in p.problem.runs]
  what = (
    f'generalisation gap against m-sharpness (rho = {rho:g}), one point per run'
  )
  return (
    f'{words.title(runs, what)}\ntau: rank correlation. CMI: conditional mutual'
    ' information; in brackets, what chance gives'
  )


def _draw_panel(
  axes: Any,
  prediction: predictors.Prediction,
  looks: Mapping[str, dict[str, Any]],
) -> None:
  """Draws the runs of one prediction."""
  sharpness = np.array(prediction.sharpness)
  gap = prediction.score.scale * np.array(prediction.gap)
  moves = _apart([*zip(sharpness, gap, strict=True)])
  for x, y, method, move in zip(
    sharpness, gap, prediction.methods, moves, strict=True
  ):
    style = looks[method] | {'linestyle': '', 'alpha': 0.8}
    axes.plot([x], [y], transform=sheet.moved(axes, *move), **style)
  sheet.see(axes, sharpness, gap)
  low, high = sharpness.min(), sharpness.max()
  if 0 < _LOG_RATIO * low < high:
    axes.set_xscale('log')
  found = prediction.information
  tau = predictors.number(prediction.tau.value, '+.2f')
  value, chance = (
    predictors.number(x, '.2f') for x in (found.value, found.chance)
  )
  axes.set_title(f'm = {prediction.m}\ntau {tau}, CMI {value} ({chance})')
  axes.set_xlabel('m-sharpness: rise of the training loss', fontsize=8)


def _apart(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """Returns by how much to move each point, so that equal ones can be seen.

  Args:
    points: in units of the axes.

  Returns:
    Right and up, in points of the page; 0 for those that are alone.
  """
  moves = []
  for i, point in enumerate(points):
    count, index = points.count(point), points[:i].count(point)
    angle = 2 * np.pi * index / count
    reach = _APART * (count > 1)
    moves.append((reach * np.cos(angle), reach * np.sin(angle)))
  return moves


def _label(prediction: predictors.Prediction) -> str:
  """Returns what the gap of a row is, and of which problem."""
  problem = prediction.problem
  lines = [words.fields({k: v}) for k, v in problem.fields.items()]
  lines.append(predictors.gap_heading(problem, prediction.score))
  return sheet.plain('\n'.join(filter(None, lines)))


def _handles(looks: Mapping[str, dict[str, Any]]) -> list[lines_lib.Line2D]:
  """Returns which marker is which method."""
  return [
    lines_lib.Line2D([], [], label=method, **(style | {'linestyle': ''}))
    for method, style in looks.items()
  ]
