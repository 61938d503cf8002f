"""Measures the loss on a line or in a plane, and between two runs."""

import math
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from sam_jax.analysis import (
  choice,
  figures,
  landscape,
  measure_hessian,
  pass_bar,
  trained,
  units,
)


def _landscape_plan(
  model: trained.Trained, options: choice.Options
) -> pass_bar.Plan:
  del model
  rows = (options.points, options.points ** (options.dimensions - 1))
  if options.along == 'random':
    return {'row': rows}
  return {'eigenpairs': (1, choice.EIGENPAIRS_COST), 'row': rows}


def _landscape(
  models: choice.Models,
  options: choice.Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> choice.Result:
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
  results: Mapping[str, choice.Result],
  options: choice.Options,
) -> None:
  axis = 'eigenvector' if options.along == 'eigenvectors' else 'direction'
  if options.dimensions == 1:
    figures.lines(path, results, f'along {axis} 1')
  else:
    figures.planes(path, results, axis)


def _interpolate(
  models: choice.Models,
  options: choice.Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> choice.Result:
  """Measures the loss between two runs, on the examples of the first."""
  first, second = models
  fractions = np.linspace(-options.margin, 1 + options.margin, options.points)
  losses = landscape.interpolate(
    first.objective(first.loss, on_pass=on_pass),
    first.variables,
    second.variables,
    fractions,
    unit=unit,
  )
  return {'coordinates': fractions, 'loss': losses}


def _draw_interpolation(
  path: pathlib.Path,
  results: Mapping[str, choice.Result],
  options: choice.Options,
) -> None:
  del options
  figures.lines(path, results, 'fraction of the way')


def _slice_columns(result: choice.Result) -> dict[str, float]:
  # JSON has no NaN: what is not a number is None there.
  losses = np.array(result['loss'], float)
  numbers = losses[~np.isnan(losses)]
  if not numbers.size:
    return dict.fromkeys(('lowest loss', 'highest loss'), math.nan)
  return {'lowest loss': numbers.min(), 'highest loss': numbers.max()}


LANDSCAPE = choice.Measurement(
  options=('along', 'dimensions', 'extent', 'points'),
  plan=_landscape_plan,
  measure=_landscape,
  draw=_draw_landscape,
  columns=_slice_columns,
)
INTERPOLATE = choice.Measurement(
  options=('margin', 'points'),
  plan=lambda model, options: {'row': (options.points, 1)},
  measure=_interpolate,
  draw=_draw_interpolation,
  columns=_slice_columns,
  num_models=2,
)
