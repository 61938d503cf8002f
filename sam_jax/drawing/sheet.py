"""What every picture is drawn on: the sheet, its legend, axes of scores.

Example:
  >>> import pathlib, tempfile
  >>> from sam_jax.drawing import palette, sheet
  >>> path = pathlib.Path(tempfile.mkdtemp()) / 'a.png'
  >>> with sheet.picture(path, (6, 4), 'Digits: test error') as (figure, axes):
  ...   [style] = palette.styles(['sam'])
  ...   _ = axes[0, 0].plot([1, 2, 3], [9, 5, 4], label='sam', **style)
  ...   sheet.legend(figure, axes[0, 0])
  >>> path.exists()
  True
"""

import contextlib
import math
import pathlib
import textwrap
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import figure as figure_lib, transforms

from sam_jax import tasks

_STYLE: dict[Any, Any] = {
  'axes.grid': True,
  'axes.axisbelow': True,
  'axes.labelsize': 9,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.titlesize': 9,
  'errorbar.capsize': 3,
  'figure.titlesize': 10,
  'font.size': 9,
  'grid.alpha': 0.3,
  'legend.fontsize': 8,
  'lines.linewidth': 1.5,
  'xtick.labelsize': 8,
  'ytick.labelsize': 8,
}
_DPI = 120
_CHARACTER = 0.065  # width of a letter of a title, in inches
_LEGEND_CHARACTER = 0.055
_LEGEND_ROW = 0.17  # inches
_MAX_LEGEND = 5  # columns
_LOG_RATIO = 2.0  # of the largest score to the smallest, for a log scale
_APART = 4.0  # points between values that belong to the same place


