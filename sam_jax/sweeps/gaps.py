"""How well the runs of a sweep generalise, and how sharp their minima are.

Both are measured of the last checkpoint of each run, in evaluation mode, on the
data of the run: the training examples with the labels that it was trained on,
and the split that it was evaluated on. The gap is held out minus training: the
larger, the worse a run generalises.

Runs on other data, or of another task, are another problem: their gaps are not
compared.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sam_jax import tasks
from sam_jax.analysis import (
  pass_bar,
  result_files,
  sharpness as sharpness_lib,
  terms,
  trained,
)
from sam_jax.runs import lock
from sam_jax.sweeps import (
  cells as cells_lib,
  results,
  settings as settings_lib,
)

# Those of the paper's figure 3.
MS = (1, 4, 16, 64, 256)
_LOSS = tasks.Score('loss', 'loss')
# What a pass costs beside its examples, in examples: a guess, for the bar.
_OVERHEAD = 32


class Options(NamedTuple):
  """What is chosen about the measuring.

  Attributes:
    ms: examples per group of the sharpness; None is those of `MS` that fit.
    rho: radius of the ball, the same for all runs.
    groups: of each m at most, the same ones for every run.
    plugins: see `sam_jax.load`.
  """

  ms: tuple[int, ...] | None = None
  rho: float = 0.05
  groups: int = 128
  plugins: bool = True


@dataclasses.dataclass(frozen=True)
class Problem:
  """Settings on the same data.

  Attributes:
    fields: of the task and the data, those that tell this problem from others.
    settings: without replicas of the same seed.
  """

  fields: cells_lib.Fields
  settings: tuple[settings_lib.Setting, ...]

  @property
  def runs(self) -> list[results.FinishedRun]:
    """All runs of the settings."""
    return [run for setting in self.settings for run in setting.runs]

  @property
  def scores(self) -> list[tasks.Score]:
    """What there is a gap of: the score, and the loss if it is another one."""
    score = self.settings[0].score
    return [score] if score.metric == _LOSS.metric else [score, _LOSS]


@dataclasses.dataclass(frozen=True)
class Measured:
  """What was measured of a run.

  Attributes:
    sharpness: by m, in the units of the loss.
    train: metrics on the training examples, by name.
    held_out: metrics on the split of the run.
  """

  sharpness: Mapping[int, float]
  train: Mapping[str, float]
  held_out: Mapping[str, float]

  def gap(self, metric: str) -> float:
    """Returns by how much a metric is worse on the examples held out."""
    return self.held_out[metric] - self.train[metric]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Runs that are compared, and what was measured of them.

  Attributes:
    problems: at least one.
    measured: of all of their runs, by the run's directory.
    left_out: why other runs are left out, a line each.
  """

  problems: Sequence[Problem]
  measured: Mapping[str, Measured]
  left_out: Sequence[str]

  def of(self, runs: Iterable[results.FinishedRun]) -> list[Measured]:
    """Returns what was measured of some runs."""
    return [self.measured[str(run.workdir)] for run in runs]


def compare(
  runs: Sequence[results.FinishedRun],
  replicas: Sequence[str],
  options: Options,
) -> Comparison:
  """Measures the runs that can be compared; what was measured before is read.

  The results are kept in the runs' directories, where `analyze` keeps its own.
  A bar shows how far it is.

  Args:
    runs: finished ones.
    replicas: names of the fields that tell replicas apart.
    options: of the measuring.

  Raises:
    ValueError: there is nothing to compare, a number is not allowed, or another
      process measures a run.
  """
  sharpness_lib.Ball(options.rho).check()
  compared, refused = problems(runs, replicas)
  chosen = [run for problem in compared for run in problem.runs]
  measured, failed = _measure_all(chosen, options)
  if not measured:
    raise ValueError(
      f'none of the {len(chosen)} runs can be measured: {failed[0]}'
    )
  if failed:
    kept = [run for run in chosen if str(run.workdir) in measured]
    compared, refused = problems(kept, replicas)
  return Comparison(compared, measured, [*refused, *failed])


def problems(
  runs: Sequence[results.FinishedRun], replicas: Sequence[str]
) -> tuple[list[Problem], list[str]]:
  """Returns the problems with runs to compare, and a line for each other one.

  Args:
    runs: finished ones.
    replicas: names of the fields that tell replicas apart.

  Raises:
    ValueError: there is no such problem.
  """
  varied = [n for n in settings_lib.varying(runs, replicas) if _is_data(n)]
  members: dict[str, list[results.FinishedRun]] = {}
  for run in runs:
    members.setdefault(repr([run.fields.get(n) for n in varied]), []).append(
      run
    )
  found, refused = [], []
  for same in members.values():
    fields = {name: same[0].fields.get(name) for name in varied}
    problem = Problem(fields, tuple(settings_lib.group(same, replicas)))
    if reason := _refusal(problem, replicas):
      refused.append(reason)
    else:
      found.append(problem)
  if not found:
    raise ValueError(
      f'there is nothing to compare: {"; ".join(refused[:3])}; give a '
      'directory whose runs differ in a field of the method, the model or the '
      'training'
    )
  return found, refused


