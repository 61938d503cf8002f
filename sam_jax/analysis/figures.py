"""Figures of several networks side by side: one scale for all of them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sam_jax import tasks
from sam_jax.analysis import terms
from sam_jax.drawing import palette, sheet, words

_GRID = 600  # points of a density
_LABEL = 32  # letters of a run's name in a line
# What a run's JSON has under 'result', by the run's label.
Results = Mapping[str, Mapping[str, Any]]
# The models that each result is of, by the same label.
Subjects = Mapping[str, terms.Models]


def title(subjects: Subjects, options: terms.Options, what: str) -> str:
  """Returns what is shown of which examples, such as 'Digits, cnn: ...'.

  Args:
    subjects: the models that are measured.
    options: have the split.
    what: is shown; '{split}' stands for the word of the split.
  """
  models = [model for group in subjects.values() for model in group]
  names = ('data.name', 'data.label_noise', 'model.name')
  fields = [
    {n: _field(model.config, n) for n in names if _field(model.config, n)}
    for model in models
  ]
  text = words.title(fields, what.format(split=words.split(options.split)))
  counts = {model.task.count(model.examples) for model in models}
  examples = words.join(f'{count:,}' for count in sorted(counts))
  return f'{text}\n{examples} {models[0].task.examples}'


def _field(config: Any, name: str) -> Any:
  """Returns a field of a config, None if it is not there."""
  for part in name.split('.'):
    config = config.get(part)
  return config


def _styles(subjects: Subjects) -> list[dict[str, Any]]:
  """Returns the style of each result: that of the method of its last model."""
  return palette.styles(
    [models[-1].config.method.name for models in subjects.values()]
  )


def spectra(
  path: pathlib.Path, results: Results, subjects: Subjects, heading: str
) -> None:
  """Draws spectral densities, one above the other, and their largest values.

  Args:
    path: of the PNG.
    results: with nodes and weights `[probes, steps]`, eigenvalues `[k]` and
      smallest_eigenvalues, perhaps none.
    subjects: of the results.
    heading: the title.
  """
  nodes = np.concatenate([np.ravel(r['nodes']) for r in results.values()])
  span = np.ptp(nodes) or 1.0
  low, high = nodes.min() - 0.05 * span, nodes.max() + 0.05 * span
  grid = np.linspace(low, high, _GRID)
  size = (7, 0.9 + 1.8 * len(results))
  with sheet.picture(
    path, size, heading, rows=len(results), sharex=True, sharey=True
  ) as (_, rows):
    for axes, (label, result), style in zip(
      rows[:, 0], results.items(), _styles(subjects), strict=True
    ):
      density = _density(result, grid, 0.005 * span)
      color = style['color']
      axes.fill_between(
        grid, np.maximum(density, 1e-8), 1e-8, alpha=0.5, color=color
      )
      values = result['eigenvalues']
      marked = [*values, *result['smallest_eigenvalues']]
      axes.plot(marked, np.full(len(marked), 3e-6), 'k|', markersize=10)
      axes.set(ylabel='density', yscale='log', ylim=(1e-6, None))
      axes.set_title(sheet.plain(_spectrum_title(label, values)))
    rows[-1, 0].set_xlabel('eigenvalue of the Hessian (|: the computed ones)')


def _density(
  result: Mapping[str, Any], grid: np.ndarray, width: float
) -> np.ndarray:
  """Returns the smeared density."""
  from sam_jax.analysis import hessian

  found = hessian.Spectrum(*(np.array(result[n]) for n in ('nodes', 'weights')))
  return found.density(grid, width)


def _spectrum_title(label: str, values: Sequence[float]) -> str:
  """Returns a run's name with its largest eigenvalue and ratio."""
  text = f'{label}: largest eigenvalue {values[0]:.3g}'
  if len(values) >= 5:
    text += f', {values[0] / values[4]:.2f} times the fifth'
  return text


