"""Where metrics go: metrics.jsonl and TensorBoard, with the same keys."""

import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from sam_jax.runs import files

_EVENTS = 'events.out.tfevents.'


class MetricWriter:
  """Appends metrics to a run directory. Close it when done.

  A run that is resumed from a checkpoint repeats the steps after it: what was
  logged beyond that step is cut, so that each step is there once.
  """

  def __init__(
    self, directory: pathlib.Path, *, start_step: int, tensorboard: bool
  ) -> None:
    """Opens or creates the files.

    Args:
      directory: the run directory.
      start_step: number of updates made; later lines are cut.
      tensorboard: whether to write TensorBoard events too.
    """
    path = directory / 'metrics.jsonl'
    if path.exists():
      _cut(path, start_step)
    self._lines = path.open('a', encoding='utf-8')
    self._events = _EventFile(directory, start_step) if tensorboard else None

  def write(
    self, step: int, epoch: float, metrics: Mapping[str, float]
  ) -> None:
    """Writes one line, and one TensorBoard point per metric."""
    line = {'step': step, 'epoch': epoch, **metrics}
    self._lines.write(json.dumps(line) + '\n')
    self._lines.flush()
    if self._events is not None:
      self._events.write(step, metrics)

  def sync(self) -> None:
    """Returns when all is on disk, where a power cut leaves it."""
    os.fsync(self._lines.fileno())
    if self._events is not None:
      self._events.sync()

  def close(self) -> None:
    """Closes the files."""
    self._lines.close()
    if self._events is not None:
      self._events.close()


class NoWriter:
  """Takes metrics and writes none: the other processes of a run."""

  def write(
    self, step: int, epoch: float, metrics: Mapping[str, float]
  ) -> None:
    """Does nothing."""

  def sync(self) -> None:
    """Does nothing."""

  def close(self) -> None:
    """Does nothing."""


class _EventFile:
  """A file of events that TensorBoard reads.

  Each record is written at once. The usual writers hand records to a thread,
  and what the thread still holds is lost when the process is killed.
  """

  def __init__(self, directory: pathlib.Path, start_step: int) -> None:
    # A fifth of a second, and not needed for a run without it.
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import record_writer

    self._event_pb2, self._summary_pb2 = event_pb2, summary_pb2
    # TensorBoard reads the files of a directory in the order of their names,
    # so this one has the last, even if the clock was put back.
    begun = max([time.time_ns(), *map(_last_written, _event_files(directory))])
    path = directory / f'{_EVENTS}{begun}'
    self._clock = begun / 1e9 - time.monotonic()
    self._file = path.open('xb')
    self._records = record_writer.RecordWriter(self._file)
    self._add(file_version='brain.Event:2')
    # Makes TensorBoard forget the points of an earlier start beyond this step.
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(step=start_step + 1, session_log=log)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes one point per metric."""
    values = [
      self._summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in metrics.items()
    ]
    self._add(step=step, summary=self._summary_pb2.Summary(value=values))
    self._file.flush()

  def sync(self) -> None:
    """Returns when all is on disk."""
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def _add(self, **fields: Any) -> None:
    """Writes one record."""
    now = self._clock + time.monotonic()
    event = self._event_pb2.Event(wall_time=now, **fields)
    self._records.write(event.SerializeToString())


def _event_files(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of earlier starts."""
  return list(directory.glob(f'{_EVENTS}*'))


def _last_written(path: pathlib.Path) -> int:
  """Returns a time after all points of a file, in nanoseconds."""
  name = path.name.removeprefix(_EVENTS)
  named = int(name) if name.isdecimal() else 0
  return max(named, path.stat().st_mtime_ns) + 1


def read(directory: pathlib.Path) -> list[dict[str, float]]:
  """Returns the lines of a run's metrics.jsonl, without a torn last one."""
  lines = (directory / 'metrics.jsonl').read_text('utf-8').splitlines()
  return [parsed for line in lines if (parsed := _parse(line))]


def _parse(line: str) -> dict[str, float] | None:
  """Returns a line's content, None if it was not written to its end."""
  try:
    return json.loads(line)
  except json.JSONDecodeError:
    return None


def _cut(path: pathlib.Path, step: int) -> None:
  """Drops the lines of later steps, and a line torn by a crash."""
  kept = [line for line in read(path.parent) if line['step'] <= step]
  files.write_text(path, ''.join(json.dumps(line) + '\n' for line in kept))
