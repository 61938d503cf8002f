"""Weights & Biases: a run of its own for each run directory."""

from collections.abc import Mapping
from typing import Any

from sam_jax.runs import callbacks
from sam_jax.runs.writers import base

_SCORES = ('final_score', 'best_score', 'best_step', 'wall_seconds')


@base.register('wandb', needs='wandb')
class Wandb(base.Writer):
  """Logs each line of metrics.jsonl as one row of a wandb run.

  Project, entity, server and offline mode are those of wandb's own settings:
  `wandb login`, WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline, ... The id of
  the wandb run is that of this run, so that a resumed run continues it. The
  number of a row (wandb's `_step`) is that of the line, and the horizontal axis
  is `step`. wandb's own files are in the run directory, in wandb/.
  """

  _run: Any = None

  def open(self, start: callbacks.Start) -> int:
    """Begins the wandb run, or continues it."""
    import wandb

    has_begun = any(start.workdir.glob(f'wandb/*run-*-{start.run_id}'))
    self._run = wandb.init(
      id=start.run_id,
      resume='allow',
      reinit='create_new',  # beside a run of the program that trains
      name=start.workdir.name,
      dir=start.workdir,
      config=start.config.to_dict(),
      allow_val_change=True,  # what may change when a run is resumed
    )
    self._run.define_metric('step', hidden=True)
    self._run.define_metric('*', step_metric='step')
    # wandb's server cannot forget rows; offline, only we know of them.
    if self._run.offline:
      return start.logged if has_begun else 0
    return self._run.starting_step

  def write(self, number: int, line: base.Line) -> None:
    """Logs one row."""
    self._run.log(dict(line), step=number, commit=True)

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Ends the wandb run, with the scores in its summary."""
    if result is not None:
      self._run.summary.update({name: result[name] for name in _SCORES})
    self._run.finish(exit_code=0 if result is not None else 1)