def bars(
  path: pathlib.Path,
  results: Results,
  subjects: Subjects,
  heading: str,
  labels: Mapping[str, str],
) -> None:
  """Draws a few numbers of each run, a panel for each number.

  Args:
    path: of the PNG.
    results: for each number mean and perhaps standard_error.
    subjects: of the results.
    heading: the title.
    labels: what the axis of each number says, by the number's name; numbers
      whose labels are equal share it.
  """
  measures = list(next(iter(results.values())))
  is_shared = len({labels[measure] for measure in measures}) == 1
  size = (max(0.8 + 2.4 * len(measures), 5.0), 3.4)
  with sheet.picture(
    path, size, heading, columns=len(measures), sharey=is_shared
  ) as (_, [row]):
    for axes, measure in zip(row, measures, strict=True):
      found = [result[measure] for result in results.values()]
      places = np.arange(len(found))
      drawn = axes.bar(
        places,
        [f['mean'] for f in found],
        yerr=_errors(found),
        color=[style['color'] for style in _styles(subjects)],
        ecolor='gray',
        width=0.6,
      )
      axes.bar_label(drawn, fmt='%.3g', padding=2, fontsize=8)
      axes.axhline(0, color='black', linewidth=0.8)
      axes.margins(y=0.1)
      names = [sheet.wrapped(label, _LABEL) for label in results]
      axes.set_xticks(places, names, rotation=30, ha='right')
      axes.grid(visible=False, axis='x')
      if is_shared:
        axes.set_title(measure.replace('_', ' '))
    for axes, measure in zip(row, measures, strict=True):
      if not is_shared or axes is row[0]:
        axes.set_ylabel(labels[measure])


def _errors(found: Sequence[Mapping[str, Any]]) -> list[float] | None:
  """Returns the standard errors of some numbers, None if they have none."""
  errors = [f.get('standard_error') for f in found]
  if all(error is None for error in errors):
    return None
  return [error or 0.0 for error in errors]


def lines(
  path: pathlib.Path,
  results: Results,
  subjects: Subjects,
  heading: str,
  xlabel: str,
) -> None:
  """Draws losses along a line.

  Args:
    path: of the PNG.
    results: with coordinates and loss, both `[n]`.
    subjects: of the results.
    heading: the title.
    xlabel: what the coordinates are.
  """
  with sheet.picture(path, (6.5, 4), heading) as (figure, [[axes]]):
    _plot(axes, results, subjects, 'loss', 1.0)
    axes.set(xlabel=xlabel, ylabel='loss')
    axes.axvline(0, color='gray', linewidth=0.8, linestyle=':')
    sheet.legend(figure, axes)


def _plot(
  axes: Any, results: Results, subjects: Subjects, key: str, scale: float
) -> np.ndarray:
  """Draws one number of each result along its line; returns all of them."""
  shown = []
  for i, ((label, result), style) in enumerate(
    zip(results.items(), _styles(subjects), strict=True)
  ):
    shown.append(scale * np.array(result[key], float))
    marks = palette.marks(i, len(results))
    axes.plot(
      result['coordinates'],
      shown[-1],
      label=sheet.plain(label),
      markevery=marks,
      **style,
    )
  return np.concatenate(shown)


def between(
  path: pathlib.Path,
  results: Results,
  subjects: Subjects,
  heading: str,
  split: str,
) -> None:
  """Draws the loss and the score on the line between two runs.

  Args:
    path: of the PNG.
    results: with coordinates, loss and, if it is another number, score, all
      `[n]`.
    subjects: of the results, two models each.
    heading: the title.
    split: of the examples.
  """
  [(label, result)] = results.items()
  models = subjects[label]
  score: tasks.Score = models[0].task.score
  split = words.split(split)
  panels = [('loss', f'{split} loss', 1.0)]
  if 'score' in result:
    heading_of = score.heading(f'{split} {score.label}')
    panels.append(('score', heading_of, score.scale))
  size = (6.5, 1.2 + 2.3 * len(panels))
  with sheet.picture(path, size, heading, rows=len(panels), sharex=True) as (
    figure,
    rows,
  ):
    for axes, (key, name, scale) in zip(rows[:, 0], panels, strict=True):
      values = np.array(result[key], float) * scale
      axes.plot(result['coordinates'], values, color='gray', linewidth=2)
      axes.set_ylabel(sheet.plain(name))
      _mark_runs(axes, result['coordinates'], values, models)
      if key == 'score':
        sheet.scale(axes, values, on='y')
    rows[0, 0].set_title(sheet.wrapped(label, 2.5 * _LABEL))
    rows[-1, 0].set_xlabel('fraction of the way from the first to the second')
    sheet.legend(figure, rows[0, 0])


def _mark_runs(
  axes: Any,
  coordinates: Sequence[float],
  values: np.ndarray,
  models: terms.Models,
) -> None:
  """Draws the two runs on a line between them, with their markers."""
  styles = palette.styles([model.config.method.name for model in models])
  for place, style, model in zip((0.0, 1.0), styles, models, strict=True):
    axes.axvline(place, color=style['color'], linewidth=1, linestyle=':')
    value = np.interp(place, coordinates, values)
    marker = style | {'linestyle': '', 'markersize': 9, 'zorder': 3}
    marker['clip_on'] = False
    named = f'{place:g}: {model.config.method.name}'
    axes.plot([place], [value], label=named, **marker)
