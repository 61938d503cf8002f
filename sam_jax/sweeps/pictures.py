"""Pictures of a sweep's cells: error against rho, m, cost, and epochs.

A picture has a panel for each problem, which is what the data, the model and
their augmentation are, and in it a line for each way to solve it. Against cost
and epochs, rho, m and Mixup's alpha are those chosen on the validation split.
Where there is none, they are the best of what is shown; the picture says so.
"""

import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as figure_lib, pyplot as plt

from sam_jax.sweeps import statistics

_ERROR = 'final_error_rate'
_PROBLEM = ('data.', 'model.', 'augmentation.')
# What is chosen for the comparison with other methods.
_CHOSEN = ('method.rho', 'm', 'microbatch_size', 'mixing.alpha')
_MAX_COLUMNS = 4
# Fields against which the error is drawn, if they vary.
_AXES = {'method.rho': 'rho', 'm': 'm'}
_COSTS = {'gradient_evaluations': 'gradients', 'wall_seconds': 'seconds'}


def draw(
  out: pathlib.Path, cells: Sequence[statistics.Cell]
) -> list[pathlib.Path]:
  """Draws what there is something to see of.

  Args:
    out: directory of the PNGs.
    cells: finished ones.

  Returns:
    The pictures made.
  """
  matplotlib.use('agg')
  paths = []
  for field, axis in _AXES.items():
    shown = _varied(cells, field)
    if shown:
      paths.append(out / f'error_vs_{axis}.png')
      _draw_against(paths[-1], shown, field, axis)
  best, title = _best(cells)
  if not best:
    return paths
  for cost, axis in _COSTS.items():
    paths.append(out / f'error_vs_{axis}.png')
    _draw_cost(paths[-1], best, cost, axis, title)
  paths.append(out / 'curves.png')
  _draw_curves(paths[-1], best, title)
  return paths


def _varied(
  cells: Sequence[statistics.Cell], field: str
) -> list[statistics.Cell]:
  """Returns the cells of problems for which several values were tried."""
  tried: dict[str, set[Any]] = {}
  having = [cell for cell in cells if cell.fields.get(field) is not None]
  for cell in having:
    tried.setdefault(_problem(cell), set()).add(cell.fields[field])
  return [cell for cell in having if len(tried[_problem(cell)]) > 1]


def _best(
  cells: Sequence[statistics.Cell],
) -> tuple[list[statistics.Cell], str]:
  """Returns the cells to compare methods by, and how they were chosen."""
  # Without a perturbation it is SGD, the rival of the others.
  plain = [cell for cell in cells if cell.fields.get('method.rho') == 0]
  perturbed = [cell for cell in cells if cell.fields.get('method.rho') != 0]
  kept: list[statistics.Cell | None] = []
  title = ''
  for choice in (
    *statistics.choose(plain, _CHOSEN),
    *statistics.choose(perturbed, _CHOSEN),
  ):
    kept += [choice.best, choice.test]
    if choice.test is None and choice.tested and not choice.is_needed:
      kept.append(min(choice.tested, key=lambda c: c.estimate(_ERROR).mean))
      title = 'rho, m and alpha: the best of those shown'
  return [cell for cell in cells if any(cell is k for k in kept)], title


def _method(cell: statistics.Cell) -> statistics.Fields:
  """Returns what tells a cell from others of which the best is shown."""
  rho = {'method.rho': 0} if cell.fields.get('method.rho') == 0 else {}
  return _without(cell.shown, *_CHOSEN) | rho


def _draw_against(
  path: pathlib.Path, cells: Sequence[statistics.Cell], field: str, axis: str
) -> None:
  """Draws the error of the cells against one of their fields."""
  values = sorted({cell.fields[field] for cell in cells})

  def plot(axes: Any, members: list[statistics.Cell], style: Any) -> None:
    members = sorted(members, key=lambda c: c.fields[field])
    _errorbar(axes, [c.fields[field] for c in members], members, style)
    if values[0] == 0:
      axes.set_xscale('symlog', linthresh=values[1])
    else:
      axes.set_xscale('log')
    axes.set_xticks(values, [f'{v:g}' for v in values], fontsize=7)
    axes.set_xticks([], minor=True)

  # Microbatches are often as large as m; they make no lines of their own.
  varied = ('m', 'microbatch_size') if field == 'm' else (field,)
  _draw_panels(path, cells, lambda c: _without(c.shown, *varied), plot, axis)


def _draw_cost(
  path: pathlib.Path,
  cells: Sequence[statistics.Cell],
  cost: str,
  axis: str,
  title: str,
) -> None:
  """Draws the error of the cells against what they cost."""

  def plot(axes: Any, members: list[statistics.Cell], style: Any) -> None:
    _errorbar(axes, [c.estimate(cost).mean for c in members], members, style)

  # More ascent steps are another cost of one method.
  _draw_panels(
    path,
    cells,
    lambda c: _without(_method(c), 'method.ascent_steps'),
    plot,
    axis,
    title,
  )


