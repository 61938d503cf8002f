"""Measures by how much the loss of m examples rises within a ball."""

import math
import pathlib
from collections.abc import Callable, Mapping

from sam_jax.analysis import (
  figures,
  objective as objective_lib,
  pass_bar,
  sharpness,
  terms,
  trained,
  units,
)
from sam_jax.drawing import words

_NORMS = {'l2': 2.0, 'linf': math.inf}


def _m(model: trained.Trained, options: terms.Options) -> int:
  return model.config.m if options.m is None else options.m


def _groups(
  model: trained.Trained, options: terms.Options
) -> list[objective_lib.Batches]:
  m = _m(model, options)
  return model.groups(m, seed=options.seed, max_groups=options.groups)


def _sharpness_plan(
  model: trained.Trained, options: terms.Options
) -> pass_bar.Plan:
  count = len(_groups(model, options))
  plan = {'one-worst': (count, 2)}
  if options.ascent_steps:
    passes = options.restarts * (options.ascent_steps + 1)
    plan['ascent-worst'] = (count, passes)
  if options.samples:
    plan['random-average'] = (count, 1 + options.samples)
  return plan


def _sharpness(
  models: terms.Models,
  options: terms.Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> terms.Result:
  """Measures m-sharpness, by up to three measures on the same groups."""
  model, groups = models[0], _groups(models[0], options)
  m = _m(model, options)
  eta = options.eta if options.adaptive else None
  ball = sharpness.Ball(options.rho, _NORMS[options.norm], eta)
  objective = model.objective(group_size=m, on_pass=on_pass)
  given = (objective, model.params, groups, ball)

  def within(prefix: str) -> units.Unit:
    return lambda name, fn: unit(f'{prefix}-{name}', fn)

  found = {'one_ascent_step': sharpness.worst_case(*given, unit=within('one'))}
  if options.ascent_steps:
    found['projected_ascent'] = sharpness.worst_case(
      *given,
      steps=options.ascent_steps,
      restarts=options.restarts,
      seed=options.seed,
      unit=within('ascent'),
    )
  if options.samples:
    found['random_directions'] = sharpness.average_case(
      *given,
      num_samples=options.samples,
      seed=options.seed,
      unit=within('random'),
    )
  measures = {name: value._asdict() for name, value in found.items()}
  return {'m': m, 'num_groups': len(groups), 'measures': measures}


def _draw_sharpness(
  path: pathlib.Path,
  results: Mapping[str, terms.Result],
  subjects: figures.Subjects,
  options: terms.Options,
) -> None:
  measures = {label: r['measures'] for label, r in results.items()}
  label = 'rise of the loss'
  figures.bars(
    path,
    measures,
    subjects,
    _heading(results, subjects, options),
    {name: label for r in measures.values() for name in r},
  )


def _heading(
  results: Mapping[str, terms.Result],
  subjects: figures.Subjects,
  options: terms.Options,
) -> str:
  """Returns the title: what is measured, and what the error bars are."""
  stretched = ', stretched by the weights' if options.adaptive else ''
  norm = {'l2': 'L2', 'linf': 'L-infinity'}[options.norm]
  ball = f'{norm} ball of rho = {options.rho:g}{stretched}'
  m = words.join(str(r['m']) for r in results.values())
  groups = words.join(str(r['num_groups']) for r in results.values())
  what = f'rise of the {{split}} loss within the {ball}, m = {m}'
  return (
    f'{figures.title(subjects, options, what)}; mean over {groups} groups of '
    'm examples, error bars: ± one standard error of this mean'
  )


def _sharpness_columns(result: terms.Result) -> dict[str, float]:
  means = {name: f['mean'] for name, f in result['measures'].items()}
  return {'m': result['m'], 'groups': result['num_groups'], **means}


SHARPNESS = terms.Measurement(
  options=(
    *('m', 'rho', 'norm', 'adaptive', 'eta'),
    *('ascent_steps', 'restarts', 'samples', 'groups'),
  ),
  plan=_sharpness_plan,
  measure=_sharpness,
  draw=_draw_sharpness,
  columns=_sharpness_columns,
)
