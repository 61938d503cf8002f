"""The search for rho: a grid of short runs on the validation split."""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from sam_jax import methods, tasks
from sam_jax.drawing import palette, sheet, words
from sam_jax.runs import config_files
from sam_jax.sweeps import (
  cells as cells_lib,
  results,
  run_files,
  statistics,
  tables,
)

_RHO = 'method.rho'
_RHO_MIN = 'method.rho_min'
# Fields that cannot be set for all runs, and what to do instead.
_OURS = {
  _RHO: 'give --rhos',
  'seed': 'give --seeds',
  'data.split': 'it is always validation',
}
_SHARE = 5  # a run has a fifth of the length of the config

Scores = Mapping[float, Sequence[float]]  # by rho, in the order of the seeds


def cells(
  config_file: str,
  rhos: Sequence[str],
  num_seeds: int,
  given: cells_lib.Fields,
) -> list[cells_lib.Fields]:
  """Returns the cells of a search.

  Args:
    config_file: its path, with an argument if any.
    rhos: values to try, as the user wrote them; 0 is always tried too.
    num_seeds: number of runs for each value.
    given: fields of the config to set for all runs.

  Raises:
    ValueError: a rho is no radius, a field is not to be set, or the config does
      not have it.
  """
  for name, instead in _OURS.items():
    if name in given:
      raise ValueError(f'{name} is not to be set here: {instead}')
  base = {cells_lib.CONFIG: config_file} | given
  # The directory of the runs does not matter here.
  config = cells_lib.config(base, pathlib.Path())
  _check_method(config)
  base |= _length(config, given)
  made = cells_lib.product(
    [base | {'data.split': 'validation'}],
    _perturbed_by(_radii(rhos), config.method.get('rho_min')),
    {'seed': range(num_seeds)},
  )
  cells_lib.check(cells_lib.Sweep(made))
  return made


def _radii(texts: Sequence[str]) -> list[float]:
  """Returns the values of rho to try, from 0 on."""
  rhos = sorted({_radius(text) for text in texts} | {0.0})
  if len(rhos) < 2:
    raise ValueError(f'--rhos is {",".join(texts)!r}; give values above 0')
  return rhos


def _radius(text: str) -> float:
  """Returns a value of rho."""
  try:
    rho = float(text)
  except ValueError as error:
    raise ValueError(f'--rhos has {text!r}, which is not a number') from error
  if not 0 <= rho < math.inf:
    raise ValueError(f'--rhos has {text}; rho is a radius, give numbers >= 0')
  return rho


def _perturbed_by(
  rhos: Sequence[float], rho_min: float | None
) -> list[cells_lib.Fields]:
  """Returns the fields of each rho.

  Args:
    rhos: to try, from 0 on.
    rho_min: of the config, to which the radius falls; there is none where the
      radius is 0 from the first step.
  """
  if rho_min is None:
    return [{_RHO: rho} for rho in rhos]
  for rho in rhos:
    if 0 < rho < rho_min:
      raise ValueError(
        f'--rhos has {rho:g}, which is below {_RHO_MIN} = {rho_min:g}; leave '
        f'it out, or give a smaller --set={_RHO_MIN}'
      )
  return [{_RHO: rho} | ({} if rho else {_RHO_MIN: None}) for rho in rhos]


def _check_method(config: ml_collections.ConfigDict) -> None:
  """Refuses a method that has no rho."""
  config_files.load_plugins(config)
  name = config.method.name
  options = methods.options(name)
  if options is not None and 'rho' not in options:
    raise ValueError(
      f'method {name!r} has no rho; choose another by --set=method.name=sam'
    )


