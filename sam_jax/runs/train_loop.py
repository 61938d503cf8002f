"""The loop: train, evaluate, log, checkpoint, go on after an interruption.

The loop never waits for the device in order to log: it dispatches step t + 1
before it reads the metrics of step t, and what an evaluation found is read
while training goes on.
"""

import collections
import contextlib
import math
import pathlib
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from sam_jax import datasets, types
from sam_jax.runs import (
  checkpoints as checkpoints_lib,
  evaluation,
  experiment as experiment_lib,
  interrupts,
  metrics_log,
  preparation,
  progress_line,
  provenance,
  workdir as workdir_lib,
)
from sam_jax.training import parallel, train_step

# Below, rounding adds more to the perturbation than is left of it: sqrt(1/2).
_POOR_COSINE = 0.7
# Steps that may be under way before the metrics of the oldest are read.
_MAX_PENDING = 2
# Steps after which processes ask each other whether to stop; they wait for it.
_AGREE_EVERY = 20


class TrainingFailed(RuntimeError):
  """The loss or the gradient is not finite."""


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> dict[str, Any]:
  """Trains a model, or goes on with it, and returns what result.json holds.

  Args:
    config: see configs/default.py.
    workdir: run directory, made if it does not exist.

  Returns:
    final and best error rate, steps, wall time and more, see `_Loop._finish`.

  Raises:
    ValueError: a value of the config is not allowed, or the directory holds
      another run; nothing was written.
    FileNotFoundError: the data set is not there.
    TrainingFailed: the loss is not finite; the last checkpoint is kept.
    interrupts.Interrupted: SIGTERM or SIGINT came; a checkpoint was written.
  """
  return train(preparation.prepare(config, pathlib.Path(workdir)))


def train(prepared: preparation.Prepared) -> dict[str, Any]:
  """Makes the steps of a prepared run that are left, see above."""
  if prepared.result is not None:
    print(f'{prepared.workdir} is finished: {_summary(prepared.result)}')
    return prepared.result
  loop = _Loop(prepared.config, prepared.experiment, prepared.workdir)
  try:
    return loop.run(prepared.state)
  finally:
    loop.close()


