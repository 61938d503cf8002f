"""Measures the loss and the score on all examples of a split, as they are."""

import functools
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from sam_jax import tasks
from sam_jax.analysis import (
  figures,
  pass_bar,
  terms,
  trained,
  units,
)
from sam_jax.drawing import words


def _names(model: trained.Trained) -> list[str]:
  """Returns the metrics: the loss, and the score if it is another one."""
  return list(dict.fromkeys(['loss', model.task.score.metric]))


def _plan(model: trained.Trained, options: terms.Options) -> pass_bar.Plan:
  del options
  return {'metric': (len(_names(model)), 1)}


def _evaluate(
  models: terms.Models,
  options: terms.Options,
  unit: units.Unit,
  on_pass: Callable[[int], None],
) -> terms.Result:
  """Measures the mean of each metric."""
  del options
  (model,) = models

  def mean(name: str) -> units.Result:
    objective = model.objective(model.metric(name), on_pass=on_pass)
    return {'mean': np.array(objective.value(model.variables))}

  found = {}
  for i, name in enumerate(_names(model)):
    piece = unit(f'metric-{i}', functools.partial(mean, name))
    found[name] = {'mean': float(piece['mean'])}
  return {'metrics': found, 'examples': model.task.count(model.examples)}


def _draw(
  path: pathlib.Path,
  results: Mapping[str, terms.Result],
  subjects: figures.Subjects,
  options: terms.Options,
) -> None:
  scores = [models[0].task.score for models in subjects.values()]
  scaled = {
    label: _in_units(result['metrics'], score)
    for (label, result), score in zip(results.items(), scores, strict=True)
  }
  split = words.split(options.split)
  score = scores[0]
  labels = {'loss': f'{split} loss'} | {
    score.metric: score.heading(f'{split} {score.label}')
  }
  what = words.join(['loss', score.label])
  heading = figures.title(subjects, options, f'{{split}} {what}')
  figures.bars(path, scaled, subjects, heading, labels)


def _in_units(
  metrics: Mapping[str, Mapping[str, float]], score: tasks.Score
) -> dict[str, dict[str, float]]:
  """Returns the means as people read them."""
  scales = {score.metric: score.scale}
  return {
    name: {'mean': scales.get(name, 1.0) * found['mean']}
    for name, found in metrics.items()
  }


def _columns(result: terms.Result) -> dict[str, float]:
  means = {name: found['mean'] for name, found in result['metrics'].items()}
  return means | {'examples': result['examples']}


EVALUATION = terms.Measurement(
  options=(),
  plan=_plan,
  measure=_evaluate,
  draw=_draw,
  columns=_columns,
)
