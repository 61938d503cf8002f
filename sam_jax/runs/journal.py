"""The journal of a run: what is remembered from step to step, and written.

Means over epochs, the best score, warnings, the lines that people read, and in
the end result.json. What is remembered is part of every checkpoint.
"""

import itertools
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import ml_collections

from sam_jax import tasks
from sam_jax.runs import (
  build,
  callbacks,
  checkpoints,
  metrics_log,
  misuse,
  progress_line,
  provenance,
  workdir as workdir_lib,
)
from sam_jax.training import diagnostics, parallel


class StepValues(NamedTuple):
  """The metrics of a step as numbers, see `diagnostics.Metrics`.

  Attributes:
    step: of every step.
    perturbed: of the perturbation; empty if no group was perturbed.
    share: of the groups that were perturbed.
    skipped: 1 if the step was not finite and left no trace, else 0.
  """

  step: dict[str, float]
  perturbed: dict[str, float]
  share: float
  skipped: float = 0.0

  @classmethod
  def of(cls, metrics: diagnostics.Metrics) -> Self:
    """Returns the numbers of metrics that are on the host."""
    values = cls(*jax.tree.map(float, metrics))
    values = values._replace(skipped=values.skipped or 0.0)
    return values if values.share > 0 else values._replace(perturbed={})

  @property
  def all(self) -> dict[str, float]:
    """Those of the step and of the perturbation."""
    return {**self.step, **self.perturbed}

  @property
  def broken(self) -> str:
    """Names of those that are not finite, separated by commas."""
    names = [n for n, value in self.all.items() if not math.isfinite(value)]
    return ', '.join(names)


