"""Measures the Hessian: eigenvalues, trace, spectral density."""

import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax import flatten_util

from sam_jax import types
from sam_jax.analysis import (
  figures,
  hessian,
  objective as objective_lib,
  pass_bar,
  terms,
  trained,
  units,
)


def _hessian_plan(
  model: trained.Trained, options: terms.Options
) -> pass_bar.Plan:
  del model
  smallest = {'smallest': (1, terms.EIGENPAIRS_COST)}
  return {
    'eigenpairs': (1, terms.EIGENPAIRS_COST),
    **(smallest if options.k_smallest else {}),
    'trace': (options.trace_probes, 1),
    'spectrum': (options.probes, options.lanczos_steps),
  }


def _hessian(
  models: terms.Models,
  options: terms.Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> terms.Result:
  params = models[0].params
  objective = models[0].objective(on_pass=on_pass)
  values, _ = eigenpairs(objective, params, options.k, options.seed, unit)
  smallest: list[float] = []
  if options.k_smallest:
    smallest = _smallest(objective, params, options, unit)
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
    'smallest_eigenvalues': smallest,
    'trace': trace.mean,
    'trace_standard_error': trace.standard_error,
    **spectrum._asdict(),
  }


def _smallest(
  objective: objective_lib.Objective,
  params: types.Params,
  options: terms.Options,
  unit: units.Unit,
) -> list[float]:
  """Returns the smallest eigenvalues, the smallest first, as one piece."""

  def compute() -> dict[str, np.ndarray]:
    found = hessian.bottom_eigenpairs(
      objective, params, options.k_smallest, seed=options.seed
    )
    return {'values': found.values}

  return unit('smallest', compute)['values'].tolist()


def eigenpairs(
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
  path: pathlib.Path,
  results: Mapping[str, terms.Result],
  subjects: figures.Subjects,
  options: terms.Options,
) -> None:
  what = 'spectral density of the Hessian of the {split} loss'
  heading = figures.title(subjects, options, what)
  figures.spectra(path, results, subjects, heading)


def _hessian_columns(result: terms.Result) -> dict[str, float]:
  values = result['eigenvalues']
  columns = {'lambda_max': values[0]}
  if len(values) >= 5:
    columns['lambda_max/lambda_5'] = values[0] / values[4]
  if result['smallest_eigenvalues']:
    columns['lambda_min'] = result['smallest_eigenvalues'][0]
  columns['trace'] = result['trace']
  error = result['trace_standard_error']
  return columns if error is None else columns | {'+- of trace': error}


HESSIAN = terms.Measurement(
  options=('k', 'k_smallest', 'trace_probes', 'probes', 'lanczos_steps'),
  plan=_hessian_plan,
  measure=_hessian,
  draw=_draw_hessian,
  columns=_hessian_columns,
)
