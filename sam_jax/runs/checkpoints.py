"""Checkpoints of a run: asynchronous, atomic, sealed, the best one kept.

A run can be resumed from each of them. They hold the train state and what the
journal remembers (`JournalState`), so that a resumed run is the uninterrupted
one. That of step 40 is the directory `40`:

    state/            the arrays, as Orbax writes them
    checkpoint.json   the step, what the journal remembers, the run that it
                      belongs to, and checksums of all files of the state

It is written as `40.partial`. When all of it is on disk, safe from a power cut,
it gets its name, and older checkpoints go. What is called `40` and is not what
was written there (a file is missing, a bit has changed, it is of another step
or another run) is never read.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from sam_jax import extras, types
from sam_jax.runs import files, orbax_memory, seals
from sam_jax.training import parallel

_FILE = 'checkpoint.json'
_STATE = 'state'
_SET_ASIDE = '.damaged'


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
    rows: number of rows of metrics.jsonl.
    rows_checksum: their checksum, see `metrics_log.Rows`.
    skipped_steps: that were not finite, and changed nothing.
    skipped_in_a_row: how many of the last steps these are.
    settings: what the fields that may be changed within a run were, by name,
      and `step`, from which on; once for each change.
    said: names of the warnings that the run has been given, see `misuse`.
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
  rows: int = 0
  rows_checksum: int = 0
  skipped_steps: int = 0
  skipped_in_a_row: int = 0
  settings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  said: list[str] = dataclasses.field(default_factory=list)


class Skipped(NamedTuple):
  """A checkpoint that is not used.

  Attributes:
    step: that its name says.
    reason: names the file.
  """

  step: int
  reason: str


class Checkpoints:
  """The checkpoints in one directory. Close it when done."""

  def __init__(
    self,
    directory: pathlib.Path,
    *,
    run_id: str | None = None,
    max_to_keep: int = 1,
    keep_best: bool = False,
    keep_steps: tuple[int, ...] = (),
    read_only: bool = False,
  ) -> None:
    """Opens the directory; creates it, or clears what a kill left half-written.

    Args:
      directory: absolute path.
      run_id: of the run, see `workdir.run_id`; None reads those of any run.
      max_to_keep: how many of the newest to keep.
      keep_best: whether to keep that of the journal's `best_step` too.
      keep_steps: steps that are never deleted.
      read_only: touch nothing, as beside a run that is still training.
    """
    self._directory = directory
    self._run_id = run_id
    self._max_to_keep = max_to_keep
    self._keep_best = keep_best
    self._keep_steps = frozenset(keep_steps)
    self._pool = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._saving: concurrent.futures.Future[None] | None = None
    self._arrays: Any = None
    if not read_only and parallel.is_first_process():
      directory.mkdir(parents=True, exist_ok=True)
      for partial in directory.glob(f'*{files.PARTIAL}'):
        _delete(partial)
    self._steps = [step for step in self.found() if self._is_sealed(step)]

  def get_ready(self) -> Any:
    """Returns what writes and reads arrays; imports it at the first call.

    A run calls it soon: an installation that changes later does not matter
    then.
    """
    if self._arrays is None:
      self._arrays = _open_orbax()
    return self._arrays

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
      Exception: the last one could not be saved, see `wait`.
    """
    self.wait()
    if journal.step in self._steps:
      return
    # Now: the journal goes on while the arrays are being written.
    content = {'step': journal.step, 'info': dict(info)}
    content['journal'] = dataclasses.asdict(journal)
    partial = self._directory / f'{journal.step}{files.PARTIAL}'
    self.get_ready().save(partial / _STATE, state)
    self._saving = self._pool.submit(self._commit, content)

  def found(self) -> list[int]:
    """Returns all steps whose name is there, see `found`."""
    return found(self._directory)

  def steps(self) -> list[int]:
    """Returns the steps that can be restored, as it seems, ascending.

    The checksums of their arrays have not been looked at, see `damage`.
    """
    return sorted(self._steps)

  def latest_step(self) -> int | None:
    """Returns the newest of `steps`, None if there is none."""
    if self._saving is not None:
      concurrent.futures.wait([self._saving])
    return max(self._steps, default=None)

  def newest_intact(self) -> tuple[int | None, list[Skipped]]:
    """Returns the newest step that is intact, and what is newer and is not.

    The step is None if there is none.
    """
    skipped: list[Skipped] = []
    for step in reversed(self.found()):
      reason = self.damage(step)
      if reason is None:
        return step, skipped
      if step not in self.found():  # a run that is training has just deleted it
        return self.newest_intact()
      skipped.append(Skipped(step, reason))
    return None, skipped

  def damage(self, step: int) -> str | None:
    """Looks at every byte of a checkpoint.

    Returns:
      Why it is not what was saved at that step of this run, naming the file;
      None if it is.
    """
    try:
      inventory = self._read(step)['files']
      seals.check_inventory(self.path(step) / _STATE, inventory)
    except (FileNotFoundError, seals.Damaged) as error:
      return str(error)
    return None

  def set_aside(self, step: int) -> None:
    """Takes a checkpoint that is damaged out of the way, and keeps it."""
    path = self.path(step)
    aside = path.with_name(f'{path.name}{_SET_ASIDE}')
    _delete(aside)
    path.rename(aside)
    files.sync(self._directory)

  def read_journal(self, step: int) -> tuple[JournalState, dict[str, Any]]:
    """Returns what was remembered at that step, and the info of the task."""
    content = self._read(step)
    return JournalState(**content['journal']), content['info']

  def read_state(
    self, step: int, like: types.PyTree | None = None
  ) -> types.PyTree:
    """Returns the arrays saved at that step.

    An array is on the first device, or cut as its shape says: each process then
    reads its own parts.

    Args:
      step: one of `steps()`, intact.
      like: tree of arrays or shapes with the structure that was saved; None
        reads whatever was saved, as nested dicts.
    """
    path, arrays = self.path(step) / _STATE, self.get_ready()
    if like is None:
      like = arrays.metadata(path).item_metadata.tree
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    # The file may name devices that are not here: say where to put the arrays.
    def place(x: Any) -> jax.ShapeDtypeStruct:
      is_shape = isinstance(x, jax.ShapeDtypeStruct)
      sharding = (x.sharding if is_shape else None) or device
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return arrays.restore(path, jax.tree.map(place, like))

  def wait(self) -> None:
    """Returns when all that was saved is on disk.

    Raises:
      Exception: what kept it from being saved.
    """
    saving, self._saving = self._saving, None
    if saving is not None:
      saving.result()

  def close(self) -> None:
    """Waits, and gives the directory back."""
    try:
      self.wait()
    finally:
      self._pool.shutdown()
      if self._arrays is not None:
        self._arrays.close()

  def _commit(self, content: dict[str, Any]) -> None:
    """Makes what Orbax writes a checkpoint; runs in another thread."""
    step, best_step = content['step'], content['journal']['best_step']
    kept = self._kept([*self._steps, step], best_step)
    try:
      self._arrays.wait_until_finished()
      if parallel.is_first_process():
        self._seal(content)
    except BaseException:
      if parallel.is_first_process():  # perhaps the disk is full
        with contextlib.suppress(OSError):
          _delete(self.path(step).with_name(f'{step}{files.PARTIAL}'))
      raise
    dropped, self._steps = set(self._steps) - kept, sorted(kept)
    orbax_memory.give_back()
    if parallel.is_first_process():
      for old in dropped:
        # On a network disk that cannot be while somebody reads it. The new one
        # is there, and the next start clears what is left.
        with contextlib.suppress(OSError):
          _delete(self.path(old))

  def _seal(self, content: dict[str, Any]) -> None:
    """Writes checkpoint.json, and gives the checkpoint its name."""
    final = self.path(content['step'])
    partial = final.with_name(f'{final.name}{files.PARTIAL}')
    content['files'] = seals.take_inventory(partial / _STATE)
    seals.write(partial / _FILE, content, self._run_id or '')
    if os.path.lexists(final):  # no checkpoint, or it would have been known
      self.set_aside(content['step'])
    partial.rename(final)
    files.sync(self._directory)

  def _kept(self, steps: list[int], best_step: int | None) -> set[int]:
    """Returns which of these steps stay."""
    best = best_step if self._keep_best else None
    newest = sorted(steps)[-self._max_to_keep :]
    return {s for s in steps if s in {*newest, *self._keep_steps, best}}

  def _is_sealed(self, step: int) -> bool:
    """Returns whether a checkpoint seems to be one of this run."""
    with contextlib.suppress(FileNotFoundError, seals.Damaged):
      return bool(self._read(step))
    return False

  def _read(self, step: int) -> dict[str, Any]:
    """Returns what checkpoint.json of a step holds.

    Raises:
      FileNotFoundError: it is not there.
      Damaged: it is not what was written, or is of another step or run.
    """
    path = self.path(step) / _FILE
    content, _ = seals.open_sealed(path, self._run_id)
    if content['step'] != step:  # of a directory that was renamed or copied
      raise seals.Damaged(f'{path} is of step {content["step"]}')
    fields = {field.name for field in dataclasses.fields(JournalState)}
    if content['journal'].keys() != fields:
      raise seals.Damaged(f'{path} is of another edition of sam_jax')
    return content

  def path(self, step: int) -> pathlib.Path:
    """Returns the directory of a step."""
    return self._directory / str(step)


