"""Writers follow metrics.jsonl, and whatever they raise ends no run."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sam_jax.runs import callbacks, metrics_log
from sam_jax.runs.writers import base

_LENGTH = 200  # of what a library says of its failure
# An attempt may wait for a server that does not answer: the next one is made
# after this many times as long, so that a run is held up by a tenth at most.
_PATIENCE = 10


class Followers(callbacks.Callback):
  """The writers of a run."""

  def __init__(self, names: Sequence[str]) -> None:
    """Makes the writers.

    Args:
      names: of the writers; see `base.check`.
    """
    self._followers = [_Follower(name) for name in names]

  def on_start(self, start: callbacks.Start) -> None:
    """Opens the writers, and gives them the lines that they lack."""
    for follower in self._followers:
      follower.start(start)

  def on_line(
    self, step: int, epoch: float, metrics: Mapping[str, float]
  ) -> None:
    """Gives each writer a line."""
    for follower in self._followers:
      follower.add({'step': step, 'epoch': epoch, **metrics})

  def on_checkpoint(self, step: int, path: pathlib.Path) -> None:
    """Makes the lines safe, and tries a writer again that has failed."""
    del step, path
    for follower in self._followers:
      follower.sync()

  def on_end(self, result: Mapping[str, Any] | None) -> None:
    """Closes the writers."""
    for follower in self._followers:
      follower.close(result)


class _Follower:
  """One writer, and how many lines it has."""

  def __init__(self, name: str) -> None:
    """Makes the writer."""
    self._name = name
    self._writer: base.Writer | None = None
    self._start: callbacks.Start | None = None
    self._lines = 0  # of metrics.jsonl
    self._written = 0
    self._is_open = False
    self._has_failed = False
    self._next_attempt = 0.0  # a time

  def start(self, start: callbacks.Start) -> None:
    """Opens the writer."""
    self._start, self._lines = start, start.rows
    with self._guarded():
      self._catch_up(start)

  def add(self, line: base.Line) -> None:
    """Gives the writer a line, unless it has the line already."""
    number, self._lines = self._lines, self._lines + 1
    if self._is_open:
      with self._guarded():
        self._write(number, line)

  def sync(self) -> None:
    """Makes the lines safe, after another attempt if the writer has failed."""
    if self._is_open or time.monotonic() >= self._next_attempt:
      with self._guarded():
        if not self._is_open and self._start is not None:
          self._catch_up(self._start)
        if self._writer is not None:
          self._writer.sync()

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Closes the writer; a run that is finished makes a last attempt."""
    if result is not None:
      self._next_attempt = 0.0
      self.sync()
    if self._is_open and self._writer is not None:
      with self._guarded():
        self._writer.close(result)

  def _catch_up(self, start: callbacks.Start) -> None:
    """Opens the writer and gives it the lines that it lacks."""
    if self._writer is None:
      self._writer = base.create(self._name)
    self._written = self._writer.open(start)
    if self._written < self._lines:
      lines = metrics_log.read(start.workdir)
      for number in range(self._written, self._lines):
        self._write(number, lines[number])
    self._is_open = True
    if self._has_failed:
      self._say('works again, and has all lines')

  def _write(self, number: int, line: base.Line) -> None:
    """Gives the writer a line that it does not have."""
    if self._writer is None or self._start is None or number < self._written:
      return
    self._writer.write(number, line)
    self._written = done = number + 1
    # For another attempt, should the next line fail.
    step = int(line['step'])
    self._start = self._start._replace(step=step, rows=done, logged=done)

  @contextlib.contextmanager
  def _guarded(self) -> Iterator[None]:
    """Makes an error of a writer a line, once until it works again."""
    begun = time.monotonic()
    try:
      yield
    except (Exception, SystemExit) as error:  # of a library, or of a user's
      if self._is_open or not self._has_failed:
        text = ' '.join(f'{type(error).__name__}: {error}'.split())
        self._say(
          f'failed ({text[:_LENGTH]}); the run goes on, and the writer is '
          'given the lines that it lacks when a later checkpoint is saved'
        )
      self._is_open, self._has_failed = False, True
      now = time.monotonic()
      self._next_attempt = now + _PATIENCE * (now - begun)

  def _say(self, text: str) -> None:
    """Prints a line."""
    line = f'warning: the writer {self._name!r} {text}'
    print(line, file=sys.stderr, flush=True)