class _Loop:
  """One run on its way: the mutable part, around pure steps."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    experiment: experiment_lib.Experiment,
    workdir: pathlib.Path,
  ) -> None:
    self._config = config
    self._experiment = experiment
    self._workdir = workdir
    self._parallel = experiment.parallel
    self._eval_step = experiment.compile_eval_step()
    # Copies are taken where a step is about to overwrite what it donates.
    self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
    per_epoch = experiment.steps_per_epoch
    self._checkpoints = checkpoints_lib.Checkpoints(
      workdir / 'checkpoints',
      max_to_keep=config.checkpoint.max_to_keep,
      keep_best=config.checkpoint.keep_best,
      keep_steps=tuple(per_epoch * e for e in config.checkpoint.at_epochs),
    )
    self._progress = checkpoints_lib.Progress()
    self._pending: collections.deque = collections.deque()
    self._started = self._epoch_started = time.monotonic()
    self._logged_step = 0
    self._has_warned = False
    self._writer: metrics_log.MetricWriter | metrics_log.NoWriter | None = None
    self._reporter: progress_line.Reporter | None = None

  def run(self, state: train_step.TrainState) -> dict[str, Any]:
    """Trains from the newest checkpoint, else from `state`, to the end.

    With a checkpoint, the shapes of a state are enough.
    """
    step = self._checkpoints.latest_step()
    if step is not None:
      self._progress, _ = self._checkpoints.read_progress(step)
      self._logged_step = step
      state = self._checkpoints.read_state(step, state)
    # Now: by the end of the run the checkout may be another one.
    this_start = provenance.describe()
    if self._progress.starts[-1:] != [this_start]:
      self._progress.starts.append(this_start)
    self._open_logs()
    num_parameters = provenance.count_parameters(state.params)
    self._announce(num_parameters)
    state = self._parallel.replicate(state)
    with (
      contextlib.closing(self._batches()) as batches,
      interrupts.Listener() as listener,
    ):
      self._train(state, batches, listener)
      return self._finish(num_parameters)

  def close(self) -> None:
    """Finishes writing what is under way."""
    self._checkpoints.close()
    for resource in (self._writer, self._reporter):
      if resource is not None:
        resource.close()

  def _open_logs(self) -> None:
    """Opens what the run writes to, from the step on where it goes on."""
    step = self._progress.step
    if parallel.is_first_process():
      self._writer = metrics_log.MetricWriter(
        self._workdir,
        start_step=step,
        tensorboard=self._config.log.tensorboard,
      )
    else:
      self._writer = metrics_log.NoWriter()
    self._reporter = progress_line.Reporter(
      start_step=step,
      num_steps=self._experiment.num_steps,
      batch_size=self._config.batch_size,
      seconds=self._config.log.progress_seconds,
      quiet=not parallel.is_first_process(),
    )

  def _announce(self, num_parameters: int) -> None:
    """Prints what is about to run."""
    step = self._progress.step
    self._reporter.line(
      f'{self._config.method.name} on {self._config.data.name}: '
      f'{self._config.model.name} with {num_parameters:,} parameters, '
      f'{self._experiment.num_steps} steps of which {step} are made'
    )
    self._reporter.line(self._experiment.layout.describe())

  def _train(
    self,
    state: train_step.TrainState,
    batches: Iterator[datasets.Batch],
    listener: interrupts.Listener,
  ) -> None:
    """Makes all steps that are left."""
    train_step_fn = self._experiment.compile_train_step()
    num_steps = self._experiment.num_steps
    for step in range(self._progress.step + 1, num_steps + 1):
      batch = self._parallel.shard(next(batches))
      state, metrics = train_step_fn(state, batch)
      self._read_later(self._on_step, step, metrics)
      if self._ends_epoch(step):
        self._end_epoch(step, state)
      stops = step < num_steps and self._is_stopped(listener, step)
      if stops or self._is_checkpoint_due(step):
        self._save(step, state)
      if stops:
        raise interrupts.Interrupted(listener.signum or signal.SIGTERM, step)

  def _is_stopped(self, listener: interrupts.Listener, step: int) -> bool:
    """Whether a signal came, to any process: all stop at the same step."""
    has_come = listener.signum is not None
    if jax.process_count() == 1:
      return has_come
    return step % _AGREE_EVERY == 0 and parallel.any_process(has_come)

  def _batches(self) -> Generator[datasets.Batch, None, None]:
    """Yields the batches that are left, this process's rows of them."""
    return datasets.train_batches(
      self._experiment.dataset.train,
      self._config.batch_size,
      seed=self._config.seed,
      start_step=self._progress.step,
      shard=parallel.process_rows(self._config.batch_size),
    )

  def _ends_epoch(self, step: int) -> bool:
    """Whether an epoch, or the run, is over after this step."""
    experiment = self._experiment
    return (
      step % experiment.steps_per_epoch == 0 or step == experiment.num_steps
    )

  def _is_checkpoint_due(self, step: int) -> bool:
    """Whether to save after this step."""
    config, per_epoch = (
      self._config.checkpoint,
      self._experiment.steps_per_epoch,
    )
    every = config.every_steps or config.every_epochs * per_epoch
    if step in [e * per_epoch for e in config.at_epochs]:
      return True
    return (every and step % every == 0) or step == self._experiment.num_steps

  def _read_later(
    self,
    callback: Callable[..., None],
    step: int,
    values: types.PyTree,
    *args: Any,
  ) -> None:
    """Queues values for a callback; handles what has become old."""
    jax.tree.map(lambda x: x.copy_to_host_async(), values)
    self._pending.append((callback, step, values, args))
    while len(self._pending) > _MAX_PENDING:
      self._read_one()

  def _read_one(self) -> None:
    """Waits for the oldest values and hands them to their callback."""
    callback, step, values, args = self._pending.popleft()
    callback(step, self._parallel.unreplicate(jax.device_get(values)), *args)

  def _read_all(self) -> None:
    """Handles all that has been queued."""
    while self._pending:
      self._read_one()

  def _on_step(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Takes note of a step's metrics."""
    values = {name: float(value) for name, value in metrics.items()}
    broken = [n for n, value in values.items() if not math.isfinite(value)]
    if broken:
      last = self._checkpoints.latest_step()
      kept = 'none was saved' if last is None else f'the last is of step {last}'
      raise TrainingFailed(
        f'step {step}: {", ".join(broken)} not finite; checkpoints: {kept}. '
        'Try a smaller learning rate or rho'
      )
    sums = self._progress.metric_sums
    for name, value in values.items():
      sums[name] = sums.get(name, 0.0) + value
    self._progress.metric_count += 1
    self._warn_of_rounding(values)
    self._reporter.step(step, values)
    every = self._config.log.every_steps
    if every and step % every == 0:
      line = {f'step/{name}': value for name, value in values.items()}
      self._writer.write(step, self._epoch(step), line)

  def _warn_of_rounding(self, values: Mapping[str, float]) -> None:
    """Says once per start that precision leaves little of the perturbation."""
    cosine = values.get('effective_perturbation_cosine', 1.0)
    if self._has_warned or cosine >= _POOR_COSINE:
      return
    self._has_warned = True
    ratio = values['effective_perturbation_ratio']
    self._reporter.line(
      'warning: rounding changes the perturbation: multiplications see one '
      f'{ratio:.2f} times as long, at a cosine of {cosine:.2f}; use '
      'compute_dtype=float32 and matmul_precision=float32, or a larger rho'
    )

  def _epoch(self, step: int) -> float:
    """Returns the epochs that are over after a step."""
    return step / self._experiment.steps_per_epoch

  def _end_epoch(self, step: int, state: train_step.TrainState) -> None:
    """Starts what is due at the end of an epoch."""
    epoch = round(self._epoch(step))
    sums, snapshot = {}, None
    is_last = step == self._experiment.num_steps
    if is_last or epoch % self._config.eval_every_epochs == 0:
      sums = self._evaluate(state)
      snapshot = (
        self._copy(state) if self._config.checkpoint.keep_best else None
      )
    self._read_later(self._on_epoch, step, sums, snapshot)

  def _evaluate(
    self, state: train_step.TrainState
  ) -> dict[str, list[types.Metrics]]:
    """Starts the evaluations; returns their sums by split."""
    dataset = self._experiment.dataset
    splits = {self._config.data.split: dataset.evaluation}
    if self._config.eval_train:
      splits['train_eval'] = dataset.train
    variables = self._experiment.variables(state)
    batch_size = self._experiment.eval_batch_size
    rows = parallel.process_rows(batch_size)
    return {
      name: evaluation.run(
        self._eval_step,
        variables,
        datasets.eval_batches(examples, batch_size, shard=rows),
        self._parallel.shard,
      )
      for name, examples in splits.items()
    }

  def _on_epoch(
    self,
    step: int,
    sums: Mapping[str, list[types.Metrics]],
    snapshot: train_step.TrainState | None,
  ) -> None:
    """Logs an epoch, and keeps it if it is the best so far."""
    progress = self._progress
    now = time.monotonic()
    # Not metric_count: some of the epoch's steps may be of an earlier start.
    images = (step - self._logged_step) * self._config.batch_size
    line = {
      f'train/{name}': total / progress.metric_count
      for name, total in progress.metric_sums.items()
    }
    for split, split_sums in sums.items():
      means = evaluation.summarize(split_sums)
      line |= {f'{split}/{name}': value for name, value in means.items()}
    line['images_per_second'] = images / (now - self._epoch_started)
    self._epoch_started, self._logged_step = now, step
    progress.metric_sums, progress.metric_count = {}, 0
    self._writer.write(step, self._epoch(step), line)
    self._reporter.line(self._epoch_line(step, line))
    if sums:
      self._keep_if_best(
        step, line[f'{self._config.data.split}/error_rate'], snapshot
      )

  def _epoch_line(self, step: int, line: Mapping[str, float]) -> str:
    """Returns what a person wants to know of an epoch."""
    split = self._config.data.split
    shown = ['train/loss', 'train/sharpness', 'train/error_rate']
    shown += [f'{split}/loss', f'{split}/error_rate']
    parts = [
      f'{name} {line[name]:.2%}'
      if name.endswith('error_rate')
      else f'{name} {line[name]:.4f}'
      for name in shown
      if name in line
    ]
    return f'epoch {self._epoch(step):g}: ' + ', '.join(parts)

  def _keep_if_best(
    self,
    step: int,
    error_rate: float,
    snapshot: train_step.TrainState | None,
  ) -> None:
    """Takes note of an evaluation; saves the state if there is no better."""
    progress = self._progress
    progress.final_error_rate = error_rate
    best = progress.best_error_rate
    if best is not None and error_rate >= best:
      return
    progress.best_error_rate, progress.best_step = error_rate, step
    if snapshot is not None:
      self._write_checkpoint(step, snapshot)

  def _save(self, step: int, state: train_step.TrainState) -> None:
    """Saves the state, after all that was logged before it."""
    self._read_all()
    self._write_checkpoint(step, state)

  def _write_checkpoint(self, step: int, state: train_step.TrainState) -> None:
    """Saves a state whose metrics have all been read."""
    self._progress.step = step
    self._count_time()
    self._writer.sync()
    self._checkpoints.save(
      self._parallel.unreplicate(state),
      self._progress,
      self._experiment.info,
    )

  def _count_time(self) -> None:
    """Adds the time since it was last counted."""
    now = time.monotonic()
    self._progress.elapsed_seconds += now - self._started
    self._started = now

  def _finish(self, num_parameters: int) -> dict[str, Any]:
    """Writes result.json when everything else is on disk."""
    self._checkpoints.wait()
    self._count_time()
    progress, experiment = self._progress, self._experiment
    per_step = experiment.fns.method.gradient_evaluations
    result = {
      'steps': experiment.num_steps,
      'epochs': self._epoch(experiment.num_steps),
      'split': self._config.data.split,
      'final_error_rate': progress.final_error_rate,
      'best_error_rate': progress.best_error_rate,
      'best_step': progress.best_step,
      'wall_seconds': progress.elapsed_seconds,
      # Examples put through a forward and backward pass, per batch size.
      'gradient_evaluations': per_step * experiment.num_steps,
      'parameters': num_parameters,
      **progress.starts[-1],
      'starts': progress.starts,
    }
    if parallel.is_first_process():
      workdir_lib.write_json(self._workdir / 'result.json', result)
    self._reporter.line(f'finished: {_summary(result)}')
    return result


def _summary(result: Mapping[str, Any]) -> str:
  """Returns a result in one line."""
  return (
    f'{result["split"]} error {result["final_error_rate"]:.2%} at the end, '
    f'{result["best_error_rate"]:.2%} at best (step {result["best_step"]}), '
    f'{result["steps"]} steps in {result["wall_seconds"]:.0f} s'
  )
