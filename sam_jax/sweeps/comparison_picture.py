"""The picture of a comparison: scores along the runs, and at the end of them.

The methods of the lower panel are sorted by their scores, each beside the
marker of its curve; there is no other legend.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from sam_jax.drawing import palette, sheet, words
from sam_jax.sweeps import curves, results, settings as settings_lib

_COST = 'gradient_evaluations'
_WIDTH, _CURVES, _ROW = 8.0, 3.4, 0.19  # inches


def draw(
  path: pathlib.Path,
  lines: Mapping[str, settings_lib.Setting],
  title: str,
) -> None:
  """Draws a comparison.

  Args:
    path: of the PNG.
    lines: the settings by what they are called, the best first.
    title: of the picture; a line about the seeds is added.
  """
  title += f'\n{words.seeds(len(s.runs) for s in lines.values())}'
  heights = [_CURVES, 0.8 + _ROW * len(lines)]
  with sheet.picture(
    path, (_WIDTH, sum(heights)), title, rows=2, height_ratios=heights
  ) as (_, [[upper], [lower]]):
    curves.plot(upper, lines, _COST)
    upper.set_xlabel(curves.cost_label(_COST))
    _plot_ends(lower, lines)


def _plot_ends(axes: Any, lines: Mapping[str, settings_lib.Setting]) -> None:
  """Draws the final scores, the best on top."""
  styles = palette.styles([s.method for s in lines.values()])
  found = [
    sheet.interval(e.mean, e.half_width, s.score)
    for s in lines.values()
    for e in [s.estimate(results.FINAL)]
  ]
  for i, ((middle, low, high), style) in enumerate(
    zip(found, styles, strict=True)
  ):
    axes.errorbar(
      [middle],
      [i],
      xerr=[[middle - low], [high - middle]],
      **(style | {'linestyle': ''}),
    )
  axes.set_yticks(range(len(lines)), map(sheet.plain, lines))
  axes.set_ylim(len(lines) - 0.4, -0.6)
  axes.set_xlabel(f'at the end: {curves.label(list(lines.values()))}')
  means = [float(middle) for middle, _, _ in found]
  ends = np.ravel([(low, high) for _, low, high in found])
  sheet.scale(axes, means, ends=ends, on='x')
