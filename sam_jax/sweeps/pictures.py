"""Pictures of settings: the score against rho, m, cost, and epochs.

A picture has a panel for each problem, which is the task, the data, the model
and their augmentation, and in it a line for each way to solve the problem.
Against cost and epochs, the lines have the rho, m and alpha of Mixup that were
chosen on the validation split. If there is no validation split, they are the
best of what is shown, and the picture says so.
"""

import math
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as figure_lib, pyplot as plt

from sam_jax.sweeps import (
  cells as cells_lib,
  choice as choice_lib,
  results,
  settings as settings_lib,
  tables,
)

Settings = Sequence[settings_lib.Setting]

_PROBLEM = ('task', 'data', 'model', 'augmentation')
# What is chosen before a method is compared with others.
_CHOSEN = ('method.rho', 'm', 'microbatch_size', 'mixing.alpha')
_MAX_COLUMNS = 4
_FEW = 8  # curves whose bands can be told apart in one panel
# Fields against which the score is drawn, if they vary.
_AXES = {'method.rho': 'rho', 'm': 'm'}
_COSTS = {'gradient_evaluations': 'gradients', 'wall_seconds': 'seconds'}


def draw(out: pathlib.Path, settings: Settings) -> list[pathlib.Path]:
  """Draws the pictures for which there is something to see.

  Args:
    out: directory of the PNGs.
    settings: of a sweep.

  Returns:
    The paths of the pictures.
  """
  matplotlib.use('agg')
  paths = []
  for field, axis in _AXES.items():
    shown = _varied(settings, field)
    if shown:
      paths.append(out / f'score_vs_{axis}.png')
      _draw_against(paths[-1], shown, field, axis)
  best, title = _best(settings)
  if not best:
    return paths
  for cost, axis in _COSTS.items():
    paths.append(out / f'score_vs_{axis}.png')
    _draw_cost(paths[-1], best, cost, axis, title)
  paths.append(out / 'curves.png')
  _draw_curves(paths[-1], best, title)
  return paths


def draw_curves(
  path: pathlib.Path,
  lines: Mapping[str, settings_lib.Setting],
  title: str,
  *,
  cost: str = '',
  styles: Mapping[str, dict[str, Any]] | None = None,
  is_log: bool = False,
) -> None:
  """Draws the score along training of a few settings in one panel.

  Args:
    path: of the PNG.
    lines: the settings, by what they are called.
    title: of the picture.
    cost: number of result.json against which to draw, in place of the epochs.
    styles: of the lines, by what they are called; None takes the usual colours.
    is_log: whether the axis of the score is logarithmic.
  """
  matplotlib.use('agg')
  styles = {
    name: {'label': name} | style
    for name, style in (styles or _styles(list(lines))).items()
  }
  figure, [axes] = _grid(1)
  figure.suptitle(plain(title), fontsize=9)
  is_few = len(lines) <= _FEW
  if not is_few:  # two columns of the legend, whose rows need room
    figure.set_size_inches(10, 5 + 0.1 * len(lines))
  for name, setting in lines.items():
    _plot_curve(axes, setting, styles[name], cost, has_band=is_few)
  axes.set_xlabel(_curve_label(cost), fontsize=8)
  axes.set_ylabel(_axis(list(lines.values())), fontsize=8)
  if is_log:
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter('{x:g}')
    axes.yaxis.set_minor_formatter('{x:g}')
    axes.tick_params(axis='y', which='both', labelsize=7)
  axes.grid(alpha=0.3, which='both')
  _save(figure, path, styles)


def _curve_label(cost: str) -> str:
  """Returns what the axis along a training shows."""
  if not cost:
    return 'epoch'
  return f'{_COSTS[cost]}, as if spent evenly along the run'


def _varied(settings: Settings, field: str) -> Settings:
  """Returns the settings of problems for which several values were tried."""
  tried: dict[str, set[Any]] = {}
  having = [s for s in settings if s.fields.get(field) is not None]
  for setting in having:
    tried.setdefault(_problem(setting), set()).add(setting.fields[field])
  return [s for s in having if len(tried[_problem(s)]) > 1]


def _best(settings: Settings) -> tuple[Settings, str]:
  """Returns the settings to compare methods by, and how they were chosen."""
  # Without a perturbation it is SGD, the rival of the others.
  plain = [s for s in settings if s.fields.get('method.rho') == 0]
  perturbed = [s for s in settings if s.fields.get('method.rho') != 0]
  kept: list[settings_lib.Setting | None] = []
  title = ''
  for choice in (
    *choice_lib.choose(plain, _CHOSEN),
    *choice_lib.choose(perturbed, _CHOSEN),
  ):
    kept += [choice.best, choice.test]
    if choice.test is None and choice.tested and not choice.is_needed:
      kept.append(
        min(choice.tested, key=lambda s: s.estimate(results.FINAL).mean)
      )
      title = 'rho, m and alpha: the best of those shown'
  return [s for s in settings if any(s is k for k in kept)], title


def _method(setting: settings_lib.Setting) -> cells_lib.Fields:
  """Returns the fields that tell a line from others if the best is shown."""
  rho = {'method.rho': 0} if setting.fields.get('method.rho') == 0 else {}
  return _without(setting.shown, *_CHOSEN) | rho