def _open_orbax() -> Any:
  """Returns what writes and reads arrays: Orbax, which takes long to import."""
  with extras.required():
    import orbax.checkpoint as ocp
  orbax_memory.stop_leak()
  # Orbax would make its directory in the background, and what waits for that
  # holds up the end of the program for five minutes if it cannot be made.
  options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
  return ocp.StandardCheckpointer(async_options=options)


def found(directory: pathlib.Path) -> list[int]:
  """Returns all steps whose name is there, damaged or not, ascending."""
  try:
    names = [path.name for path in directory.iterdir()]
  except (FileNotFoundError, NotADirectoryError):
    return []
  return sorted(int(n) for n in names if n.isdecimal() and str(int(n)) == n)


def none_intact(
  directory: pathlib.Path, skipped: list[Skipped]
) -> seals.Damaged:
  """Returns the error for checkpoints none of which can be used."""
  reasons = '; '.join(each.reason for each in skipped)
  return seals.Damaged(
    f'none of the checkpoints in {directory} can be used: {reasons}. Put one '
    'of them back from a copy; or remove what is there to train again'
  )


def _delete(path: pathlib.Path) -> None:
  """Deletes what a path names; a kill leaves nothing that has its name."""
  if path.is_dir() and not path.is_symlink():
    doomed = path
    if not path.name.endswith(files.PARTIAL):
      doomed = path.with_name(f'{path.name}{files.PARTIAL}')
      path.rename(doomed)
    shutil.rmtree(doomed)
  else:
    path.unlink(missing_ok=True)
