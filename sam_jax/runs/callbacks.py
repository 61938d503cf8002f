"""Callbacks: what a program of a user's own is told while a run is going.

    class Spikes(callbacks.Callback):
      def on_line(self, step, epoch, metrics):
        if metrics.get('step/loss', 0.0) > 10:
          print(f'step {step}: the loss is {metrics["step/loss"]}')

    loop.train_and_evaluate(config, workdir, callbacks=[Spikes()])

What a callback raises ends the run, and `train_and_evaluate` raises it: this is
also how a callback stops a run early. The same call resumes the run from its
last checkpoint. A writer of metrics (`sam_jax.runs.writers`) cannot end a run.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from sam_jax.training import train_step


class Start(NamedTuple):
  """The run that begins, or is resumed.

  Attributes:
    config: of the run, resolved.
    workdir: run directory, absolute.
    run_id: of the run; it stays the same when the run is resumed.
    step: updates made before: that of the checkpoint, or 0.
    num_steps: updates of the whole run.
    rows: lines in metrics.jsonl now. Lines after the checkpoint are cut.
    logged: lines that were there before the cut. Those from `rows` on are
      logged again.
  """

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  run_id: str
  step: int
  num_steps: int
  rows: int
  logged: int


class Callback:
  """Does nothing; a subclass overrides what it wants to be told.

  Of several processes that train together, each calls its own callbacks.
  """

  def on_start(self, start: Start) -> None:
    """Is called once, before the first step is made.

    Args:
      start: the run. A run that is finished already makes no call at all.
    """

  def on_step(
    self,
    step: int,
    state: Callable[[], train_step.TrainState],
    metrics: Callable[[], dict[str, float]],
  ) -> None:
    """Is called after each step, as soon as the step is dispatched.

    Args:
      step: updates made.
      state: returns the state after the step. The next step overwrites its
        arrays: compute with them now, and copy what you keep.
      metrics: returns the metrics of the step, such as {'loss': 2.3, ...}.
        Only this call waits for the device.
    """

  def on_line(
    self, step: int, epoch: float, metrics: Mapping[str, float]
  ) -> None:
    """Is called with each line that metrics.jsonl gets.

    Args:
      step: updates made.
      epoch: epochs that are over, with fractions.
      metrics: by name, such as 'train/loss' or 'test/error_rate'.
    """

  def on_evaluation(
    self, step: int, metrics: Mapping[str, Mapping[str, float]]
  ) -> None:
    """Is called with what each evaluation has found.

    Args:
      step: updates made.
      metrics: by split and name, such as {'test': {'loss': 2.3, ...}}.
    """

  def on_checkpoint(self, step: int, path: pathlib.Path) -> None:
    """Is called when a checkpoint begins to be saved, in the background.

    Args:
      step: updates made.
      path: directory of the checkpoint. It appears under this name when it is
        whole.
    """

  def on_end(self, result: Mapping[str, Any] | None) -> None:
    """Is called once, when everything is on the disk.

    Args:
      result: what result.json holds; None if the run was interrupted or failed.
    """