def _draw_against(
  path: pathlib.Path, settings: Settings, field: str, axis: str
) -> None:
  """Draws the score of the settings against one of their fields."""

  def place(setting: settings_lib.Setting) -> float:
    return float(setting.fields[field])

  values = sorted({place(setting) for setting in settings})

  def plot(axes: Any, members: Settings, style: Any) -> None:
    members = sorted(members, key=place)
    _errorbar(axes, list(map(place, members)), members, style)
    if values[0] == 0:
      axes.set_xscale('symlog', linthresh=values[1])
    else:
      axes.set_xscale('log')
    axes.set_xticks(values, [f'{v:g}' for v in values], fontsize=7)
    axes.set_xticks([], minor=True)

  # Microbatches are often as large as m; they make no lines of their own.
  varied = ('m', 'microbatch_size') if field == 'm' else (field,)
  _draw_panels(path, settings, lambda s: _without(s.shown, *varied), plot, axis)


def _draw_cost(
  path: pathlib.Path, settings: Settings, cost: str, axis: str, title: str
) -> None:
  """Draws the score of the settings against what they cost."""

  def plot(axes: Any, members: Settings, style: Any) -> None:
    _errorbar(axes, [s.estimate(cost).mean for s in members], members, style)

  # More ascent steps are another cost of one method.
  _draw_panels(
    path,
    settings,
    lambda s: _without(_method(s), 'method.ascent_steps'),
    plot,
    axis,
    title,
  )


def _draw_curves(path: pathlib.Path, settings: Settings, title: str) -> None:
  """Draws the score along training, with bands."""

  def plot(axes: Any, members: Settings, style: Any) -> None:
    for setting in members:
      _plot_curve(axes, setting, style)

  _draw_panels(path, settings, _method, plot, 'epoch', title)


def _plot_curve(
  axes: Any,
  setting: settings_lib.Setting,
  style: Any,
  cost: str = '',
  has_band: bool = True,
) -> None:
  """Draws the score along training: the mean, and its interval as a band."""
  score = setting.score
  key = f'{setting.split}/{score.metric}'
  epochs, mean, half = settings_lib.curve(setting, key)
  places = epochs
  if cost:  # it grows evenly
    result = setting.runs[0].result
    places = epochs * result[cost] / result['epochs']
  # An interval of rates may reach below 0, where no rate is.
  low = np.where(mean >= 0, np.maximum(mean - half, 0), mean - half)
  # Marks would hide a curve, unless the style says where they go.
  marks = {} if 'markevery' in style else {'marker': ''}
  axes.plot(places, score.scale * mean, **(style | marks))
  if not has_band:
    return
  axes.fill_between(
    places,
    score.scale * low,
    score.scale * (mean + half),
    color=style['color'],
    alpha=0.2,
    linewidth=0,
  )


def _draw_panels(
  path: pathlib.Path,
  settings: Settings,
  line_fn: Callable[[settings_lib.Setting], cells_lib.Fields],
  plot: Callable[[Any, Settings, Any], None],
  axis: str,
  title: str = '',
) -> None:
  """Draws a panel for each problem, and writes the picture.

  Args:
    path: of the PNG.
    settings: to draw.
    line_fn: fields that tell the lines of a panel apart.
    plot: draws one line: `(axes, settings, style)`.
    axis: what the horizontal axes are.
    title: of the picture.
  """
  panels: dict[str, dict[str, list[settings_lib.Setting]]] = {}
  for setting in settings:
    line = _label(_without(line_fn(setting), *_PROBLEM)) or 'all'
    lines = panels.setdefault(_problem(setting), {})
    lines.setdefault(line, []).append(setting)
  names = dict.fromkeys(name for lines in panels.values() for name in lines)
  styles = _styles(list(names))
  figure, grid = _grid(len(panels))
  figure.suptitle(title, fontsize=9)
  for axes, (problem, lines) in zip(grid, panels.items(), strict=True):
    for line, members in lines.items():
      plot(axes, members, styles[line])
    axes.set_title(problem, fontsize=8)
    axes.set_xlabel(axis, fontsize=8)
    axes.set_ylabel(_axis([s for m in lines.values() for s in m]), fontsize=8)
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
  axes: Any, places: Sequence[float], settings: Settings, style: Any
) -> None:
  """Draws scores with their intervals."""
  scale = settings[0].score.scale
  found = [setting.estimate(results.FINAL) for setting in settings]
  half = [0 if math.isnan(e.half_width) else e.half_width for e in found]
  axes.errorbar(
    places,
    [scale * e.mean for e in found],
    [scale * h for h in half],
    capsize=3,
    markersize=4,
    **style,
  )


def _axis(settings: Settings) -> str:
  """Returns what the scores of a panel are."""
  headings = dict.fromkeys(tables.heading(s.score) for s in settings)
  return plain('; '.join(headings))


def _problem(setting: settings_lib.Setting) -> str:
  """Returns the problem of a setting in a few words."""
  shown = setting.shown.items()
  return _label({k: v for k, v in shown if results.is_within(k, *_PROBLEM)})


def plain(text: str) -> str:
  """Returns a text in which Matplotlib finds no formulas."""
  return text.replace('$', r'\$')


def _without(fields: cells_lib.Fields, *names: str) -> cells_lib.Fields:
  """Returns the fields but for some, or those in some sections."""
  return {k: v for k, v in fields.items() if not results.is_within(k, *names)}


def _label(fields: cells_lib.Fields) -> str:
  """Returns fields in a few words: 'method=sam, p=2.0'."""
  return plain(
    ', '.join(
      f'{_short(name)}={value}'
      for name, value in fields.items()
      if value not in (None, '', 'none')
    )
  )


def _short(name: str) -> str:
  """Returns the last part of a field's name if that is enough."""
  section, _, last = name.rpartition('.')
  if '.' in section:
    return name
  return section if last == 'name' else last


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
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph', UserWarning)  # of a font
    figure.savefig(path, dpi=120, bbox_inches='tight')
  plt.close(figure)
