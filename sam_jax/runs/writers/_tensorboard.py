"""TensorBoard: event files in the run directory."""

import contextlib
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from sam_jax.runs import callbacks
from sam_jax.runs.writers import base

_EVENTS = 'events.out.tfevents.'
# The clock of a file system stands still for up to 10 ms.
_TICK = 20_000_000  # nanoseconds


@base.register('tensorboard', needs='tensorboard')
class TensorBoard(base.Writer):
  """Writes a point for each metric of a line, under the same name.

  Each record is written at once. The usual writers hand records to a thread,
  and what the thread still holds is lost when the process is killed.
  """

  _file: Any = None

  def open(self, start: callbacks.Start) -> int:
    """Begins a file; TensorBoard forgets what is logged again."""
    # A fifth of a second, and not needed for a run without it.
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import record_writer

    self._event_pb2, self._summary_pb2 = event_pb2, summary_pb2
    if self._file is not None:  # after a failure
      with contextlib.suppress(OSError):
        self._file.close()
    earlier = list(start.workdir.glob(f'{_EVENTS}*'))
    # TensorBoard reads the files of a directory in the order of their names,
    # so this one has the last, even if the clock was put back.
    begun = max([time.time_ns(), *map(_last_written, earlier)])
    self._clock = begun / 1e9 - time.monotonic()
    self._file = (start.workdir / f'{_EVENTS}{begun}').open('xb')
    self._records = record_writer.RecordWriter(self._file)
    self._add(file_version='brain.Event:2')
    # Makes TensorBoard forget the points of an earlier start beyond this step.
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(step=start.step + 1 if earlier else 0, session_log=log)
    return start.rows if earlier else 0

  def write(self, number: int, line: base.Line) -> None:
    """Writes one point per metric."""
    del number
    values = [
      self._summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in line.items()
      if name not in ('step', 'epoch')
    ]
    summary = self._summary_pb2.Summary(value=values)
    self._add(step=int(line['step']), summary=summary)
    self._file.flush()

  def sync(self) -> None:
    """Returns when all is on disk."""
    self._stamp()
    os.fsync(self._file.fileno())

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Closes the file."""
    del result
    self._stamp()
    self._file.close()

  def _stamp(self) -> None:
    """Gives the file the time of its last point, which a next start looks at.

    The clock of the disk may have been put back since the file was begun.
    """
    self._file.flush()
    now = int(1e9 * self._now())
    os.utime(self._file.fileno(), ns=(now, now))

  def _now(self) -> float:
    """Returns the time, which never goes back, in seconds."""
    return self._clock + time.monotonic()

  def _add(self, **fields: Any) -> None:
    """Writes one record."""
    event = self._event_pb2.Event(wall_time=self._now(), **fields)
    self._records.write(event.SerializeToString())


def _last_written(path: pathlib.Path) -> int:
  """Returns a time after all points of a file, in nanoseconds."""
  name = path.name.removeprefix(_EVENTS)
  named = int(name) if name.isdecimal() else 0
  return max(named, path.stat().st_mtime_ns) + _TICK
