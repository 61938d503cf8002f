"""The picture of losses in planes: one colour scale, labelled contours."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colors, patheffects

from sam_jax.drawing import sheet

_LEVELS = 24  # shades
_CONTOURS = 7  # labelled lines in a plane, at most
_COLUMNS = 4  # planes beside each other
_LABEL = 42  # letters of a run's name in a line


def draw(
  path: pathlib.Path,
  results: Mapping[str, Mapping[str, Any]],
  heading: str,
  axis: str,
) -> None:
  """Draws losses in a plane, with one colour scale for all of them.

  Args:
    path: of the PNG.
    results: by the run's label, with coordinates `[n]` and loss `[n, n]`.
    heading: the title.
    axis: what the coordinates are.
  """
  # What is not a number, None in JSON, is left white.
  losses = {k: np.array(r['loss'], float) for k, r in results.items()}
  values = np.concatenate([np.ravel(loss) for loss in losses.values()])
  finite = values[np.isfinite(values)]
  low = max(np.min(finite, initial=1e30), 1e-6)
  high = max(np.max(finite, initial=0), 2e-6)
  if high <= low:
    high = 2 * low
  columns = min(len(results), _COLUMNS)
  num_rows = -(-len(results) // columns)
  size = (1 + 3.4 * columns, 0.6 + 3.4 * num_rows)
  with sheet.picture(
    path, size, heading, rows=num_rows, columns=columns, count=len(results)
  ) as (figure, grid):
    used = list(grid.ravel()[: len(results)])
    for axes, (label, result) in zip(used, results.items(), strict=True):
      shown = _plot_plane(
        axes, result['coordinates'], losses[label], (low, high)
      )
      axes.set(aspect='equal', xlabel=f'{axis} 1', ylabel=f'{axis} 2')
      axes.set_title(sheet.wrapped(label, _LABEL))
    bar = figure.colorbar(shown, ax=used, format='%.2g')
    bar.set_label('loss (+: the run)')


def _plot_plane(
  axes: Any,
  along: Sequence[float],
  loss: np.ndarray,
  ends: tuple[float, float],
) -> Any:
  """Draws one plane with labelled contours; returns what has the colours."""
  axes.grid(visible=False)
  cut = np.ma.masked_invalid(np.clip(np.transpose(loss), *ends))
  shown = axes.contourf(
    along,
    along,
    cut,
    levels=np.geomspace(*ends, _LEVELS),
    norm=colors.LogNorm(*ends),
    cmap='viridis',
  )
  levels = _contours(cut)
  if levels:
    drawn = axes.contour(
      along, along, cut, levels=levels, colors='white', linewidths=0.8
    )
    labels = axes.clabel(drawn, fmt='%g', fontsize=8)
    edge = patheffects.withStroke(linewidth=2, foreground='black', alpha=0.5)
    for text in labels:
      text.set_path_effects([edge])
  axes.plot(0, 0, '+', color='black', markersize=11, markeredgewidth=3)
  axes.plot(0, 0, '+', color='white', markersize=9, markeredgewidth=1.2)
  return shown


def _contours(loss: np.ma.MaskedArray[Any, Any]) -> list[float]:
  """Returns round numbers between the lowest and the highest loss."""
  found = loss.compressed()
  if not found.size or found.max() <= found.min():
    return []
  levels = [
    level
    for level in sheet.ticks(float(found.min()), float(found.max()))
    if found.min() < level < found.max()
  ]
  step = -(-len(levels) // _CONTOURS) if levels else 1
  if not levels:
    levels = [float(np.median(found))]
  return levels[::step]