@contextlib.contextmanager
def picture(
  path: pathlib.Path,
  size: tuple[float, float],
  title: str,
  *,
  rows: int = 1,
  columns: int = 1,
  count: int | None = None,
  **options: Any,
) -> Iterator[tuple[figure_lib.Figure, np.ndarray]]:
  """Yields a figure and its axes `[rows, columns]`; writes it at the end.

  Nothing is kept by pyplot, and no backend is chosen: pictures can be drawn in
  a notebook.

  Args:
    path: of the PNG.
    size: width and height in inches, without the legend.
    title: what is shown: the data, the split, the units; long lines are broken.
    rows: of panels.
    columns: of panels.
    count: number of panels; None is all. The others are removed.
    **options: of `Figure.subplots`.
  """
  with matplotlib.rc_context(_STYLE):
    figure = figure_lib.Figure(figsize=size, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for panel in axes.ravel()[count:] if count else ():
      panel.remove()
    if title:
      figure.suptitle(wrapped(title, size[0] / _CHARACTER))
    yield figure, axes
    _save(figure, path)


def _save(figure: figure_lib.Figure, path: pathlib.Path) -> None:
  """Writes a picture."""
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph', UserWarning)  # of a font
    figure.savefig(path, dpi=_DPI, bbox_inches='tight')


def wrapped(text: str, width: float) -> str:
  """Returns a text in lines, in which matplotlib finds no formulas.

  Args:
    text: perhaps with lines of its own.
    width: of a line, in letters.
  """
  lines = [
    part
    for line in text.split('\n')
    for part in textwrap.wrap(line, max(int(width), 10)) or ['']
  ]
  return plain('\n'.join(lines))


def plain(text: str) -> str:
  """Returns a text in which matplotlib finds no formulas."""
  return text.replace('$', r'\$')


def legend(figure: figure_lib.Figure, axes: Any = None, **options: Any) -> None:
  """Puts a legend below the panels, where it cannot cover any data.

  Args:
    figure: of the legend.
    axes: whose labelled lines it explains, if `handles` are not given.
    **options: of `Figure.legend`.
  """
  handles = options.pop('handles', None)
  if handles is None:
    handles = axes.get_legend_handles_labels()[0]
  if not handles:
    return
  longest = max(len(str(handle.get_label())) for handle in handles)
  width = 0.6 + _LEGEND_CHARACTER * longest
  columns = int(np.clip(figure.get_figwidth() / width, 1, _MAX_LEGEND))
  rows = -(-len(handles) // columns)
  # The panels keep their size.
  figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * rows)
  figure.legend(
    handles=handles,
    loc='outside lower center',
    ncols=min(columns, len(handles)),
    frameon=False,
    **options,
  )


# --- Scores ------------------------------------------------------------------


def interval(
  mean: npt.ArrayLike, half: npt.ArrayLike, score: tasks.Score
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns mean and both ends of an interval, in the unit of a score.

  An interval of percentages is cut at 0 and 100, where no percentage is; that
  of another score which is positive is cut at 0.

  Args:
    mean: of values of the metric.
    half: width of half of the interval; NaN is 0.
    score: has the unit.
  """
  middle = score.scale * np.asarray(mean, float)
  reach = score.scale * np.nan_to_num(np.asarray(half, float))
  low, high = middle - reach, middle + reach
  low = np.where(middle >= 0, np.maximum(low, 0), low)
  if score.unit == '%':
    high = np.where(middle <= 100, np.minimum(high, 100), high)
  return middle, low, high


def scale(
  axes: Any, values: npt.ArrayLike, *, ends: npt.ArrayLike = (), on: str
) -> None:
  """Chooses the scale of an axis of scores, and its ticks.

  It is logarithmic if the largest value is a few times the smallest one. Zeros
  have a place of their own below the smallest value then.

  Args:
    axes: the panel.
    values: in people's units.
    ends: of intervals, which the axis shows as far as there is room.
    on: 'x' or 'y'.
  """
  shown, reach = _finite(values), _finite(ends)
  positive = shown[shown > 0]
  if (shown < 0).any() or not positive.size:
    return
  smallest, largest = float(positive.min()), float(positive.max())
  if largest < _LOG_RATIO * smallest:
    return
  high = min(float(np.max(reach, initial=largest)), 4 * largest)
  low = float(np.min(reach[reach > 0], initial=smallest))
  low = max(low, smallest / 2)
  pad = (high / low) ** 0.04
  limits, found = (low / pad, high * pad), ticks(low / pad, high * pad)
  name, options = 'log', {}
  if (shown == 0).any():
    name, options = 'symlog', {'linthresh': low, 'linscale': 0.3}
    limits, found = (-0.2 * low, high * pad), [0.0, *ticks(low, high * pad)]
  getattr(axes, f'set_{on}scale')(name, **options)
  getattr(axes, f'set_{on}lim')(*limits)
  getattr(axes, f'set_{on}ticks')(found, [f'{tick:g}' for tick in found])
  getattr(axes, f'set_{on}ticks')([], minor=True)


def _finite(values: npt.ArrayLike) -> np.ndarray:
  """Returns the numbers among some values."""
  found = np.ravel(np.asarray(values, float))
  return found[np.isfinite(found)]


def ticks(low: float, high: float) -> list[float]:
  """Returns round numbers for a logarithmic axis."""
  ratio = high / low
  steps = (10_000, (1,)), (50, (1, 2, 5)), (10, (1, 2, 3, 5, 7))
  digits = next((d for r, d in steps if ratio > r), (1, 1.5, 2, 3, 4, 5, 6, 8))
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  # Parsed, so that 3e-1 is 0.3.
  found = [float(f'{digit}e{power}') for power in powers for digit in digits]
  return [tick for tick in found if low <= tick <= high]


def moved(axes: Any, right: float, up: float = 0.0) -> Any:
  """Returns a transformation of data that moves them on the page.

  Values that belong to one place are drawn side by side by it. The axes do not
  see data with such a transformation: `see` shows them where these are.

  Args:
    axes: the panel.
    right: in points.
    up: in points.
  """
  move = transforms.ScaledTranslation(
    right / 72, up / 72, axes.figure.dpi_scale_trans
  )
  return axes.transData + move


def errorbars(
  axes: Any,
  places: npt.ArrayLike,
  interval: tuple[np.ndarray, np.ndarray, np.ndarray],
  turn: tuple[int, int],
  **style: Any,
) -> None:
  """Draws the points of one of some lines with their intervals.

  The lines are side by side, so that points at one place can be told apart.

  Args:
    axes: the panel.
    places: of the points, on the horizontal axis.
    interval: mean and both ends, as `interval` returns them.
    turn: number of this line, and of all lines of the panel.
    **style: of the line.
  """
  index, count = turn
  right = (index - (count - 1) / 2) * min(_APART, 40 / count)
  middle, low, high = interval
  bars = [middle - low, high - middle]
  axes.errorbar(places, middle, bars, transform=moved(axes, right), **style)
  see(axes, places, low)
  see(axes, places, high)


def see(axes: Any, x: npt.ArrayLike, y: npt.ArrayLike) -> None:
  """Makes the axes long enough for some points."""
  axes.update_datalim(np.column_stack([x, y]))
  axes.autoscale_view()
