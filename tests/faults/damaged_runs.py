"""Runs that are damaged, and what readers and a start make of them.

Whatever happens to a file, a start resumes the run from a checkpoint that is
exactly as it was saved, with exactly the rows before it, and says what it had
to skip or repair; or it refuses in one line that names a file, and writes
nothing. The same holds for whoever only reads a checkpoint.
"""

import contextlib
import functools
import io
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from sam_jax.runs import (
  build,
  checkpoints as checkpoints_lib,
  journal as journal_lib,
  loading,
  metrics_log,
  preparation,
  workdir as workdir_lib,
)
from tests import tiny
from tests.faults import attempts, damage

STEPS = damage.STEPS
_LAST = 10
_FIELDS = tiny.PLAIN | {
  'model.norm': 'batch',
  'm': None,
  'microbatch_size': None,
  'checkpoint.max_to_keep': 3,
}


class Saved(NamedTuple):
  """What a start has to find of a checkpoint.

  Attributes:
    state: tree of arrays.
    remembered: by the journal.
    rows: of metrics.jsonl up to the checkpoint.
  """

  state: Any
  remembered: checkpoints_lib.JournalState
  rows: list[dict[str, Any]]


@functools.cache
def _experiment() -> build.Experiment:
  """The objects of the run, on one device."""
  return preparation.prepare(tiny.config(**_FIELDS)).experiment


@contextlib.contextmanager
def cheap() -> Iterator[None]:
  """Lets all starts share the objects of the run."""
  one = jax.devices()[:1]
  with (
    mock.patch.object(jax, 'devices', lambda: one),
    mock.patch.object(jax, 'device_count', lambda: 1),
  ):
    made = _experiment()
    with mock.patch.object(preparation.build, 'build', lambda *_: made):
      yield


def make_run(directory: pathlib.Path, *, finished: bool = False) -> None:
  """Makes a run directory without a training step.

  Args:
    directory: to make.
    finished: whether the run has made all its steps.
  """
  steps = (*STEPS, _LAST) if finished else STEPS
  with preparation.begin(tiny.config(**_FIELDS), directory) as begun:
    journal = journal_lib.Journal(
      begun.config, begun.experiment, directory, checkpoints_lib.JournalState()
    )
    saved = _open(directory, max_to_keep=3)
    with contextlib.closing(saved), contextlib.closing(journal):
      for step in range(1, steps[-1] + 1):
        _make_step(journal, step)
        if step in steps:
          journal.sync(step)
          state = _state(begun.state, step)
          saved.save(state, journal.state, begun.experiment.task.info)
    if finished:
      with contextlib.redirect_stdout(io.StringIO()):
        journal.finish(7)


def _open(
  directory: pathlib.Path, **options: Any
) -> checkpoints_lib.Checkpoints:
  """Opens the checkpoints of a run."""
  run_id = workdir_lib.run_id(directory)
  return checkpoints_lib.Checkpoints(
    directory / 'checkpoints', run_id=run_id, **options
  )


def _make_step(journal: journal_lib.Journal, step: int) -> None:
  """Logs a step, and an epoch if it ends with it."""
  values = {'loss': 1 / step, 'error_rate': 0.5}
  with contextlib.redirect_stdout(io.StringIO()):
    journal.add_step(step, journal_lib.StepValues(values, {}, 0.0))
    if step % tiny.STEPS_PER_EPOCH == 0:
      journal.add_epoch(step, {'test': values})


def _state(state: Any, step: int) -> Any:
  """Returns a state that is another one at each step."""
  return jax.tree.map(
    lambda x: x + step if np.issubdtype(x.dtype, np.floating) else x,
    jax.device_get(state),
  )


def read_run(directory: pathlib.Path) -> dict[int, Saved]:
  """Returns what a run directory holds that was not damaged, by step."""
  rows, found = metrics_log.read(directory), {}
  with contextlib.closing(_open(directory, read_only=True)) as saved:
    for step in saved.steps():
      remembered, _ = saved.read_journal(step)
      state = saved.read_state(step, _experiment().state_shapes())
      found[step] = Saved(
        jax.device_get(state), remembered, rows[: remembered.rows]
      )
  return found


# --- What has to come of it --------------------------------------------------


def check(
  run_directory: pathlib.Path,
  whole: dict[int, Saved],
  what: str,
  readers: tuple[str | int, ...] = ('last', 'best', STEPS[-1]),
) -> attempts.Attempt:
  """Reads a damaged run, starts it, and saves again.

  Args:
    run_directory: of `make_run`, damaged.
    whole: what it held before, by `read_run`.
    what: was done to it.
    readers: which checkpoints are loaded before the start.

  Returns:
    What came of it; there is a fault if anything passed in silence.
  """
  began = time.perf_counter()
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
      for reader in readers:
        _read(run_directory, whole, reader)
      outcome = _start(run_directory, whole, said)
    fault = ''
  except Exception as error:
    kind = type(error).__name__
    outcome, fault = 'fault', f'{what}: {kind}: {" ".join(str(error).split())}'
  return attempts.Attempt(outcome, fault, time.perf_counter() - began)


