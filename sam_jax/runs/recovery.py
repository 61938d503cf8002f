"""What a start finds in a run directory, and what it makes of damage there.

Each start looks at the files of the run before it writes anything. What is
wrong with one of them is repaired and said in one line, or the start is refused
with one line that names the file:

- A checkpoint that is empty, torn, changed or of another step or run is
  skipped and renamed to `STEP.damaged`; the newest one that is intact is used.
  The steps after it are made again. If none is intact, the start is refused.
- config.json: if it is missing or damaged and the run has begun, the start is
  refused. Nothing else says which run it is.
- metrics.jsonl: a checkpoint knows the rows before it. Rows that are there
  twice or in another order, and lines that are no rows (torn, of something
  else, not UTF-8), are repaired. If the rows are not all there (the file or a
  row is missing or changed, or one of another run is among them), the start is
  refused: to go back to an older checkpoint whose rows are there may cost days,
  so the message says which one that is, and leaves it to the user.
- metrics.jsonl that is deleted while a run is going is written again at the
  next checkpoint, see `metrics_log`.
- result.json that is empty, torn, changed, or of another run or other steps
  is not used: the run is resumed from its checkpoint, and writes it again. If
  there is no checkpoint, the start is refused.
"""

import contextlib
import pathlib
import sys
from typing import Any, NamedTuple

from sam_jax.runs import (
  checkpoints,
  files,
  metrics_log,
  workdir as workdir_lib,
)

_METRICS = 'metrics.jsonl'


class Found(NamedTuple):
  """What a run directory holds.

  Attributes:
    step: of the checkpoint to resume from, None if there is none.
    result: content of result.json, None if it is not there or not used.
    skipped: checkpoints that are newer and cannot be used.
    notes: what else is wrong and will be repaired, a line each.
  """

  step: int | None = None
  result: dict[str, Any] | None = None
  skipped: tuple[checkpoints.Skipped, ...] = ()
  notes: tuple[str, ...] = ()


def inspect(workdir: pathlib.Path, num_steps: int) -> Found:
  """Looks at the files of a run; writes nothing.

  Args:
    workdir: run directory.
    num_steps: that the run is to make in all.

  Raises:
    ValueError: something is wrong and cannot be repaired.
  """
  if not (workdir / 'config.json').exists():
    return Found()
  result, notes = _result(workdir, num_steps)
  if result is not None and result['steps'] == num_steps:
    return Found(result=result)
  step, skipped = newest_usable(workdir)
  if step is None and (notes or result is not None):
    raise ValueError(
      f'{notes[0] if notes else _shorter(workdir)}, and there is no checkpoint '
      'to resume the run from; put the files back from a copy, or use another '
      'workdir'
    )
  if result is not None and step is not None and step < result['steps']:
    notes.append(_of_other_steps(workdir, result, step))
    result = None
  notes = [
    f'{n}; the run is resumed from step {step}, and writes it' for n in notes
  ]
  if step is not None:
    notes += _metrics_notes(workdir, step)
  return Found(step, result, skipped, tuple(notes))


def newest_usable(
  workdir: pathlib.Path,
) -> tuple[int | None, tuple[checkpoints.Skipped, ...]]:
  """Returns the step to resume a run from, and what is newer and damaged.

  The step is None if there is no checkpoint at all.

  Raises:
    ValueError: there are checkpoints, and none of them can be used; or
      metrics.jsonl or checkpoints is not what it should be.
  """
  metrics, directory = workdir / _METRICS, workdir / 'checkpoints'
  if metrics.exists() and not metrics.is_file():
    raise ValueError(f'{metrics} is not a file; move it away')
  if directory.exists() and not directory.is_dir():
    raise ValueError(f'{directory} is not a directory; move it away')
  with _open(workdir) as saved:
    step, skipped = saved.newest_intact()
    if step is None and skipped:
      raise checkpoints.none_intact(directory, skipped)
    if step is not None:
      _check_rows(workdir, saved, step)
  return step, tuple(skipped)


