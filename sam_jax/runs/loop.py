"""The loop: makes steps, evaluates, saves checkpoints, stops at a signal.

The loop never waits for the device in order to log: it dispatches step t + 1
before it reads the metrics of step t, and what an evaluation found is read
while training continues.
"""

import collections
import contextlib
import functools
import pathlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from sam_jax import types
from sam_jax.runs import (
  build,
  callbacks as callbacks_lib,
  checkpoints as checkpoints_lib,
  evaluation,
  interrupts,
  journal as journal_lib,
  metrics_log,
  misuse,
  preparation,
  profiling,
  provenance,
  workdir as workdir_lib,
  writers,
)
from sam_jax.training import diagnostics, parallel, train_step

# Steps that may be under way before the metrics of the oldest are read.
_MAX_PENDING = 2
# Steps after which processes ask each other whether to stop; they wait for it.
_AGREE_EVERY = 20


class TrainingFailed(RuntimeError):
  """The loss or the gradient is not finite."""


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  callbacks: Sequence[callbacks_lib.Callback] = (),
  profile_steps: int | None = None,
) -> dict[str, Any]:
  """Trains a model, or resumes its training, and returns the result.

  Args:
    config: see configs/default.py.
    workdir: run directory, made if it does not exist.
    callbacks: are told what happens, see `callbacks.Callback`.
    profile_steps: how many steps to trace, see `profiling`; None traces none.

  Returns:
    What result.json holds: final and best score, steps, wall time and more,
    see `Journal.finish`.

  Raises:
    ValueError: a value of the config is not allowed, or the directory is in use
      or holds another run; nothing was written.
    FileNotFoundError: the data set is not there.
    TrainingFailed: the loss is not finite; the last checkpoint is kept.
    interrupts.Interrupted: SIGTERM or SIGINT came; a checkpoint was written.
  """
  profiling.check(profile_steps)
  with preparation.begin(config, workdir) as begun:
    return train(begun, callbacks, profile_steps)


def train(
  begun: preparation.Begun,
  callbacks: Sequence[callbacks_lib.Callback] = (),
  profile_steps: int | None = None,
) -> dict[str, Any]:
  """Makes the steps of a run that are left, see `train_and_evaluate`.

  Args:
    begun: the run, by `preparation.begin`, whose context is still open.
    callbacks: see `train_and_evaluate`.
    profile_steps: see `train_and_evaluate`.
  """
  config, experiment, workdir, state, step, result = begun
  if result is not None:
    print(f'{workdir} is finished: {journal_lib.summary(result)}')
    if profile_steps is not None:
      print('profile: the run is finished; it makes no step to trace')
    return result
  with contextlib.ExitStack() as stack:
    told = stack.enter_context(contextlib.closing(_Told()))
    saved = _open_checkpoints(config, experiment, workdir)
    stack.enter_context(contextlib.closing(saved))
    state, remembered = _restore(saved, step, state)
    logged = metrics_log.count(workdir)
    journal = journal_lib.Journal(
      config, experiment, workdir, remembered, told.callbacks
    )
    stack.enter_context(contextlib.closing(journal))
    start = callbacks_lib.Start(
      config,
      workdir,
      workdir_lib.run_id(workdir),
      step=remembered.step,
      num_steps=experiment.num_steps,
      rows=remembered.rows,
      logged=logged,
    )
    told.begin(start, (*_writers(config), *callbacks))
    profile = profiling.Profile(
      workdir,
      profile_steps,
      made=remembered.step,
      num_steps=experiment.num_steps,
      say=journal.say,
    )
    stack.enter_context(contextlib.closing(profile))
    loop = _Loop(config, experiment, saved, journal, told.callbacks, profile)
    told.result = loop.run(state)
  return told.result


def _writers(
  config: ml_collections.ConfigDict,
) -> list[callbacks_lib.Callback]:
  """Returns what is told because of the config, in the first process only."""
  if not parallel.is_first_process():
    return []
  return [writers.Followers(writers.named(config))]


def _open_checkpoints(
  config: ml_collections.ConfigDict,
  experiment: build.Experiment,
  workdir: pathlib.Path,
) -> checkpoints_lib.Checkpoints:
  """Opens the checkpoints of a run."""
  per_epoch = experiment.steps_per_epoch
  return checkpoints_lib.Checkpoints(
    workdir / 'checkpoints',
    run_id=workdir_lib.run_id(workdir),
    max_to_keep=config.checkpoint.max_to_keep,
    keep_best=config.checkpoint.keep_best,
    keep_steps=tuple(per_epoch * e for e in config.checkpoint.at_epochs),
  )


def _restore(
  saved: checkpoints_lib.Checkpoints,
  step: int | None,
  state: train_step.TrainState,
) -> tuple[train_step.TrainState, checkpoints_lib.JournalState]:
  """Returns what the checkpoint of a step holds; without one, `state`.

  With a checkpoint, the shapes of a state are enough.
  """
  if step is None:
    return state, checkpoints_lib.JournalState()
  remembered, _ = saved.read_journal(step)
  return saved.read_state(step, state), remembered