def _require(condition: Any, text: str) -> None:
  """Raises AssertionError; a fault of the program is none of its refusals."""
  if not condition:
    raise AssertionError(text)


def _is_refusal(directory: pathlib.Path, error: Exception) -> bool:
  """Returns whether an error is one line that names a file of the run."""
  return str(directory) in str(error) and '\n' not in str(error)


def _read(
  directory: pathlib.Path, whole: dict[int, Saved], checkpoint: str | int
) -> None:
  """Loads a checkpoint: what was saved, or a refusal; nothing is touched."""
  before = _tree(directory)
  try:
    restored = loading.restore(directory, checkpoint)
  except ValueError as error:
    _require(_is_refusal(directory, error), f'reading says {str(error)!r}')
  else:
    expected = whole[restored.step].state
    _require_equal(restored.variables['params'], expected.params)
    if isinstance(checkpoint, int):
      _require(restored.step == checkpoint, f'read step {restored.step}')
  _require(_tree(directory) == before, 'reading has changed the directory')


def _tree(directory: pathlib.Path) -> dict[str, Any]:
  """Returns the names and sizes of what is there."""
  return {
    str(path): path.lstat().st_size if not path.is_dir() else None
    for path in sorted(directory.rglob('*'))
  }


def _require_equal(found: Any, expected: Any) -> None:
  """Compares two trees of arrays bit for bit."""
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def _start(
  directory: pathlib.Path,
  whole: dict[int, Saved],
  said: io.StringIO,
) -> str:
  """Starts the run: it is resumed exactly, or refused; says which."""
  before = _tree(directory)
  # As if it had not been written yet: there is nothing to be said.
  is_gone = not os.path.lexists(directory / 'checkpoints' / str(max(whole)))
  said.seek(0)
  said.truncate()
  try:
    with preparation.begin(tiny.config(**_FIELDS), directory) as begun:
      _require(begun.result is None, 'the result is taken for that of the run')
      step, outcome = _resume(begun, whole, said)
      is_silent = outcome == 'passed over' and not is_gone
      _require(not is_silent, f'step {step} is used, and nothing is said')
      return outcome
  except ValueError as error:
    _require(_is_refusal(directory, error), f'a start says {str(error)!r}')
    _require(_tree(directory) == before, 'a refused start has written')
    return 'refused'


def _resume(
  begun: preparation.Begun,
  whole: dict[int, Saved],
  said: io.StringIO,
) -> tuple[int, str]:
  """Resumes a run, and saves the newest checkpoint again.

  Returns:
    The step from where, and what came of the start.
  """
  newest, directory = max(whole), begun.workdir
  saved = _open(directory, max_to_keep=3)
  with contextlib.closing(saved):
    step = saved.latest_step()
    _require(step is not None, 'the run starts again from step 0')
    remembered, _ = saved.read_journal(step)
    _require(remembered == whole[step].remembered, 'other progress')
    state = saved.read_state(step, begun.state)
    _require_equal(state, whole[step].state)
    rows = metrics_log.Rows(remembered.rows, remembered.rows_checksum)
    metrics_log.MetricWriter(directory, rows).close()
    _require(metrics_log.read(directory) == whole[step].rows, 'other rows')
    saved.save(whole[newest].state, whole[newest].remembered, {})
    saved.wait()
    _require(saved.damage(newest) is None, 'it cannot be saved again')
  has_said = 'warning: ' in said.getvalue()
  if step == newest:
    return step, 'repaired' if has_said else 'not needed'
  return step, 'resumed from an older one' if has_said else 'passed over'


def attack(
  directory: pathlib.Path, count: int, seed: int
) -> Iterator[attempts.Attempt]:
  """Damages the newest checkpoint of a run many times, and the other files.

  Args:
    directory: empty, for the runs.
    count: damages of the checkpoint; the other files are damaged in each way
      once.
    seed: of the damages.
  """
  with cheap():
    runs = [directory / 'running', directory / 'finished']
    for finished, run in enumerate(runs):
      make_run(run, finished=bool(finished))
    wholes = [read_run(run) for run in runs]
    for i in range(count):
      copy = shutil.copytree(runs[0], directory / f'{i:05}')
      what = damage.damage_checkpoint(copy, seed + i)
      yield check(copy, wholes[0], f'seed {seed + i}: {what}')
      shutil.rmtree(copy)
    for i, name in enumerate(damage.OF_OTHER_FILES):
      copy = directory / f'file_{i:02}'
      kind = damage.needs_a_finished_run(name)
      shutil.copytree(runs[kind], copy)
      damage.OF_OTHER_FILES[name](copy)
      yield check(copy, wholes[kind], name)
      shutil.rmtree(copy)
