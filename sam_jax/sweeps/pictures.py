"""Pictures of settings: the score against rho, m, cost, and epochs.

A picture has a panel for each problem, which is the task, the data, the model
and their augmentation, and in it a line for each way to solve the problem.
Against cost and epochs, the lines have the rho, m and alpha of Mixup that were
chosen on the validation split. If there is no validation split, they are the
best of what is shown, and the picture says so.
"""

import itertools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import lines as lines_lib

from sam_jax.drawing import palette, sheet, words
from sam_jax.sweeps import (
  cells as cells_lib,
  choice as choice_lib,
  curves,
  results,
  settings as settings_lib,
)

Settings = Sequence[settings_lib.Setting]
# Settings by the line that they are points of.
Lines = Mapping[str, Settings]

_PROBLEM = ('task', 'data', 'model', 'augmentation')
# What is chosen before a method is compared with others.
_CHOSEN = ('method.rho', 'm', 'microbatch_size', 'mixing.alpha')
_MAX_COLUMNS = 4
_MAX_TICKS = 9
_SAME = 0.02  # between places that look like one
# Fields against which the score is drawn, if they vary.
_AXES = {'method.rho': 'rho', 'm': 'm'}
_COSTS = {
  'gradient_evaluations': ('gradients', 'gradients of a run'),
  'wall_seconds': ('seconds', 'wall time of a run, seconds'),
}


def draw(out: pathlib.Path, settings: Settings) -> list[pathlib.Path]:
  """Draws the pictures for which there is something to see.

  Args:
    out: directory of the PNGs.
    settings: of a sweep.

  Returns:
    The paths of the pictures.
  """
  paths = []
  for field, axis in _AXES.items():
    shown = _varied(settings, field)
    if shown:
      paths.append(out / f'score_vs_{axis}.png')
      _draw_against(paths[-1], shown, field)
  best, remark = _best(settings)
  if not best:
    return paths
  for cost, (name, axis) in _COSTS.items():
    paths.append(out / f'score_vs_{name}.png')
    _draw_cost(paths[-1], best, cost, axis, remark)
  paths.append(out / 'curves.png')
  _draw_curves(paths[-1], best, remark)
  return paths


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
  remark = ''
  for choice in (
    *choice_lib.choose(plain, _CHOSEN),
    *choice_lib.choose(perturbed, _CHOSEN),
  ):
    kept += [choice.best, choice.test]
    if choice.test is None and choice.tested and not choice.is_needed:
      kept.append(
        min(choice.tested, key=lambda s: s.estimate(results.FINAL).mean)
      )
      remark = '; rho, m and alpha: the best of those shown'
  return [s for s in settings if any(s is k for k in kept)], remark


def _method(setting: settings_lib.Setting) -> cells_lib.Fields:
  """Returns the fields that tell a line from others if the best is shown."""
  rho = {'method.rho': 0} if setting.fields.get('method.rho') == 0 else {}
  return _without(setting.shown, *_CHOSEN) | rho


def _draw_against(path: pathlib.Path, settings: Settings, field: str) -> None:
  """Draws the score of the settings against one of their fields."""

  def place(setting: settings_lib.Setting) -> float:
    return float(setting.fields[field])

  values = sorted({place(setting) for setting in settings})

  def plot(axes: Any, lines: Lines, styles: Mapping[str, Any]) -> None:
    if values[0] == 0:
      axes.set_xscale('symlog', linthresh=values[1])
    else:
      axes.set_xscale('log')
    ordered = {k: sorted(members, key=place) for k, members in lines.items()}
    _errorbars(axes, ordered, styles, place)
    ticks = _spaced(values)
    turn = {'rotation': 45} if len(ticks) > 5 else {}
    axes.set_xticks(ticks, [f'{v:g}' for v in ticks], **turn)
    axes.set_xticks([], minor=True)
    axes.set_xlabel(words.axis(field))

  # Microbatches are often as large as m; they make no lines of their own.
  varied = ('m', 'microbatch_size') if field == 'm' else (field,)
  _draw_panels(
    path,
    settings,
    lambda s: _without(s.shown, *varied),
    plot,
    f'against {words.label(field)}',
  )


def _spaced(values: Sequence[float]) -> list[float]:
  """Returns those of some values that have room on a logarithmic axis.

  Args:
    values: in ascending order; only the first can be 0.
  """
  positive = [value for value in values if value > 0]
  kept = positive[:1]
  room = math.log(positive[-1] / positive[0]) / _MAX_TICKS
  for value in positive[1:]:
    if math.log(value / kept[-1]) >= room:
      kept.append(value)
  return [0.0, *kept] if values[0] == 0 else kept


def _draw_cost(
  path: pathlib.Path, settings: Settings, cost: str, axis: str, remark: str
) -> None:
  """Draws the score of the settings against what they cost."""

  def plot(axes: Any, lines: Lines, styles: Mapping[str, Any]) -> None:
    _errorbars(axes, lines, styles, lambda s: s.estimate(cost).mean)
    # Costs that are nearly the same look so.
    low, high = axes.get_xlim()
    pad = max(0.0, 0.1 * high - (high - low)) / 2
    axes.set_xlim(low - pad, high + pad)
    axes.ticklabel_format(axis='x', useOffset=False)
    axes.set_xlabel(axis)

  # More ascent steps are another cost of one method.
  _draw_panels(
    path,
    settings,
    lambda s: _without(_method(s), 'method.ascent_steps'),
    plot,
    f'against the {axis}{remark}',
  )