class Journal:
  """Remembers and writes what happens in a run. Close it when done.

  Attributes:
    state: what is remembered, for checkpoints.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    experiment: build.Experiment,
    workdir: pathlib.Path,
    state: checkpoints.JournalState,
    told: Sequence[callbacks.Callback] = (),
  ) -> None:
    """Opens what the run writes to, from the step on where it is resumed.

    Args:
      config: of the run.
      experiment: its objects.
      workdir: run directory.
      state: of the checkpoint that the run is resumed from, else a new one.
      told: callbacks, which are told of lines and evaluations.
    """
    self.state = state
    self._config = config
    self._experiment = experiment
    self._workdir = workdir
    self._started = self._epoch_started = time.monotonic()
    self._logged_step = state.step
    self._has_compiled = False
    self._told = told
    self._writer = _open_writer(workdir, state)
    self._line = progress_line.ProgressLine(
      task=experiment.task,
      start_step=state.step,
      num_steps=experiment.num_steps,
      batch_size=config.batch_size,
      seconds=config.log.progress_seconds,
      quiet=not parallel.is_first_process(),
    )
    self._watch = misuse.Watch(config, state.said, self._line.line)
    # Now: by the end of the run the checkout may be another one.
    this_start = provenance.describe()
    if state.starts[-1:] != [this_start]:
      state.starts.append(this_start)
    self._note_settings()

  def announce(self, num_parameters: int) -> None:
    """Prints what is about to run."""
    config, experiment = self._config, self._experiment
    self._line.line(
      f'{config.method.name} on {config.data.name}: '
      f'{config.model.name} with {num_parameters:,} parameters, '
      f'{_steps(experiment.num_steps, self.state.step)}'
    )
    self._line.line(experiment.layout.describe())
    self._watch.start()
    if self.state.step < experiment.num_steps:
      self._line.compiling()

  def add_step(self, step: int, values: StepValues) -> None:
    """Takes note of a step."""
    state = self.state
    state.skipped_in_a_row = 0
    _add(state.metric_sums, values.step, 1.0)
    state.metric_count += 1
    _add(state.perturbed_sums, values.perturbed, values.share)
    state.perturbed_weight += values.share
    self._watch.step(values.perturbed)
    self._leave_out_compilation(step)
    self._line.step(step, values.all)
    every = self._config.log.every_steps
    if every and step % every == 0:
      line = {f'step/{name}': value for name, value in values.all.items()}
      self._write(step, line)

  def say(self, text: str) -> None:
    """Prints a line for the person who watches."""
    self._line.line(text)

  def announce_trace(self, steps: range) -> None:
    """Says which steps are traced, and what that does to the rate.

    Args:
      steps: take longer than others do.
    """
    ends = [str(step) for step in steps if self.ends_epoch(step)]
    effect = 'examples_per_second of this epoch leaves them out'
    if ends:
      which = f'the epoch that ends with step {ends[0]}'
      if len(ends) > 1:
        which = f'the epochs that end with the steps {", ".join(ends)}'
      effect = f'they are slower, and so is examples_per_second of {which}'
    self.say(f'profile: tracing the steps {steps[0]} to {steps[-1]}; {effect}')

  def ends_epoch(self, step: int) -> bool:
    """Whether an epoch is logged after a step; the last one may be a part."""
    is_last = step == self._experiment.num_steps
    return is_last or step % self._experiment.steps_per_epoch == 0

  def leave_out(self, step: int) -> None:
    """Counts the rate of the epoch from the end of a step on, if it has more.

    Args:
      step: the last one that was made.
    """
    if not self.ends_epoch(step):
      self._epoch_started, self._logged_step = time.monotonic(), step

  def add_skipped(self, step: int, values: StepValues) -> int:
    """Takes note of a step that was skipped; returns how many in a row."""
    state, limit = self.state, self._config.max_skipped_steps
    self._leave_out_compilation(step)
    state.skipped_steps += 1
    state.skipped_in_a_row += 1
    in_a_row = state.skipped_in_a_row
    if in_a_row <= limit:
      what = values.broken or 'statistics of BatchNorm'
      self._line.line(
        f'step {step}: {what} not finite; the step is skipped, {in_a_row} in a '
        f'row (at most {limit})'
      )
    self._watch.failed(values.step, values.perturbed)
    return in_a_row

  def add_epoch(
    self, step: int, means: Mapping[str, Mapping[str, float]]
  ) -> bool:
    """Logs an epoch that ends with a step.

    Args:
      step: its last step.
      means: metrics of the evaluations by split; empty without an evaluation.

    Returns:
      Whether the score is better than any before.
    """
    line = self._train_means()
    for split, values in means.items():
      line |= {f'{split}/{name}': value for name, value in values.items()}
    if self._config.on_nonfinite == 'skip':
      line['train/skipped_steps'] = self.state.skipped_steps
    line['examples_per_second'] = self._rate(step)
    self._write(step, line)
    self._line.line(self._epoch_line(step, line))
    if not means:
      return False
    for callback in self._told:
      callback.on_evaluation(step, means)
    metric = self._experiment.task.score.metric
    return self._is_best(step, means[self._config.data.split][metric])

  def sync(self, step: int) -> None:
    """Returns when all is on disk that precedes the checkpoint of a step."""
    self.state.step = step
    self._count_time()
    self._writer.sync()
    self.state.rows, self.state.rows_checksum = self._writer.rows

  def finish(self, num_parameters: int) -> dict[str, Any]:
    """Writes result.json, and returns what it holds."""
    self._count_time()
    state, experiment = self.state, self._experiment
    per_step = experiment.fns.method.gradient_evaluations
    result = {
      'steps': experiment.num_steps,
      'epochs': self._epoch(experiment.num_steps),
      'data': experiment.dataset.name,
      'split': self._config.data.split,
      'score': experiment.task.score._asdict(),
      'final_score': state.final_score,
      'best_score': state.best_score,
      'best_step': state.best_step,
      'wall_seconds': state.elapsed_seconds,
      # Examples put through a forward and backward pass, per batch size.
      'gradient_evaluations': per_step * experiment.num_steps,
      'parameters': num_parameters,
      'skipped_steps': state.skipped_steps,
      'changes': _changes(state.settings),
      **state.starts[-1],
      'starts': state.starts,
    }
    if parallel.is_first_process():
      workdir_lib.write_result(self._workdir, result)
    self._line.line(f'finished: {summary(result)}')
    return result

  def close(self) -> None:
    """Closes the files, and takes the progress line away."""
    self._writer.close()
    self._line.close()

  def _write(self, step: int, line: Mapping[str, float]) -> None:
    """Logs a line."""
    epoch = self._epoch(step)
    self._writer.write(step, epoch, line)
    for callback in self._told:
      callback.on_line(step, epoch, line)

  def _note_settings(self) -> None:
    """Takes note of fields that have been changed within the run."""
    history, now = self.state.settings, workdir_lib.settings(self._config)
    if not history or history[-1] != {'step': history[-1]['step'], **now}:
      history.append({'step': self.state.step, **now})

  def _train_means(self) -> dict[str, float]:
    """Returns the means since the epoch began, and begins another one."""
    state = self.state
    means = _divide(state.metric_sums, state.metric_count)
    means |= _divide(state.perturbed_sums, state.perturbed_weight)
    if 0 < state.perturbed_weight < state.metric_count:
      means['perturbed_share'] = state.perturbed_weight / state.metric_count
    state.metric_sums, state.metric_count = {}, 0
    state.perturbed_sums, state.perturbed_weight = {}, 0.0
    return {f'train/{name}': value for name, value in means.items()}

  def _leave_out_compilation(self, step: int) -> None:
    """Counts the rate of the first epoch from the end of its first step on.

    An epoch of one step has no other one to be counted.
    """
    if not self._has_compiled:
      self.leave_out(step)
    self._has_compiled = True

  def _rate(self, step: int) -> float:
    """Returns examples per second since the last epoch, or the first step."""
    now = time.monotonic()
    # Not metric_count: some of the epoch's steps may be of an earlier start.
    examples = (step - self._logged_step) * self._config.batch_size
    seconds = now - self._epoch_started
    self._epoch_started, self._logged_step = now, step
    return examples / seconds

  def _epoch(self, step: int) -> float:
    """Returns the epochs that are over after a step."""
    return step / self._experiment.steps_per_epoch

  def _epoch_line(self, step: int, line: Mapping[str, float]) -> str:
    """Returns what a person wants to know of an epoch."""
    task, split = self._experiment.task, self._config.data.split
    score = task.score
    shown = [f'train/{name}' for name in (*task.shown, 'sharpness')]
    shown += [f'train/{score.metric}']
    shown += [f'{split}/{name}' for name in (*task.shown, score.metric)]
    parts = [
      f'{name} {score.text(line[name])}'
      if name.endswith(f'/{score.metric}')
      else f'{name} {line[name]:.4f}'
      for name in dict.fromkeys(shown)
      if name in line
    ]
    return f'epoch {self._epoch(step):g}: ' + ', '.join(parts)

  def _is_best(self, step: int, score: float) -> bool:
    """Takes note of a score; returns whether it is the best so far."""
    state = self.state
    state.final_score = score
    best = math.nan if state.best_score is None else state.best_score
    # Anything is better than NaN, and NaN better than nothing.
    is_first = state.best_score is None or math.isnan(best) > math.isnan(score)
    if not (score < best or is_first):
      return False
    state.best_score, state.best_step = score, step
    return True

  def _count_time(self) -> None:
    """Adds the time since it was last counted."""
    now = time.monotonic()
    self.state.elapsed_seconds += now - self._started
    self._started = now


def _steps(total: int, made: int) -> str:
  """Returns how many steps a run has, and how many are left of them."""
  if not made:
    return f'{total} steps'
  return f'{total} steps, of which {made} were made before'


def summary(result: Mapping[str, Any]) -> str:
  """Returns what result.json holds in one line."""
  score = tasks.Score(**result['score'])
  return (
    f'{result["split"]} {score.label} {score.text(result["final_score"])} at '
    f'the end, {score.text(result["best_score"])} at best (step '
    f'{result["best_step"]}), {result["steps"]} steps in '
    f'{result["wall_seconds"]:.0f} s'
  )


def _changes(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Returns what was changed within a run, and after which step."""
  return [
    {'step': new['step'], 'field': name, 'from': old.get(name), 'to': value}
    for old, new in itertools.pairwise(history)
    for name, value in new.items()
    if name != 'step' and value != old.get(name)
  ]


def _open_writer(
  workdir: pathlib.Path, state: checkpoints.JournalState
) -> metrics_log.MetricWriter | metrics_log.NoWriter:
  """Returns where metrics go; of several processes the first one writes."""
  if not parallel.is_first_process():
    return metrics_log.NoWriter()
  rows = metrics_log.Rows(state.rows, state.rows_checksum)
  return metrics_log.MetricWriter(workdir, rows)


def _add(
  sums: dict[str, float], values: Mapping[str, float], weight: float
) -> None:
  """Adds values to sums."""
  for name, value in values.items():
    sums[name] = sums.get(name, 0.0) + weight * value


def _divide(sums: Mapping[str, float], weight: float) -> dict[str, float]:
  """Returns means; none of nothing."""
  return {name: total / weight for name, total in sums.items()}