def _length(
  config: ml_collections.ConfigDict, given: cells_lib.Fields
) -> cells_lib.Fields:
  """Returns the length of each run, unless it is given."""
  if 'num_epochs' in given and config.num_steps is not None:
    raise ValueError(
      f'num_steps is {config.num_steps}, so --set=num_epochs changes nothing; '
      'give --set=num_steps'
    )
  if 'num_epochs' in given or 'num_steps' in given:
    return {}
  name = 'num_epochs' if config.num_steps is None else 'num_steps'
  return {name: max(1, config[name] // _SHARE)}


def read(
  made: Iterable[cells_lib.Fields], directory: pathlib.Path
) -> tuple[Scores, tasks.Score]:
  """Returns what the finished cells of a search found, and its unit."""
  found: dict[float, list[float]] = {}
  score: tasks.Score | None = None
  for cell in made:
    workdir = cells_lib.workdir(cell, directory)
    result = run_files.read_result(workdir)
    if result is None:
      raise ValueError(f'{cells_lib.cell_name(cell)} is not finished')
    found.setdefault(cell[_RHO], []).append(result[results.FINAL])
    score = tasks.Score(**result['score'])
  if score is None:
    raise ValueError('there are no cells')
  return found, score


def table(found: Scores, score: tasks.Score) -> str:
  """Returns the validation scores by rho, for people."""
  heading = f'validation {score.heading()}'
  lines = [f'{"rho":>6}{heading:>26}{"n":>4}']
  for rho, values in found.items():
    estimate = statistics.estimate(values)
    shown = tables.interval(estimate, score)
    lines.append(f'{rho:>6g}{shown:>26}{estimate.n:>4}')
  return '\n'.join(lines)


def best_rho(found: Scores) -> float:
  """Returns the rho of the lowest mean score, the smallest of equal ones."""
  return min(found, key=lambda rho: (statistics.estimate(found[rho]).mean, rho))


def recommend(found: Scores) -> str:
  """Returns what to do, in a line or two."""
  best = best_rho(found)
  if best == 0:
    text = 'no rho of these is better than none at all (rho = 0)'
  else:
    text = f'best on the validation split: rho = {best:g}'
  alike = ', '.join(f'{rho:g}' for rho in _alike(found, best))
  if alike:
    text += f'; cannot be told apart from it: {alike}'
  if best == max(found):
    text += '\nit is the largest that was tried: try larger ones by --rhos'
  return text


def _alike(found: Scores, best: float) -> list[float]:
  """Returns the other rhos whose score is no worse, as far as one can tell.

  That is told by the differences between runs of the same seed.
  """
  alike = []
  for rho, scores in found.items():
    pairs = zip(scores, found[best], strict=True)
    difference = statistics.estimate([a - b for a, b in pairs])
    # One run tells nothing: its half width is not a number.
    if rho != best and not difference.mean > difference.half_width:
      alike.append(rho)
  return alike


def draw(
  found: Scores,
  score: tasks.Score,
  method: str,
  title: str,
  path: pathlib.Path,
) -> None:
  """Draws the scores against rho; without a perturbation it is a line.

  Args:
    found: scores by rho.
    score: has the unit.
    method: name of the method; it has the colour.
    title: what was searched for; a line about the seeds is added.
    path: of the PNG.
  """
  what = f'validation {score.label}'
  title = (
    f'{title}: {what} against rho\n{words.seeds(map(len, found.values()))}'
  )
  with sheet.picture(path, (6, 4), title) as (figure, [[axes]]):
    ends = _plot_plain(axes, found[0.0], score)
    rhos = [rho for rho in found if rho > 0]
    estimates = [statistics.estimate(found[rho]) for rho in rhos]
    interval = sheet.interval(
      [e.mean for e in estimates], [e.half_width for e in estimates], score
    )
    [style] = palette.styles([method])
    sheet.errorbars(axes, rhos, interval, (0, 1), label=method, **style)
    best = best_rho(found)
    if best > 0:
      axes.axvline(
        best, color='gray', linestyle=':', label=f'best: rho = {best:g}'
      )
    axes.set_xscale('log')
    axes.set_xticks(rhos, [f'{rho:g}' for rho in rhos])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(words.axis(_RHO))
    axes.set_ylabel(sheet.plain(score.heading(what)))
    means = [*interval[0], ends[0]]
    sheet.scale(axes, means, ends=[*np.ravel(interval), *ends], on='y')
    sheet.legend(figure, axes)


def _plot_plain(
  axes: Any, scores: Sequence[float], score: tasks.Score
) -> tuple[float, float, float]:
  """Draws the scores without a perturbation; returns mean and interval."""
  plain = statistics.estimate(scores)
  middle, low, high = map(
    float, sheet.interval(plain.mean, plain.half_width, score)
  )
  style = {'color': palette.color('sgd')}
  axes.axhline(middle, label='rho = 0 (no perturbation)', **style)
  axes.axhspan(low, high, alpha=0.12, linewidth=0, **style)
  return middle, low, high
