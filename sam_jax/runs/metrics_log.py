"""metrics.jsonl: a line for each epoch, and for each step if asked for."""

import contextlib
import errno
import functools
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sam_jax.runs import files, seals

_FILE = 'metrics.jsonl'


class Rows(NamedTuple):
  """The rows of metrics.jsonl that a checkpoint knows of: all before it.

  Attributes:
    number: how many.
    checksum: checksum over them, as what they mean; spaces do not matter.
  """

  number: int = 0
  checksum: int = 0

  def plus(self, row: Mapping[str, Any]) -> 'Rows':
    """Returns those with one more."""
    return Rows(self.number + 1, seals.checksum(row, self.checksum))

  @classmethod
  def of(cls, rows: Iterable[Mapping[str, Any]]) -> 'Rows':
    """Returns what a checkpoint after these rows knows of them."""
    return functools.reduce(cls.plus, rows, cls())


class MetricWriter:
  """Appends metrics to a run directory. Close it when done.

  A run that is resumed from a checkpoint repeats the steps after it: what was
  logged beyond that checkpoint is cut, so that each step is there once.

  Attributes:
    rows: that are in metrics.jsonl.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    rows: Rows = Rows(),  # noqa: B008  (immutable)
  ) -> None:
    """Opens or creates the file.

    Args:
      directory: the run directory.
      rows: that were logged until then; what follows them is cut.

    Raises:
      ValueError: they are not in metrics.jsonl.
    """
    self._path = directory / _FILE
    self.rows = rows
    with contextlib.ExitStack() as opened:  # closed again if one cannot be
      self._directory = os.open(directory, os.O_RDONLY)
      opened.callback(os.close, self._directory)
      if self._path.exists() or rows.number:
        kept = find(directory, rows)
        text = ''.join(json.dumps(row) + '\n' for row in kept)
        files.write_text(self._path, text)
      # To append, and to read it all again.
      self._lines = self._path.open('ab+')
      opened.callback(lambda: self._lines.close())
      files.sync(directory)
      self._close = opened.pop_all().close

  def write(
    self, step: int, epoch: float, metrics: Mapping[str, float]
  ) -> None:
    """Writes one line."""
    row = {'step': step, 'epoch': epoch, **metrics}
    self._lines.write(json.dumps(row).encode('utf-8') + b'\n')
    self._lines.flush()
    self.rows = self.rows.plus(row)

  def sync(self) -> None:
    """Returns when all is on disk, where a power cut leaves it."""
    self._check_directory()
    os.fsync(self._lines.fileno())
    self._restore_deleted()

  def close(self) -> None:
    """Closes the file."""
    self._close()

  def _check_directory(self) -> None:
    """Refuses to go on in a directory that has been removed.

    What is under its name now is another one: Orbax makes what it misses.

    Raises:
      FileNotFoundError: it has been.
    """
    directory = self._path.parent
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(directory.stat(), os.fstat(self._directory)):
        return
    text = 'the run directory was removed while the run was going'
    raise FileNotFoundError(errno.ENOENT, text, str(directory))

  def _restore_deleted(self) -> None:
    """Writes metrics.jsonl again if its name is not that of our file any more.

    The file that was opened is still there, under no name.
    """
    try:
      if os.path.samestat(self._path.stat(), os.fstat(self._lines.fileno())):
        return
    except FileNotFoundError:
      pass
    self._lines.seek(0)
    content = self._lines.read()
    files.write_atomically(self._path, lambda stream: stream.write(content))
    self._lines.close()
    self._lines = self._path.open('ab+')
    print(
      f'warning: {self._path} was deleted or replaced while the run was going; '
      'it is written again, with all its rows',
      file=sys.stderr,
    )


class NoWriter:
  """Takes metrics and writes none: the other processes of a run."""

  rows = Rows()

  def write(
    self, step: int, epoch: float, metrics: Mapping[str, float]
  ) -> None:
    """Does nothing."""

  def sync(self) -> None:
    """Does nothing."""

  def close(self) -> None:
    """Does nothing."""


def read(directory: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of a run's metrics.jsonl, without a torn last one.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it cannot be read, or another line of it is not a row; the
      message names the file and the line.
  """
  path = directory / _FILE
  *lines, last = _lines(path)
  rows = []
  for number, line in enumerate(lines, 1):
    row = _parse(line)
    if row is None:
      raise ValueError(
        f'{path} is damaged: line {number} is not a row of metrics; start the '
        'run again to repair it, or put the file back from a copy'
      )
    rows.append(row)
  row = _parse(last)  # a crash leaves one that was not written to its end
  return rows if row is None else [*rows, row]


def find(directory: pathlib.Path, expected: Rows) -> list[dict[str, Any]]:
  """Returns the rows that a checkpoint knows of, from metrics.jsonl.

  What follows them was logged after the checkpoint. Lines that are no rows,
  rows that are there twice and rows in another order do not matter, as long as
  the rows of the checkpoint can be told from them.

  Raises:
    ValueError: they are not there; the message names the file.
  """
  if not expected.number:
    return []
  path = directory / _FILE
  try:
    rows = [row for line in _lines(path) if (row := _parse(line))]
  except FileNotFoundError:
    raise ValueError(
      f'{path} is missing, of which {expected.number} rows are known'
    ) from None
  for order in (_as_they_are, _without_doubles, _by_step):
    kept = order(rows)[: expected.number]
    if Rows.of(kept) == expected:
      return kept
  raise ValueError(
    f'{path} does not hold its first {expected.number} rows as they were logged'
  )


def count(directory: pathlib.Path) -> int:
  """Returns how many different rows there are, those to be cut among them."""
  try:
    lines = _lines(directory / _FILE)
  except FileNotFoundError:
    return 0
  return len(_without_doubles([row for x in lines if (row := _parse(x))]))


def is_clean(directory: pathlib.Path, rows: list[dict[str, Any]]) -> bool:
  """Returns whether the file begins with these rows and nothing between."""
  lines = _lines(directory / _FILE)[: len(rows)] if rows else []
  return [_parse(line) for line in lines] == rows


def _as_they_are(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns the rows."""
  return rows


def _without_doubles(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns each row once, where it is first."""
  return list({json.dumps(row, sort_keys=True): row for row in rows}.values())


def _by_step(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns each row once, in the order of their steps."""
  # Of the rows of a step, that of an epoch is the last.
  return sorted(
    _without_doubles(rows),
    key=lambda row: (row['step'], 'examples_per_second' in row),
  )


def _lines(path: pathlib.Path) -> list[bytes]:
  """Returns the lines of a file, and what follows the last of them.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it cannot be read.
  """
  try:
    return path.read_bytes().split(b'\n')
  except FileNotFoundError:
    raise
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error.strerror}') from error


def _parse(line: bytes) -> dict[str, Any] | None:
  """Returns the row that a line holds, None if it is no row."""
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):  # among them, what is not UTF-8
    return None
  is_row = isinstance(row, dict) and all(
    isinstance(row.get(name), int | float) for name in ('step', 'epoch')
  )
  return row if is_row else None