class _Told:
  """The callbacks that know of the start, and are told of the end.

  Attributes:
    callbacks: in the order in which they are called.
    result: of the run, None until it is finished.
  """

  def __init__(self) -> None:
    self.callbacks: list[callbacks_lib.Callback] = []
    self.result: dict[str, Any] | None = None

  def begin(
    self,
    start: callbacks_lib.Start,
    callbacks: Sequence[callbacks_lib.Callback],
  ) -> None:
    """Tells callbacks of the start."""
    for callback in callbacks:
      callback.on_start(start)
      self.callbacks.append(callback)

  def close(self) -> None:
    """Tells all of them of the end, whatever one of them raises."""
    with contextlib.ExitStack() as ends:
      for callback in reversed(self.callbacks):
        ends.callback(callback.on_end, self.result)


class _Pending:
  """Values on their way from the devices, each with what is done with them."""

  def __init__(
    self, unreplicate: Callable[[types.PyTree], types.PyTree]
  ) -> None:
    self._unreplicate = unreplicate
    self._queue: collections.deque[tuple[Any, ...]] = collections.deque()

  def add(
    self,
    callback: Callable[..., None],
    step: int,
    values: types.PyTree,
    *args: Any,
  ) -> None:
    """Queues values for a callback; handles what has become old."""
    jax.tree.map(lambda x: x.copy_to_host_async(), values)
    self._queue.append((callback, step, values, args))
    while len(self._queue) > _MAX_PENDING:
      self._read_one()

  def read_all(self) -> None:
    """Handles all that has been queued."""
    while self._queue:
      self._read_one()

  def _read_one(self) -> None:
    """Waits for the oldest values and hands them to their callback."""
    callback, step, values, args = self._queue.popleft()
    with jax.profiler.TraceAnnotation('read metrics'):
      on_host = self._unreplicate(jax.device_get(values))
    with jax.profiler.TraceAnnotation('log'):
      callback(step, on_host, *args)