def _draw_curves(
  path: pathlib.Path, cells: Sequence[statistics.Cell], title: str
) -> None:
  """Draws the error along training, with bands."""

  def plot(axes: Any, members: list[statistics.Cell], style: Any) -> None:
    for cell in members:
      split = cell.runs[0].result['split']
      epochs, mean, half = statistics.curve(cell, f'{split}/error_rate')
      axes.plot(epochs, 100 * mean, **(style | {'marker': ''}))
      axes.fill_between(
        epochs,
        100 * np.maximum(mean - half, 0),
        100 * (mean + half),
        color=style['color'],
        alpha=0.2,
        linewidth=0,
      )

  _draw_panels(path, cells, _method, plot, 'epoch', title)


def _draw_panels(
  path: pathlib.Path,
  cells: Sequence[statistics.Cell],
  line_fn: Callable[[statistics.Cell], statistics.Fields],
  plot: Callable[[Any, list[statistics.Cell], Any], None],
  axis: str,
  title: str = '',
) -> None:
  """Draws a panel for each problem, and writes the picture.

  Args:
    path: of the PNG.
    cells: to draw.
    line_fn: fields that tell the lines of a panel apart.
    plot: draws one line: `(axes, cells, style)`.
    axis: what the horizontal axes are.
    title: of the picture.
  """
  panels: dict[str, dict[str, list[statistics.Cell]]] = {}
  for cell in cells:
    line = _label(_without(line_fn(cell), *_PROBLEM)) or 'all'
    panels.setdefault(_problem(cell), {}).setdefault(line, []).append(cell)
  names = dict.fromkeys(name for lines in panels.values() for name in lines)
  styles = _styles(list(names))
  figure, grid = _grid(len(panels))
  figure.suptitle(title, fontsize=9)
  for axes, (problem, lines) in zip(grid, panels.items(), strict=True):
    for line, members in lines.items():
      plot(axes, members, styles[line])
    axes.set_title(problem, fontsize=8)
    axes.set_xlabel(axis, fontsize=8)
    axes.set_ylabel('error, %', fontsize=8)
    axes.grid(alpha=0.3)
  _save(figure, path, styles)


def _grid(count: int) -> tuple[figure_lib.Figure, list[Any]]:
  """Returns a figure and that many panels in rows."""
  columns = min(count, _MAX_COLUMNS)
  rows = math.ceil(count / columns)
  size = (6, 4) if count == 1 else (3.2 * columns, 2.6 * rows)
  figure, grid = plt.subplots(
    rows, columns, figsize=size, layout='constrained', squeeze=False
  )
  for axes in grid.ravel()[count:]:
    axes.remove()
  return figure, list(grid.ravel()[:count])


def _styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Returns colour and marker of each label."""
  return {
    label: {
      'label': label,
      'color': f'C{i % 10}',
      'marker': 'osD^v'[i // 10 % 5],
      'linestyle': ('-', '--', ':')[i // 10 % 3],
    }
    for i, label in enumerate(labels)
  }


def _errorbar(
  axes: Any, places: Sequence[float], cells: list[statistics.Cell], style: Any
) -> None:
  """Draws errors in percent with their intervals."""
  found = [cell.estimate(_ERROR) for cell in cells]
  half = [0 if math.isnan(e.half_width) else 100 * e.half_width for e in found]
  mean = [100 * e.mean for e in found]
  axes.errorbar(places, mean, half, capsize=3, markersize=4, **style)


def _problem(cell: statistics.Cell) -> str:
  """Returns the problem of a cell in a few words."""
  return _label({k: v for k, v in cell.shown.items() if k.startswith(_PROBLEM)})


def _without(fields: statistics.Fields, *prefixes: str) -> statistics.Fields:
  """Returns the fields whose names do not begin so."""
  return {k: v for k, v in fields.items() if not k.startswith(prefixes)}


def _label(fields: statistics.Fields) -> str:
  """Returns fields in a few words."""
  return ', '.join(
    f'{name.rpartition(".")[2] if name.count(".") < 2 else name}={value}'
    for name, value in fields.items()
    if value not in (None, '', 'none')
  )


def _save(
  figure: figure_lib.Figure, path: pathlib.Path, styles: dict[str, Any]
) -> None:
  """Writes a picture, with its legend below."""
  handles = [
    plt.Line2D([], [], **{**style, 'markersize': 4})
    for style in styles.values()
  ]
  columns = int(np.clip(figure.get_figwidth() / 3.5, 1, 4))
  figure.legend(
    handles=handles, loc='outside lower center', ncols=columns, fontsize=7
  )
  figure.savefig(path, dpi=120, bbox_inches='tight')
  plt.close(figure)
