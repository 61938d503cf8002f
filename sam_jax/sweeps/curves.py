"""Pictures of the score along training, in one panel."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sam_jax.drawing import palette, sheet, words
from sam_jax.sweeps import settings as settings_lib

_FEW = 8  # curves whose bands can be told apart in one panel
_COSTS = {'gradient_evaluations': 'gradients', 'wall_seconds': 'seconds'}


def draw(
  path: pathlib.Path,
  lines: Mapping[str, settings_lib.Setting],
  title: str,
) -> None:
  """Draws the score against the epochs, with a band for each interval.

  Args:
    path: of the PNG.
    lines: the settings, by what they are called.
    title: of the picture; a line about the seeds is added.
  """
  title += f'\n{words.seeds(len(s.runs) for s in lines.values())}'
  with sheet.picture(path, (6, 4), title) as (figure, [[axes]]):
    plot(axes, lines)
    axes.set_xlabel('epoch')
    sheet.legend(figure, axes)


def plot(
  axes: Any, lines: Mapping[str, settings_lib.Setting], cost: str = ''
) -> None:
  """Draws the curves of some settings, and chooses the axis of the score.

  Args:
    axes: the panel.
    lines: the settings, by what they are called.
    cost: number of result.json against which to draw, in place of the epochs.
  """
  settings = list(lines.values())
  styles = [
    style | {'label': sheet.plain(name)}
    for name, style in zip(
      lines, palette.styles([s.method for s in settings]), strict=True
    )
  ]
  add(axes, settings, styles, cost)


def add(
  axes: Any,
  settings: Sequence[settings_lib.Setting],
  styles: Sequence[dict[str, Any]],
  cost: str = '',
) -> None:
  """Draws the same, each setting in its style, which has its label too."""
  is_few = len(settings) <= _FEW
  found = []
  for i, (setting, style) in enumerate(zip(settings, styles, strict=True)):
    places, *interval = _curve(setting, cost)
    middle, low, high = interval
    found.append(interval)
    # A curve of a few points might have none where its markers go.
    marks = palette.marks(i, len(settings)) if len(places) > 3 else 1
    thin = {} if is_few else {'linewidth': 0.9}
    axes.plot(places, middle, markevery=marks, **style, **thin)
    if is_few:
      axes.fill_between(
        places, low, high, color=style['color'], alpha=0.15, linewidth=0
      )
  axes.set_ylabel(label(settings))
  means, lows, highs = map(np.concatenate, zip(*found, strict=True))
  ends = [*lows, *highs] if is_few else means
  sheet.scale(axes, means, ends=ends, on='y')


def _curve(setting: settings_lib.Setting, cost: str) -> list[np.ndarray]:
  """Returns places, means and both ends of the intervals of a curve."""
  score = setting.score
  key = f'{setting.split}/{score.metric}'
  epochs, mean, half = settings_lib.curve(setting, key)
  places = epochs
  if cost:  # it grows evenly
    result = setting.runs[0].result
    places = epochs * result[cost] / result['epochs']
  return [places, *sheet.interval(mean, half, score)]


def label(settings: Sequence[settings_lib.Setting]) -> str:
  """Returns what the scores of some settings are: 'test error, %'."""
  return sheet.plain(
    words.join(
      s.score.heading(f'{words.split(s.split)} {s.score.label}')
      for s in settings
    )
  )


def cost_label(cost: str) -> str:
  """Returns what the axis of a cost along a training shows."""
  return f'{_COSTS[cost]}, as if spent evenly along the run'