def _is_data(name: str) -> bool:
  """Returns whether a field says what a run is trained and evaluated on."""
  return results.is_within(name, 'task', 'data')


def _refusal(problem: Problem, replicas: Sequence[str]) -> str:
  """Returns why the runs of a problem cannot be compared, '' if they can."""
  fields = ', '.join(f'{k}={v}' for k, v in problem.fields.items())
  where = f' of {fields}' if fields else ''
  if len(problem.runs) == 1:
    return f'the finished runs{where} are one run, {problem.runs[0].workdir}'
  if len(problem.settings) == 1:
    return (
      f'the {len(problem.runs)} finished runs{where} differ in nothing but '
      f'{", ".join(replicas)}'
    )
  return ''


def _measure_all(
  runs: Sequence[results.FinishedRun], options: Options
) -> tuple[dict[str, Measured], list[str]]:
  """Returns what was measured, and why the other runs could not be."""
  measured: dict[str, Measured] = {}
  failed: list[str] = []
  with contextlib.ExitStack() as stack:
    bar = None
    for run in runs:
      try:
        train, held_out = _load(run, options)
      except (ValueError, FileNotFoundError) as error:
        failed.append(_named(run, error))
        continue
      ms = _fitting(train, run, options)
      if bar is None:
        plan = _plan(train, held_out, ms, options, len(runs))
        bar = stack.enter_context(
          contextlib.closing(pass_bar.PassBar('predictors', plan))
        )
      try:
        found = _measure(run, train, held_out, ms, options, bar)
      except lock.InUse:
        raise
      except ValueError as error:
        failed.append(_named(run, error))
      else:
        measured[str(run.workdir)] = found
  return measured, failed


def _load(
  run: results.FinishedRun, options: Options
) -> tuple[trained.Trained, trained.Trained]:
  """Returns the run with its training examples, and with those held out."""
  train, held_out = (
    trained.load(run.workdir, split=split, plugins=options.plugins)
    for split in ('train', run.split)
  )
  return train, held_out


def _fitting(
  train: trained.Trained, run: results.FinishedRun, options: Options
) -> list[int]:
  """Returns the m of a run.

  Raises:
    ValueError: one that was asked for is larger than the training set.
  """
  count = train.task.count(train.examples)
  if options.ms is None:
    return [m for m in MS if m <= count]
  for m in options.ms:
    if not 1 <= m <= count:
      raise ValueError(
        f'm is {m}; it must be in [1, {count}], the training examples of '
        f'{run.workdir}'
      )
  return list(options.ms)


def _plan(
  train: trained.Trained,
  held_out: trained.Trained,
  ms: Iterable[int],
  options: Options,
  num_runs: int,
) -> pass_bar.Plan:
  """Returns what all runs take if each is like this one."""
  count = train.task.count(train.examples)
  plan = {
    f'm={m}': (
      num_runs,
      3.0 * min(count // m, options.groups) * (m + _OVERHEAD),
    )
    for m in ms
  }
  total = count + held_out.task.count(held_out.examples)
  return plan | {'evaluation': (2 * num_runs, total + _OVERHEAD)}


def _measure(
  run: results.FinishedRun,
  train: trained.Trained,
  held_out: trained.Trained,
  ms: Sequence[int],
  options: Options,
  bar: pass_bar.PassBar,
) -> Measured:
  """Measures a run."""

  def result(
    name: str, kind: str, model: trained.Trained, chosen: terms.Options
  ) -> terms.Result:
    subject = result_files.Subject(run.workdir.name, run.workdir, [model])
    found = result_files.measure(name, subject, bar, chosen)
    bar.piece(kind, found.is_kept)
    return found.result

  metrics = [
    result('evaluation', 'evaluation', model, terms.Options(split=split))
    for model, split in ((train, 'train'), (held_out, run.split))
  ]
  sharpness = {
    m: result('sharpness', f'm={m}', train, _one_step(m, options)) for m in ms
  }
  return Measured(
    {
      m: found['measures']['one_ascent_step']['mean']
      for m, found in sharpness.items()
    },
    *(
      {name: number['mean'] for name, number in found['metrics'].items()}
      for found in metrics
    ),
  )


def _one_step(m: int, options: Options) -> terms.Options:
  """Returns the options of the paper's measure, and of no other."""
  return terms.Options(
    m=m, rho=options.rho, groups=options.groups, ascent_steps=0, samples=0
  )


def _named(run: results.FinishedRun, error: Exception) -> str:
  """Returns the message of an error, with the run's directory."""
  text = ' '.join(str(error).split())
  return text if str(run.workdir) in text else f'{run.workdir}: {text}'
