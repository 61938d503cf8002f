"""Measures the loss and the score on all examples of a split, as they are."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax.analysis import (
  figures,
  objective as objective_lib,
  pass_bar,
  terms,
  trained,
  units,
)


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
    def of_examples(variables: Any, batch: objective_lib.Batch) -> jax.Array:
      values = model.metrics(variables, batch)[name]
      # A user's metric may be a truth value.
      return values.astype(jnp.promote_types(values.dtype, jnp.float32))

    objective = model.objective(of_examples, on_pass=on_pass)
    return {'mean': np.array(objective.value(model.variables))}

  found = {}
  for i, name in enumerate(_names(model)):
    piece = unit(f'metric-{i}', functools.partial(mean, name))
    found[name] = {'mean': float(piece['mean'])}
  return {'metrics': found, 'examples': model.task.count(model.examples)}


def _draw(
  path: pathlib.Path,
  results: Mapping[str, terms.Result],
  options: terms.Options,
) -> None:
  del options
  figures.bars(path, {k: r['metrics'] for k, r in results.items()}, '')


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
