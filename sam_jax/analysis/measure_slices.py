"""Measures the loss on a line or in a plane, and between two runs."""

import math
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from sam_jax.analysis import (
  figures,
  landscape,
  measure_hessian,
  pass_bar,
  planes,
  terms,
  trained,
  units,
)
from sam_jax.drawing import words


def _landscape_plan(
  model: trained.Trained, options: terms.Options
) -> pass_bar.Plan:
  del model
  rows = (options.points, options.points ** (options.dimensions - 1))
  if options.along == 'random':
    return {'row': rows}
  return {'eigenpairs': (1, terms.EIGENPAIRS_COST), 'row': rows}


def _landscape(
  models: terms.Models,
  options: terms.Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> terms.Result:
  """Measures the loss on a line or in a plane around the parameters."""
  params, count = models[0].params, options.dimensions
  objective = models[0].objective(on_pass=on_pass)
  if options.along == 'random':
    seeds = [2 * options.seed + i for i in range(count)]
    directions = [landscape.random_direction(params, seed) for seed in seeds]
  else:
    _, directions = measure_hessian.eigenpairs(
      objective, params, count, options.seed, unit
    )
  coordinates = np.linspace(-options.extent, options.extent, options.points)
  losses = landscape.scan(objective, params, directions, coordinates, unit=unit)
  return {'coordinates': coordinates, 'loss': losses}


def _draw_landscape(
  path: pathlib.Path,
  results: Mapping[str, terms.Result],
  subjects: figures.Subjects,
  options: terms.Options,
) -> None:
  axis = 'random direction' if options.along == 'random' else 'eigenvector'
  if options.dimensions == 1:
    what = f'{{split}} loss along one {axis}'
    heading = figures.title(subjects, options, what)
    where = f'how far along the {axis} (0: the run)'
    figures.lines(path, results, subjects, heading, where)
  else:
    what = f'{{split}} loss in the plane of two {axis}s'
    heading = figures.title(subjects, options, what)
    planes.draw(path, results, heading, axis)


def _interpolate(
  models: terms.Models,
  options: terms.Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> terms.Result:
  """Measures loss and score between two runs, on the first one's examples."""
  first, second = models
  fractions = _fractions(options)

  def along(metric: str, unit: units.Unit) -> np.ndarray:
    return landscape.interpolate(
      first.objective(first.metric(metric), on_pass=on_pass),
      first.variables,
      second.variables,
      fractions,
      unit=unit,
    )

  found = {'coordinates': fractions, 'loss': along('loss', unit)}
  if (metric := first.task.score.metric) == 'loss':
    return found
  return found | {
    'score': along(metric, lambda name, fn: unit(f'score-{name}', fn))
  }


def _fractions(options: terms.Options) -> np.ndarray:
  """Returns where to measure on a line; both runs are among the places."""
  even = np.linspace(-options.margin, 1 + options.margin, options.points)
  for end in (0.0, 1.0):
    even = even[~np.isclose(even, end, atol=1e-9)]
  return np.sort([*even, 0.0, 1.0])


def _interpolate_plan(
  model: trained.Trained, options: terms.Options
) -> pass_bar.Plan:
  points = len(_fractions(options))
  is_loss = model.task.score.metric == 'loss'
  scores = {} if is_loss else {'score-row': (points, 1)}
  return {'row': (points, 1), **scores}


def _draw_interpolation(
  path: pathlib.Path,
  results: Mapping[str, terms.Result],
  subjects: figures.Subjects,
  options: terms.Options,
) -> None:
  [label] = subjects
  score = subjects[label][0].task.score
  what = f'{{split}} {words.join(["loss", score.label])} between two runs'
  heading = figures.title(subjects, options, what)
  figures.between(path, results, subjects, heading, options.split)


def _slice_columns(result: terms.Result) -> dict[str, float]:
  # JSON has no NaN: what is not a number is None there.
  losses = np.array(result['loss'], float)
  numbers = losses[~np.isnan(losses)]
  if not numbers.size:
    return dict.fromkeys(('lowest loss', 'highest loss'), math.nan)
  return {'lowest loss': numbers.min(), 'highest loss': numbers.max()}


LANDSCAPE = terms.Measurement(
  options=('along', 'dimensions', 'extent', 'points'),
  plan=_landscape_plan,
  measure=_landscape,
  draw=_draw_landscape,
  columns=_slice_columns,
)
INTERPOLATE = terms.Measurement(
  options=('margin', 'points'),
  plan=_interpolate_plan,
  measure=_interpolate,
  draw=_draw_interpolation,
  columns=_slice_columns,
  num_models=2,
  version=3,  # has the score
)
