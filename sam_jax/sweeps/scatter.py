"""A picture of gaps against sharpness: a point per run, a panel per m.

A row of panels is one gap of one problem. The colour is that of the method, the
same in all panels.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from sam_jax.sweeps import method_styles, pictures, predictors

_LOG_RATIO = 10.0  # of the largest sharpness to the smallest, for a log scale


def draw(
  path: pathlib.Path, predictions: Sequence[predictors.Prediction]
) -> None:
  """Draws all predictions.

  Args:
    path: of the PNG.
    predictions: at least one; those of a row are one after the other.
  """
  matplotlib.use('agg')
  rows: dict[tuple[str, str], list[predictors.Prediction]] = {}
  for prediction in predictions:
    key = (repr(prediction.problem.fields), prediction.score.metric)
    rows.setdefault(key, []).append(prediction)
  columns = max(map(len, rows.values()))
  figure, grid = plt.subplots(
    len(rows),
    columns,
    figsize=(0.6 + 2.4 * columns, 0.5 + 2.5 * len(rows)),
    layout='constrained',
    squeeze=False,
    sharey='row',
  )
  methods = list(dict.fromkeys(m for p in predictions for m in p.methods))
  colours = {method: method_styles.color(method) for method in methods}
  for axes, row in zip(grid, rows.values(), strict=True):
    for panel, prediction in zip(axes, row, strict=False):
      _draw_panel(panel, prediction, colours)
    for panel in axes[len(row) :]:
      panel.remove()
    axes[0].set_ylabel(_label(row[0]), fontsize=8)
  if len(methods) > 1:
    _add_legend(figure, colours)
  figure.savefig(path, dpi=120, bbox_inches='tight')
  plt.close(figure)


def _draw_panel(
  axes: Any, prediction: predictors.Prediction, colours: Mapping[str, Any]
) -> None:
  """Draws the runs of one prediction."""
  sharpness = np.array(prediction.sharpness)
  gap = prediction.score.scale * np.array(prediction.gap)
  axes.scatter(
    sharpness,
    gap,
    c=[colours[method] for method in prediction.methods],
    s=18,
    alpha=0.8,
    linewidths=0,
  )
  low, high = sharpness.min(), sharpness.max()
  if 0 < _LOG_RATIO * low < high:
    axes.set_xscale('log')
  found = prediction.information
  tau = predictors.number(prediction.tau.value, '+.2f')
  value, chance = (
    predictors.number(x, '.2f') for x in (found.value, found.chance)
  )
  axes.set_title(
    f'm = {prediction.m}\ntau {tau}, CMI {value} (chance {chance})', fontsize=8
  )
  axes.set_xlabel('m-sharpness', fontsize=8)
  axes.tick_params(labelsize=7)
  axes.grid(alpha=0.3)


def _label(prediction: predictors.Prediction) -> str:
  """Returns what the gap of a row is, and of which problem."""
  problem = prediction.problem
  lines = [f'{name}={value}' for name, value in problem.fields.items()]
  lines.append(predictors.gap_heading(problem, prediction.score))
  return pictures.plain('\n'.join(lines))


def _add_legend(figure: Any, colours: Mapping[str, Any]) -> None:
  """Says which colour is which method."""
  handles = [
    plt.Line2D([], [], color=colour, marker='o', linestyle='', label=method)
    for method, colour in colours.items()
  ]
  figure.legend(
    handles=handles,
    loc='outside lower center',
    ncols=min(len(handles), 6),
    fontsize=8,
  )