class _Loop:
  """One run on its way: the mutable part, around pure steps."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    experiment: build.Experiment,
    checkpoints: checkpoints_lib.Checkpoints,
    journal: journal_lib.Journal,
    told: Sequence[callbacks_lib.Callback],
    profile: profiling.Profile,
  ) -> None:
    self._profile = profile
    self._told = told
    self._config = config
    self._experiment = experiment
    self._checkpoints = checkpoints
    self._journal = journal
    self._parallel = experiment.parallel
    self._eval_step = experiment.compile_eval_step()
    # Copies are taken where a step is about to overwrite what it donates.
    self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
    self._pending = _Pending(self._parallel.unreplicate)

  def run(self, state: train_step.TrainState) -> dict[str, Any]:
    """Makes all steps that are left, and returns the result."""
    num_parameters = provenance.count_parameters(state.params)
    self._journal.announce(num_parameters)
    state = self._parallel.replicate(state)
    with (
      contextlib.closing(self._batches()) as batches,
      interrupts.Listener() as listener,
    ):
      self._train(state, batches, listener)
      # The result is written when everything else is on disk.
      self._checkpoints.wait()
      return self._journal.finish(num_parameters)

  def _train(
    self,
    state: train_step.TrainState,
    batches: Iterator[Any],
    listener: interrupts.Listener,
  ) -> None:
    """Makes all steps that are left."""
    train_step_fn = self._experiment.compile_train_step()
    num_steps = self._experiment.num_steps
    first = self._journal.state.step + 1
    for step in range(first, num_steps + 1):
      self._begin_trace(step)
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        with jax.profiler.TraceAnnotation('next batch'):
          batch = self._parallel.shard(next(batches))
        state, metrics = train_step_fn(state, batch)
        self._pending.add(self._on_step, step, metrics)
      if step == first:
        self._checkpoints.get_ready()  # while the device makes this step
      self._end_trace(step)
      self._tell_step(step, state, metrics)
      if self._journal.ends_epoch(step):
        self._end_epoch(step, state)
      stops = step < num_steps and _is_stopped(listener, step)
      if stops or self._is_checkpoint_due(step):
        self._pending.read_all()
        self._write_checkpoint(step, state)
      if stops:
        raise interrupts.Interrupted(listener.signum or signal.SIGTERM, step)

  def _begin_trace(self, step: int) -> None:
    """Begins the trace if it is to begin with this step."""
    if self._profile.is_first(step):
      # So that no step is half in it; in all processes, see `Profile`.
      self._pending.read_all()
      if self._profile.start():
        self._journal.announce_trace(self._profile.steps)

  def _end_trace(self, step: int) -> None:
    """Ends the trace if it is to end with this step."""
    if self._profile.made(step):
      self._pending.read_all()
      self._profile.stop()
      self._journal.leave_out(step)

  @functools.partial(jax.profiler.annotate_function, name='log')
  def _tell_step(
    self,
    step: int,
    state: train_step.TrainState,
    metrics: diagnostics.Metrics,
  ) -> None:
    """Tells the callbacks of a step; only reading its metrics waits for it."""
    one_copy = self._parallel.unreplicate

    def read() -> dict[str, float]:
      on_host = jax.device_get(one_copy(metrics))
      return journal_lib.StepValues.of(on_host).all

    for callback in self._told:
      callback.on_step(step, lambda: one_copy(state), read)

  def _batches(self) -> Any:
    """Yields the batches that are left, this process's rows of them."""
    return self._experiment.task.train_batches(
      self._experiment.dataset.train,
      self._config.batch_size,
      seed=self._config.seed,
      start_step=self._journal.state.step,
      shard=parallel.process_rows(self._config.batch_size),
    )

  def _is_checkpoint_due(self, step: int) -> bool:
    """Whether to save after this step."""
    config = self._config.checkpoint
    per_epoch = self._experiment.steps_per_epoch
    every = config.every_steps or config.every_epochs * per_epoch
    if step in [e * per_epoch for e in config.at_epochs]:
      return True
    return (every and step % every == 0) or step == self._experiment.num_steps

  def _on_step(self, step: int, metrics: diagnostics.Metrics) -> None:
    """Takes note of a step's metrics."""
    values = journal_lib.StepValues.of(metrics)
    if values.skipped:
      limit = self._config.max_skipped_steps
      if self._journal.add_skipped(step, values) > limit:
        raise self._failed(step, f'not finite, like the {limit} steps before')
    elif values.broken:
      why = misuse.too_large(values.step, values.perturbed)
      why = f'{values.broken} not finite' + (f', as {why}' if why else '')
      raise self._failed(step, why)
    else:
      self._journal.add_step(step, values)

  def _failed(self, step: int, why: str) -> TrainingFailed:
    """Returns how a run ends that has diverged; nothing of the step is kept."""
    last = self._checkpoints.latest_step()
    kept = 'none was saved' if last is None else f'the last is of step {last}'
    numbers = ['learning_rate']
    if self._config.method.get('rho'):
      numbers.append('method.rho')
    allowed = ' '.join(f'--config.allow_change={name}' for name in numbers)
    return TrainingFailed(
      f'step {step}: {why}; checkpoints: {kept}. Try a smaller '
      f'{" or ".join(numbers)}: this run is resumed with it if the command has '
      f'{allowed} too'
    )

  def _end_epoch(self, step: int, state: train_step.TrainState) -> None:
    """Starts what is due at the end of an epoch."""
    epoch = round(step / self._experiment.steps_per_epoch)
    sums, snapshot = {}, None
    is_last = step == self._experiment.num_steps
    if is_last or epoch % self._config.eval_every_epochs == 0:
      sums = self._evaluate(state)
      if self._config.checkpoint.keep_best:
        snapshot = self._copy(state)
    self._pending.add(self._on_epoch, step, sums, snapshot)

  @functools.partial(jax.profiler.annotate_function, name='evaluate')
  def _evaluate(
    self, state: train_step.TrainState
  ) -> dict[str, list[types.Metrics]]:
    """Starts the evaluations; returns their sums by split."""
    experiment = self._experiment
    splits = {self._config.data.split: experiment.dataset.evaluation}
    if self._config.eval_train:
      splits['train_eval'] = experiment.dataset.train
    variables = experiment.eval_variables(state)
    batch_size = experiment.eval_batch_size
    rows = parallel.process_rows(batch_size)
    return {
      name: evaluation.run(
        self._eval_step,
        variables,
        experiment.task.eval_batches(examples, batch_size, shard=rows),
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
    """Takes note of an epoch, and keeps its state if it is the best so far."""
    task = self._experiment.task
    means = {split: evaluation.summarize(x, task) for split, x in sums.items()}
    is_best = self._journal.add_epoch(step, means)
    if is_best and snapshot is not None:
      self._write_checkpoint(step, snapshot)

  @functools.partial(jax.profiler.annotate_function, name='checkpoint')
  def _write_checkpoint(self, step: int, state: train_step.TrainState) -> None:
    """Saves a state whose metrics have all been read."""
    self._journal.sync(step)
    path = self._checkpoints.path(step)
    for callback in self._told:
      callback.on_checkpoint(step, path)
    self._checkpoints.save(
      self._parallel.unreplicate(state),
      self._journal.state,
      self._experiment.info or self._experiment.task.info,
    )


def _is_stopped(listener: interrupts.Listener, step: int) -> bool:
  """Returns whether a signal came, to any process: all stop at one step."""
  has_come = listener.signum is not None
  if jax.process_count() == 1:
    return has_come
  return step % _AGREE_EVERY == 0 and parallel.any_process(has_come)
