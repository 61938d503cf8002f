"""What can be measured of trained models: one entry of `BY_NAME` for each.

hessian: the largest eigenvalues, the trace, the spectral density. sharpness: by
how much the loss of m examples rises within a ball. landscape: the loss on a
line or in a plane. interpolate: the loss between two runs.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import flatten_util

from sam_jax import types
from sam_jax.analysis import (
  figures,
  hessian,
  landscape,
  objective as objective_lib,
  pass_bar,
  sharpness,
  trained,
  units,
)

NORMS = {'l2': 2.0, 'linf': math.inf}
DIRECTIONS = ('random', 'eigenvectors')
# ARPACK usually takes a few dozen products: a guess, for the time left.
_EIGENPAIRS_COST = 60

Result = dict[str, Any]
Models = Sequence[trained.Trained]


@dataclasses.dataclass(frozen=True)
class Options:
  """What is chosen about a measurement.

  Attributes:
    split: see `trained.load`, also for the next three.
    examples: how many at most; None is all.
    batch_norm: what BatchNorm normalises by.
    microbatch_size: examples per forward pass of a device.
    seed: of probes, groups and directions.
    k: number of eigenvalues.
    trace_probes: probes of the trace.
    probes: probes of the spectral density.
    lanczos_steps: products per probe of the density.
    m: examples per group of the sharpness; None is the run's own.
    rho: radius of the ball.
    norm: of the ball, one of `NORMS`.
    adaptive: whether to stretch the ball by |w| + eta.
    eta: of the adaptive ball.
    ascent_steps: steps of projected gradient ascent.
    restarts: starts of projected gradient ascent.
    samples: random directions per group.
    groups: groups at most; None is all.
    along: directions of the landscape, one of `DIRECTIONS`.
    dimensions: 1 for a line, 2 for a plane.
    extent: how far to go along the directions.
    margin: how far to go beyond the two runs that are interpolated.
    points: points of a line.
  """

  split: str = 'train'
  examples: int | None = None
  batch_norm: str = 'running'
  microbatch_size: int | None = None
  seed: int = 0
  k: int = 5
  trace_probes: int = 100
  probes: int = 2
  lanczos_steps: int = 80
  m: int | None = None
  rho: float = 0.05
  norm: str = 'l2'
  adaptive: bool = False
  eta: float = 0.0
  ascent_steps: int = 10
  restarts: int = 1
  samples: int = 4
  groups: int | None = None
  along: str = 'random'
  dimensions: int = 2
  extent: float = 1.0
  margin: float = 0.25
  points: int = 25


class Measurement(NamedTuple):
  """Something that can be measured.

  Attributes:
    options: names of the options that the result depends on, besides those of
      the examples.
    plan: `(model, options) -> plan`, for the time left; refuses an m that does
      not fit.
    measure: `(models, options, unit, on_pass) -> result`; the result belongs to
      the first model.
    draw: `(path, results by label, options)`.
    columns: the numbers of a result for the table, by name.
    num_models: how many models a result takes.
  """

  options: tuple[str, ...]
  plan: Callable[[trained.Trained, Options], pass_bar.Plan]
  measure: Callable[
    [Models, Options, units.Unit, Callable[[int], None]], Result
  ]
  draw: Callable[[pathlib.Path, Mapping[str, Result], Options], None]
  columns: Callable[[Result], dict[str, float]]
  num_models: int = 1


def load(
  workdir: pathlib.Path, checkpoint: int | str, options: Options
) -> trained.Trained:
  """Loads a checkpoint of a run; see `trained.load`."""
  return trained.load(
    workdir,
    checkpoint,
    split=options.split,
    num_examples=options.examples,
    batch_norm=options.batch_norm,
    microbatch_size=options.microbatch_size,
  )


# --- Hessian -----------------------------------------------------------------


def _hessian_plan(model: trained.Trained, options: Options) -> pass_bar.Plan:
  del model
  return {
    'eigenpairs': (1, _EIGENPAIRS_COST),
    'trace': (options.trace_probes, 1),
    'spectrum': (options.probes, options.lanczos_steps),
  }


def _hessian(
  models: Models,
  options: Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> Result:
  params = models[0].params
  objective = models[0].objective(on_pass=on_pass)
  values, _ = _eigenpairs(objective, params, options.k, options.seed, unit)
  trace = hessian.trace(
    objective, params, options.trace_probes, seed=options.seed, unit=unit
  )
  spectrum = hessian.spectrum(
    objective,
    params,
    num_probes=options.probes,
    num_steps=options.lanczos_steps,
    seed=options.seed,
    unit=unit,
  )
  return {
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(params)),
    'eigenvalues': values,
    'trace': trace.mean,
    'trace_standard_error': trace.standard_error,
    **spectrum._asdict(),
  }


def _eigenpairs(
  objective: objective_lib.Objective,
  params: types.Params,
  k: int,
  seed: int,
  unit: units.Unit,
) -> tuple[np.ndarray, list[types.Params]]:
  """Returns the largest eigenvalues and their vectors, as one piece."""
  _, unravel = flatten_util.ravel_pytree(params)

  def compute() -> dict[str, np.ndarray]:
    found = hessian.top_eigenpairs(objective, params, k, seed=seed)
    flat = [flatten_util.ravel_pytree(v)[0] for v in found.vectors]
    return {'values': found.values, 'vectors': np.stack(flat)}

  found = unit('eigenpairs', compute)
  return found['values'], [unravel(v) for v in found['vectors']]


def _draw_hessian(
  path: pathlib.Path, results: Mapping[str, Result], options: Options
) -> None:
  del options
  figures.spectra(path, results)


def _hessian_columns(result: Result) -> dict[str, float]:
  values = result['eigenvalues']
  columns = {'lambda_max': values[0]}
  if len(values) >= 5:
    columns['lambda_max/lambda_5'] = values[0] / values[4]
  columns['trace'] = result['trace']
  error = result['trace_standard_error']
  return columns if error is None else columns | {'+- of trace': error}


# --- m-sharpness -------------------------------------------------------------


def _m(model: trained.Trained, options: Options) -> int:
  return options.m or model.config.m


def _groups(
  model: trained.Trained, options: Options
) -> list[objective_lib.Batches]:
  m = _m(model, options)
  return model.groups(m, seed=options.seed, max_groups=options.groups)


def _sharpness_plan(model: trained.Trained, options: Options) -> pass_bar.Plan:
  count = len(_groups(model, options))
  return {
    'one-worst': (count, 2),
    'ascent-worst': (count, options.restarts * (options.ascent_steps + 1)),
    'random-average': (count, 1 + options.samples),
  }


def _sharpness(
  models: Models,
  options: Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> Result:
  """Measures m-sharpness, by three measures on the same groups."""
  model, groups = models[0], _groups(models[0], options)
  m = _m(model, options)
  eta = options.eta if options.adaptive else None
  ball = sharpness.Ball(options.rho, NORMS[options.norm], eta)
  objective = model.objective(group_size=m, on_pass=on_pass)
  given = (objective, model.params, groups, ball)

  def within(prefix: str) -> units.Unit:
    return lambda name, fn: unit(f'{prefix}-{name}', fn)

  found = {
    'one_ascent_step': sharpness.worst_case(*given, unit=within('one')),
    'projected_ascent': sharpness.worst_case(
      *given,
      steps=options.ascent_steps,
      restarts=options.restarts,
      seed=options.seed,
      unit=within('ascent'),
    ),
    'random_directions': sharpness.average_case(
      *given,
      num_samples=options.samples,
      seed=options.seed,
      unit=within('random'),
    ),
  }
  measures = {name: value._asdict() for name, value in found.items()}
  return {'m': m, 'num_groups': len(groups), 'measures': measures}


def _draw_sharpness(
  path: pathlib.Path, results: Mapping[str, Result], options: Options
) -> None:
  del options
  figures.sharpness(path, {k: r['measures'] for k, r in results.items()})


def _sharpness_columns(result: Result) -> dict[str, float]:
  means = {name: f['mean'] for name, f in result['measures'].items()}
  return {'m': result['m'], 'groups': result['num_groups'], **means}


# --- Slices ------------------------------------------------------------------


def _landscape_plan(model: trained.Trained, options: Options) -> pass_bar.Plan:
  del model
  rows = (options.points, options.points ** (options.dimensions - 1))
  if options.along == 'random':
    return {'row': rows}
  return {'eigenpairs': (1, _EIGENPAIRS_COST), 'row': rows}


def _landscape(
  models: Models,
  options: Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> Result:
  """Measures the loss on a line or in a plane around the parameters."""
  params, count = models[0].params, options.dimensions
  objective = models[0].objective(on_pass=on_pass)
  if options.along == 'random':
    seeds = [2 * options.seed + i for i in range(count)]
    directions = [landscape.random_direction(params, seed) for seed in seeds]
  else:
    _, directions = _eigenpairs(objective, params, count, options.seed, unit)
  coordinates = np.linspace(-options.extent, options.extent, options.points)
  losses = landscape.scan(objective, params, directions, coordinates, unit=unit)
  return {'coordinates': coordinates, 'loss': losses}


def _draw_landscape(
  path: pathlib.Path, results: Mapping[str, Result], options: Options
) -> None:
  axis = 'eigenvector' if options.along == 'eigenvectors' else 'direction'
  if options.dimensions == 1:
    figures.lines(path, results, f'along {axis} 1')
  else:
    figures.planes(path, results, axis)


def _interpolate(
  models: Models,
  options: Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> Result:
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
  path: pathlib.Path, results: Mapping[str, Result], options: Options
) -> None:
  del options
  figures.lines(path, results, 'fraction of the way')


def _slice_columns(result: Result) -> dict[str, float]:
  # JSON has no NaN: what is not a number is None there.
  losses = np.array(result['loss'], float)
  numbers = losses[~np.isnan(losses)]
  if not numbers.size:
    return dict.fromkeys(('lowest loss', 'highest loss'), math.nan)
  return {'lowest loss': numbers.min(), 'highest loss': numbers.max()}


BY_NAME = {
  'hessian': Measurement(
    options=('k', 'trace_probes', 'probes', 'lanczos_steps'),
    plan=_hessian_plan,
    measure=_hessian,
    draw=_draw_hessian,
    columns=_hessian_columns,
  ),
  'sharpness': Measurement(
    options=(
      *('m', 'rho', 'norm', 'adaptive', 'eta'),
      *('ascent_steps', 'restarts', 'samples', 'groups'),
    ),
    plan=_sharpness_plan,
    measure=_sharpness,
    draw=_draw_sharpness,
    columns=_sharpness_columns,
  ),
  'landscape': Measurement(
    options=('along', 'dimensions', 'extent', 'points'),
    plan=_landscape_plan,
    measure=_landscape,
    draw=_draw_landscape,
    columns=_slice_columns,
  ),
  'interpolate': Measurement(
    options=('margin', 'points'),
    plan=lambda model, options: {'row': (options.points, 1)},
    measure=_interpolate,
    draw=_draw_interpolation,
    columns=_slice_columns,
    num_models=2,
  ),
}
