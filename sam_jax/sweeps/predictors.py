"""What predicts generalisation: m-sharpness against the gaps of a sweep's runs.

The question of the paper's figure 3, right. Each run is one model. How well a
measure predicts is said by Kendall's tau and by the conditional mutual
information of the competition PGDL, see `agreement`. The hyper-parameters are
the fields that the sweep varies, but for those that tell replicas apart.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence

from sam_jax import tasks
from sam_jax.sweeps import (
  agreement,
  cells as cells_lib,
  gaps,
  settings as settings_lib,
  statistics,
  tables,
)

_SHARPNESS = tasks.Score('sharpness', 'sharpness')


@dataclasses.dataclass(frozen=True)
class Prediction:
  """How well the m-sharpness for one m predicts one gap, in one problem.

  Attributes:
    problem: whose runs are compared.
    score: that the gap is of.
    m: of the sharpness.
    sharpness: of each run.
    gap: of each run, in the unit of the metric.
    methods: of each run, by name.
    tau: Kendall's.
    information: the conditional mutual information.
  """

  problem: gaps.Problem
  score: tasks.Score
  m: int
  sharpness: tuple[float, ...]
  gap: tuple[float, ...]
  methods: tuple[str, ...]
  tau: agreement.Tau
  information: agreement.Information


def predict(
  comparison: gaps.Comparison, replicas: Sequence[str]
) -> list[Prediction]:
  """Returns the predictions of all problems, gaps and m, in this order.

  Args:
    comparison: of runs.
    replicas: names of the fields that tell replicas apart.
  """
  return [
    _prediction(problem, score, m, found, replicas)
    for problem in comparison.problems
    for found in [comparison.of(problem.runs)]
    for score in problem.scores
    for m in found[0].sharpness  # all runs of a problem have the same
  ]


def _prediction(
  problem: gaps.Problem,
  score: tasks.Score,
  m: int,
  found: Sequence[gaps.Measured],
  replicas: Sequence[str],
) -> Prediction:
  """Returns one prediction; `found` is of the runs of the problem."""
  sharpness = tuple(each.sharpness[m] for each in found)
  gap = tuple(each.gap(score.metric) for each in found)
  hyper_parameters = {
    name: [repr(run.fields.get(name)) for run in problem.runs]
    for name in settings_lib.varying(problem.runs, replicas)
  }
  return Prediction(
    problem,
    score,
    m,
    sharpness,
    gap,
    tuple(run.fields['method.name'] for run in problem.runs),
    agreement.kendall(sharpness, gap),
    agreement.information(sharpness, gap, hyper_parameters),
  )


def gap_heading(problem: gaps.Problem, score: tasks.Score) -> str:
  """Returns what a gap is called: 'test - train error, %'."""
  split = problem.settings[0].split
  named = score._replace(label=f'{split} - train {score.label}')
  return named.heading()


def write(
  directory: pathlib.Path,
  comparison: gaps.Comparison,
  predictions: Sequence[Prediction],
) -> Iterator[str]:
  """Writes all tables; yields what there is to print, a text at a time.

  Args:
    directory: where `gaps.*`, `gaps_of_runs.*` and `predictors.*` are written.
    comparison: of runs.
    predictions: of this comparison.
  """
  rows = [
    _shown(problem.fields | setting.shown)
    | {'n': str(len(setting.runs))}
    | _numbers(problem, comparison.of(setting.runs))
    for problem in comparison.problems
    for setting in problem.settings
  ]
  remarks = list(
    tables.remarks_on_data(
      [each for problem in comparison.problems for each in problem.settings]
    )
  )
  yield from remarks
  yield tables.write_rows(directory / 'gaps', rows, remarks)
  yield '\nHow well the sharpness predicts the gap, run by run:\n'
  rows = [_row(prediction) for prediction in predictions]
  yield tables.write_rows(directory / 'predictors', rows, remarks)
  rows = [
    {'run': run.workdir.name}
    | _shown(problem.fields | setting.shown)
    | _numbers(problem, comparison.of([run]))
    for problem in comparison.problems
    for setting in problem.settings
    for run in setting.runs
  ]
  tables.write_rows(directory / 'gaps_of_runs', rows, remarks)


def _numbers(
  problem: gaps.Problem, found: Sequence[gaps.Measured]
) -> tables.Row:
  """Returns the columns of what was measured of runs of a setting."""

  def mean(values: Sequence[float], score: tasks.Score) -> str:
    return tables.interval(statistics.estimate(values), score)

  row = {
    gap_heading(problem, score): mean(
      [each.gap(score.metric) for each in found], score
    )
    for score in problem.scores
  }
  return row | {
    f'sharpness, m={m}': mean([e.sharpness[m] for e in found], _SHARPNESS)
    for m in found[0].sharpness
  }


def _row(prediction: Prediction) -> tables.Row:
  """Returns the columns of a prediction."""
  found = prediction.information
  return _shown(prediction.problem.fields) | {
    'gap': gap_heading(prediction.problem, prediction.score),
    'sharpness': f'm={prediction.m}',
    'runs': str(len(prediction.gap)),
    "Kendall's tau": number(prediction.tau.value, '+.3f'),
    'p': number(prediction.tau.p_value, '.2g'),
    'CMI': number(found.value, '.3f'),
    'CMI by chance': number(found.chance, '.3f'),
    'CMI given': ', '.join(found.given) or '-',
  }


def _shown(fields: cells_lib.Fields) -> tables.Row:
  """Returns the columns of fields."""
  return {name: '-' if v is None else str(v) for name, v in fields.items()}


def number(value: float, digits: str) -> str:
  """Returns a number for people, '-' where there is none.

  Args:
    value: NaN is none.
    digits: a format, such as '.3f'.
  """
  return '-' if math.isnan(value) else format(value, digits)
