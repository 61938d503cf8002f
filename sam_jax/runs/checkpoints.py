"""Checkpoints of a run: asynchronous, atomic, the newest and the best kept.

A run can be resumed from each of them. They hold the train state and what the
journal remembers (`JournalState`), so that a resumed run is the uninterrupted
one.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from sam_jax import types
from sam_jax.runs import tensorstore_leak


@dataclasses.dataclass
class JournalState:
  """What the journal of a run remembers between steps.

  Attributes:
    step: updates made.
    metric_sums: sums of the training metrics since the epoch began.
    metric_count: over how many steps.
    perturbed_sums: sums of the metrics of perturbations since the epoch began,
      each step with the share of its groups that were perturbed as its weight.
    perturbed_weight: sum of these weights.
    final_score: at the last evaluation, None before the first.
    best_score: lowest so far at an evaluation, None before the first.
    best_step: where that was.
    elapsed_seconds: of training and evaluation, over all starts.
    starts: what was started, see `provenance.describe`; once for each change.
  """

  step: int = 0
  metric_sums: dict[str, float] = dataclasses.field(default_factory=dict)
  metric_count: int = 0
  perturbed_sums: dict[str, float] = dataclasses.field(default_factory=dict)
  perturbed_weight: float = 0.0
  final_score: float | None = None
  best_score: float | None = None
  best_step: int | None = None
  elapsed_seconds: float = 0.0
  starts: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Kept:
  """What Orbax is not to delete.

  Its own policy for the best one forgets the metrics of earlier starts.

  Attributes:
    max_to_keep: how many of the newest.
    steps: that were asked for by name.
    best_step: None if there is none.
  """

  max_to_keep: int
  steps: frozenset[int]
  best_step: int | None = None

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Implements Orbax's PreservationPolicy; ascending checkpoints."""
    del context
    newest = {saved.step for saved in checkpoints[-self.max_to_keep :]}
    kept = newest | self.steps | {self.best_step}
    return [saved.step in kept for saved in checkpoints]


class Checkpoints:
  """The checkpoints in one directory. Close it when done."""

  def __init__(
    self,
    directory: pathlib.Path,
    *,
    max_to_keep: int = 1,
    keep_best: bool = False,
    keep_steps: tuple[int, ...] = (),
    read_only: bool = False,
  ) -> None:
    """Opens the directory; creates it, or clears what a kill left half-written.

    Args:
      directory: absolute path.
      max_to_keep: how many of the newest to keep.
      keep_best: whether to keep that of the journal's `best_step` too.
      keep_steps: steps that are never deleted.
      read_only: touch nothing, as beside a run that is still training.
    """
    tensorstore_leak.stop()
    import orbax.checkpoint as ocp  # takes a second: not for every import

    self._keep_best = keep_best
    self._kept = _Kept(max_to_keep, frozenset(keep_steps))
    self._args = ocp.args
    self._manager = ocp.CheckpointManager(
      directory,
      item_handlers={
        'state': ocp.StandardCheckpointHandler(),
        'journal': ocp.JsonCheckpointHandler(),
      },
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._kept,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
      ),
    )

  def save(
    self,
    state: types.PyTree,
    journal: JournalState,
    info: Mapping[str, Any],
  ) -> None:
    """Saves in the background; a step that is there already stays as it is.

    Args:
      state: tree of arrays, one copy of each.
      journal: what is remembered at this state.
      info: what it takes to rebuild the task without its data set, JSON.

    Raises:
      RuntimeError: the checkpoint was refused.
    """
    step = journal.step
    if step in self._manager.all_steps():
      return
    if self._keep_best:
      self._kept.best_step = journal.best_step
    content = dataclasses.asdict(journal) | {'info': dict(info)}
    saved = self._manager.save(
      step,
      args=self._args.Composite(
        state=self._args.StandardSave(state),
        journal=self._args.JsonSave(content),
      ),
      force=True,
    )
    if not saved:
      raise RuntimeError(f'the checkpoint of step {step} was not saved')

  def latest_step(self) -> int | None:
    """Returns the newest step, None if there is no checkpoint."""
    return self._manager.latest_step()

  def steps(self) -> list[int]:
    """Returns the steps that can be restored, ascending."""
    return sorted(self._manager.all_steps())

  def read_journal(self, step: int) -> tuple[JournalState, dict[str, Any]]:
    """Returns what was remembered at that step, and the info of the task."""
    restored = self._manager.restore(
      step, args=self._args.Composite(journal=self._args.JsonRestore())
    )
    content = dict(restored.journal)
    info = content.pop('info')
    return JournalState(**content), info

  def read_state(
    self, step: int, like: types.PyTree | None = None
  ) -> types.PyTree:
    """Returns the arrays saved at that step, on the first device.

    Args:
      step: one of `steps()`.
      like: tree of arrays or shapes with the structure that was saved; None
        reads whatever was saved, as nested dicts.
    """
    if like is None:
      like = self._manager.item_metadata(step)['state'].tree
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # The file may name devices that are not here: say where to put the arrays.
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like
    )
    restored = self._manager.restore(
      step,
      args=self._args.Composite(state=self._args.StandardRestore(shapes)),
    )
    return restored.state

  def wait(self) -> None:
    """Returns when all that was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and gives the directory back."""
    self._manager.close()