def _draw_curves(path: pathlib.Path, settings: Settings, remark: str) -> None:
  """Draws the score along training, with bands."""

  def plot(axes: Any, lines: Lines, styles: Mapping[str, Any]) -> None:
    drawn = [(s, name) for name, members in lines.items() for s in members]
    curves.add(
      axes,
      [setting for setting, _ in drawn],
      [styles[name] | {'label': name} for _, name in drawn],
    )
    axes.set_xlabel('epoch')

  _draw_panels(path, settings, _method, plot, f'along training{remark}')


def _draw_panels(
  path: pathlib.Path,
  settings: Settings,
  line_fn: Callable[[settings_lib.Setting], cells_lib.Fields],
  plot: Callable[[Any, Lines, Mapping[str, Any]], None],
  against: str,
) -> None:
  """Draws a panel for each problem, and writes the picture.

  Args:
    path: of the PNG.
    settings: to draw.
    line_fn: fields that tell the lines of a panel apart.
    plot: draws the lines of a panel: `(axes, lines, styles)`.
    against: what follows the score in the title.
  """
  panels: dict[str, dict[str, list[settings_lib.Setting]]] = {}
  methods: dict[str, str] = {}
  for setting in settings:
    line = words.fields(_without(line_fn(setting), *_PROBLEM)) or setting.method
    methods[line] = setting.method
    lines = panels.setdefault(_problem(setting), {})
    lines.setdefault(line, []).append(setting)
  styles = dict(zip(methods, palette.styles([*methods.values()]), strict=True))
  rows, columns, size = _layout(len(panels))
  with sheet.picture(
    path,
    size,
    _title(settings, against),
    rows=rows,
    columns=columns,
    count=len(panels),
  ) as (figure, grid):
    for axes, (problem, lines) in zip(
      grid.ravel(), panels.items(), strict=False
    ):
      plot(axes, lines, styles)
      axes.set_title(sheet.wrapped(problem, 45))
      axes.set_ylabel(curves.label([s for m in lines.values() for s in m]))
    sheet.legend(figure, handles=_handles(styles))


def _layout(count: int) -> tuple[int, int, tuple[float, float]]:
  """Returns rows and columns of that many panels, and the size of a sheet."""
  columns = min(count, _MAX_COLUMNS)
  rows = -(-count // columns)
  size = (6.0, 4.0) if count == 1 else (3.2 * columns, 0.5 + 2.8 * rows)
  return rows, columns, size


def _title(settings: Settings, against: str) -> str:
  """Returns what is shown of which data, and what the error bars are."""
  what = words.join(f'{words.split(s.split)} {s.score.label}' for s in settings)
  title = words.title((s.runs[0].fields for s in settings), f'{what} {against}')
  return f'{title}\n{words.seeds(len(s.runs) for s in settings)}'


def _handles(styles: Mapping[str, dict[str, Any]]) -> list[lines_lib.Line2D]:
  """Returns what a legend shows of each line."""
  return [
    lines_lib.Line2D([], [], label=sheet.plain(name), **style)
    for name, style in styles.items()
  ]


def _errorbars(
  axes: Any,
  lines: Lines,
  styles: Mapping[str, Any],
  place: Callable[[settings_lib.Setting], float],
) -> None:
  """Draws scores with their intervals, and chooses the axis of the scores."""
  every = []
  axes.margins(x=0.1)
  places = {k: [place(s) for s in members] for k, members in lines.items()}
  turns = _turns(places)
  for name, members in lines.items():
    estimates = [s.estimate(results.FINAL) for s in members]
    found = sheet.interval(
      [e.mean for e in estimates],
      [e.half_width for e in estimates],
      members[0].score,
    )
    sheet.errorbars(
      axes,
      places[name],
      found,
      turns[name],
      label=name,
      **styles[name],
    )
    every.append(found)
  means, lows, highs = map(np.concatenate, zip(*every, strict=True))
  sheet.scale(axes, means, ends=[*lows, *highs], on='y')


def _turns(
  places: Mapping[str, Sequence[float]],
) -> dict[str, tuple[int, int]]:
  """Returns which lines have to be side by side, see `sheet.errorbars`.

  Args:
    places: of the points of each line.
  """

  def shares(name: str) -> bool:
    return any(
      math.isclose(one, two, rel_tol=_SAME)
      for other, theirs in places.items()
      if other != name
      for one, two in itertools.product(places[name], theirs)
    )

  sharing = [name for name in places if shares(name)]
  alone = {name: (0, 1) for name in places}
  return alone | {k: (i, len(sharing)) for i, k in enumerate(sharing)}


def _problem(setting: settings_lib.Setting) -> str:
  """Returns the problem of a setting in a few words."""
  shown = setting.shown.items()
  return words.fields(
    {k: v for k, v in shown if results.is_within(k, *_PROBLEM)}
  )


def _without(fields: cells_lib.Fields, *names: str) -> cells_lib.Fields:
  """Returns the fields but for some, or those in some sections."""
  return {k: v for k, v in fields.items() if not results.is_within(k, *names)}