def repair(workdir: pathlib.Path, found: Found) -> None:
  """Says what is wrong in a run directory, and takes it out of the way."""
  lines = [
    f'{each.reason}; step {each.step} is skipped, and the run is resumed from '
    f'step {found.step}'
    for each in found.skipped
  ]
  for line in [*lines, *found.notes]:
    print(f'warning: {line}', file=sys.stderr)
  # What a kill left half-written; the lock is held, so nobody writes it now.
  for partial in workdir.glob(f'*{files.PARTIAL}'):
    partial.unlink(missing_ok=True)
  if found.skipped:
    with _open(workdir) as saved:
      for each in found.skipped:
        saved.set_aside(each.step)


def _open(
  workdir: pathlib.Path,
) -> contextlib.closing[checkpoints.Checkpoints]:
  """Opens the checkpoints of a run, to look at them."""
  return contextlib.closing(
    checkpoints.Checkpoints(
      workdir / 'checkpoints',
      run_id=workdir_lib.run_id(workdir),
      read_only=True,
    )
  )


def _check_rows(
  workdir: pathlib.Path, saved: checkpoints.Checkpoints, step: int
) -> None:
  """Refuses a metrics.jsonl that lacks rows which a checkpoint knows of.

  Raises:
    ValueError: it names the newest checkpoint whose rows are there.
  """
  try:
    metrics_log.find(workdir, _rows(saved, step))
  except ValueError as error:
    older = [
      s for s in saved.steps() if s < step and _has_rows(workdir, saved, s)
    ]
    way_back = (
      f'or remove the checkpoints after step {max(older)} in '
      f'{workdir / "checkpoints"}, and the run is resumed from there'
      if older
      else 'or use another workdir'
    )
    raise ValueError(
      f'{error} until step {step}; put it back from a copy, {way_back}'
    ) from error


def _has_rows(
  workdir: pathlib.Path, saved: checkpoints.Checkpoints, step: int
) -> bool:
  """Returns whether the rows that a checkpoint knows of are there."""
  with contextlib.suppress(ValueError):
    metrics_log.find(workdir, _rows(saved, step))
    return True
  return False


def _rows(saved: checkpoints.Checkpoints, step: int) -> metrics_log.Rows:
  """Returns what a checkpoint knows of the rows before it."""
  remembered, _ = saved.read_journal(step)
  return metrics_log.Rows(remembered.rows, remembered.rows_checksum)


def _metrics_notes(workdir: pathlib.Path, step: int) -> list[str]:
  """Returns a line if metrics.jsonl has to be repaired."""
  with _open(workdir) as saved:
    expected = _rows(saved, step)
  if metrics_log.is_clean(workdir, metrics_log.find(workdir, expected)):
    return []
  return [
    f'{workdir / _METRICS} has lines that do not belong there; it is written '
    f'again with the {expected.number} rows up to step {step}'
  ]


def _result(
  workdir: pathlib.Path, num_steps: int
) -> tuple[dict[str, Any] | None, list[str]]:
  """Returns result.json if it can be that of the run, and why it cannot."""
  try:
    result = workdir_lib.read_result(workdir)
  except ValueError as error:
    return None, [str(error)]
  if result is not None and result['steps'] > num_steps:
    return None, [_of_other_steps(workdir, result, num_steps)]
  return result, []


def _of_other_steps(
  workdir: pathlib.Path, result: dict[str, Any], steps: int
) -> str:
  """Returns what is wrong with a result of other steps than were made."""
  return (
    f'{workdir / "result.json"} is of {result["steps"]} steps, the run is of '
    f'{steps}'
  )


def _shorter(workdir: pathlib.Path) -> str:
  """Returns why a run that is finished cannot be made longer."""
  return f'the run in {workdir} is finished and shorter'
