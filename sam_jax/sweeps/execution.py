"""Runs the cells of a sweep that are left, wherever there is room for them.

Where cells run is a `Place`: processes on this machine (`pool`), or a Ray
cluster (`ray_cluster`). What is finished is left alone, and an interrupted run
resumes, so the same command again is all that it takes after a kill.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from sam_jax.runs import interrupts, lock, workdir as workdir_lib
from sam_jax.sweeps import (
  cells as cells_lib,
  check as check_lib,
  child,
  display,
  failures,
  results,
  run_files,
)


class Place(Protocol):
  """Where cells run."""

  def check(self, cells: Sequence[cells_lib.Fields]) -> list[str]:
    """Returns why cells cannot be run there, a line for each reason."""

  def has_room(self) -> bool:
    """Returns whether another cell can be started."""

  def start(self, cell: cells_lib.Fields) -> None:
    """Starts a cell."""

  def ended(self) -> list[tuple[cells_lib.Fields, child.End]]:
    """Waits a moment; returns the cells that have ended since, and how."""

  def stop(self) -> None:
    """Asks all runs to save a checkpoint and to end; does not wait."""


def log_path(cell: cells_lib.Fields, directory: pathlib.Path) -> pathlib.Path:
  """Returns the file with the output of a cell's run."""
  return directory / 'logs' / f'{cells_lib.cell_name(cell)}.log'


def execute(
  cells: Sequence[cells_lib.Fields],
  directory: pathlib.Path,
  place: Place,
  *,
  retry: bool = False,
  check: bool = False,
) -> int:
  """Runs the cells that are not finished; prints what becomes of them.

  A cell that fails does not stop the rest, nor does one whose files cannot be
  read or written.

  Args:
    cells: of a sweep, checked.
    directory: of the sweep, absolute; made if it does not exist.
    place: where the cells run.
    retry: whether to run cells again that failed before with the settings that
      they have now.
    check: whether to build all cells that are left before the first one starts.

  Returns:
    The exit status: 0 if every cell is finished, 1 if some are not, 128 + the
    number of the signal that stopped the sweep. Runs that a signal stopped have
    saved a checkpoint.

  Raises:
    ValueError: another sweep runs in the directory.
    check_lib.Refused: a cell cannot be run. Nothing was started or written.
  """
  with lock.hold(directory, 'sweep'):
    execution = _Execution(cells, directory, place, retry)
    if check:
      execution.check()
    return execution.run()


class _Execution:
  """One call of `execute`."""

  def __init__(
    self,
    cells: Sequence[cells_lib.Fields],
    directory: pathlib.Path,
    place: Place,
    retry: bool,
  ) -> None:
    self._cells, self._directory, self._place = cells, directory, place
    # Cells that are not started yet, and those that were and have not ended.
    self._pending: dict[str, cells_lib.Fields] = {}
    self._running: set[str] = set()
    # Why cells failed, and why others were left: they only have to be resumed.
    self._finished: set[str] = set()
    self._failed: dict[str, str] = {}
    self._left: dict[str, str] = {}
    # Cells that failed and would fail again, and what has changed of others.
    self._remembered: set[str] = set()
    self._changed: dict[str, str] = {}
    for cell in cells:
      self._sort(cells_lib.cell_name(cell), cell, retry)
    self._display = display.Display(len(cells), self._made())

  def check(self) -> None:
    """Refuses cells that cannot be run, before one is started."""
    if not self._pending:
      return
    total = len(self._cells)
    print(f'checking {len(self._pending)} of {total} cells', flush=True)
    problems = self._place.check(list(self._pending.values()))
    if problems:
      raise check_lib.Refused(problems)

  def _sort(self, name: str, cell: cells_lib.Fields, retry: bool) -> None:
    """Takes note of whether a cell is finished, failed, or to be started."""
    try:
      if is_finished(cell, self._directory):
        self._finished.add(name)
        return
      failure = failures.read(cell, self._directory)
    except OSError as error:  # who knows whether it is finished
      self._left[name] = str(error)
      return
    except ValueError as error:  # another run
      self._failed[name] = str(error)
      return
    changed = ''
    if failure is not None:
      now = failures.settings(cell, self._directory)
      changed = failures.changes(failure.settings, now)
    if failure is None or changed or retry:
      self._pending[name] = cell
      self._changed[name] = changed
    else:
      self._failed[name] = failure.reason
      self._remembered.add(name)

  def run(self) -> int:
    """Runs all; returns the exit status."""
    with interrupts.Listener() as listener, contextlib.closing(self._display):
      while self._pending or self._running:
        if listener.signum is not None:
          break
        self._fill()
        self._attend()
      if self._running:
        self._place.stop()
      while self._running:
        self._attend()
    return self._conclude(listener.signum)

  def _fill(self) -> None:
    """Starts the cells that can be started now."""
    for name, cell in list(self._pending.items()):
      if not self._place.has_room():
        return
      needed = list(map(cells_lib.cell_name, cells_lib.needs(cell)))
      if any(n in self._pending or n in self._running for n in needed):
        continue
      del self._pending[name]
      missing = [n for n in needed if n not in self._finished]
      if missing:
        self._fail(name, f'needs {missing[0]}, which is not finished')
      else:
        with self._guard(name):
          self._start(name, cell)

  def _start(self, name: str, cell: cells_lib.Fields) -> None:
    """Starts a cell."""
    if self._changed[name]:
      self._line(f'started again: {name}: {self._changed[name]}')
    failures.forget(cell, self._directory)
    self._place.start(cell)
    self._running.add(name)

  def _attend(self) -> None:
    """Waits a moment, and takes note of the cells that have ended."""
    for cell, end in self._place.ended():
      name = cells_lib.cell_name(cell)
      self._running.discard(name)
      with self._guard(name):
        self._take_note(name, cell, end)
    if self._display.is_due():
      running, failed = len(self._running), len(self._failed)
      self._display.move(self._made(), running, failed)

  def _take_note(
    self, name: str, cell: cells_lib.Fields, end: child.End
  ) -> None:
    """Says what became of a cell that has ended."""
    if end.result is not None:
      self._finish(name, end.result)
    elif end.is_failure:
      # First: the disk may be full, which says less than the reason.
      self._fail(name, end.reason)
      failures.write(cell, self._directory, end.reason)
      self._remembered.add(name)
    else:
      self._left[name] = end.reason
      self._line(f'not finished: {name}: {end.reason}')

  def _finish(self, name: str, result: dict[str, Any]) -> None:
    """Takes note of a cell that is finished, and says what it found."""
    self._finished.add(name)
    run = results.FinishedRun(self._directory / name, {}, result)
    score = run.score.text(result[results.FINAL])
    seconds = result['wall_seconds']
    self._line(
      f'{run.split} {run.score.label} {score} in {seconds:.0f} s: {name}'
    )

  @contextlib.contextmanager
  def _guard(self, name: str) -> Iterator[None]:
    """Makes files that cannot be read or written a failure of one cell.

    The same command tries the cell again.
    """
    try:
      yield
    except (OSError, ValueError) as error:
      self._fail(name, str(error))

  def _fail(self, name: str, reason: str) -> None:
    """Takes note of a cell that cannot be finished."""
    self._failed[name] = reason
    self._line(f'failed: {name}: {reason}')

  def _line(self, text: str) -> None:
    """Prints a line with the progress of the sweep."""
    self._display.line(text, len(self._finished), self._made())

  def _made(self) -> float:
    """Returns how many cells' worth of runs is made."""
    names = map(cells_lib.cell_name, self._cells)
    return len(self._finished) + sum(
      results.fraction(self._directory / name)
      for name in names
      if name not in self._finished
    )

  def _conclude(self, signum: int | None) -> int:
    """Says what is finished and what is not; returns the exit status."""
    print(f'{len(self._finished)} of {len(self._cells)} cells are finished')
    for cell in self._cells:
      name = cells_lib.cell_name(cell)
      log = log_path(cell, self._directory)
      where = f' ({log})' if os.path.exists(log) else ''
      for what, why in (('not finished', self._left), ('failed', self._failed)):
        if name in why:
          print(f'{what}: {name}: {why[name]}{where}')
    if self._remembered:
      print(
        f'{len(self._remembered)} of {len(self._cells)} cells failed and are '
        'not run again as they are; change their settings, or give --retry'
      )
    if signum is not None:
      print('stopped by a signal; the same command resumes the sweep')
      return 128 + signum
    return 0 if len(self._finished) == len(self._cells) else 1


def is_finished(cell: cells_lib.Fields, directory: pathlib.Path) -> bool:
  """Returns whether a cell has its result.

  A run that is not finished, or whose result is damaged, says itself what is
  wrong with it.

  Raises:
    ValueError: the directory has another run: the config file may have been
      edited since, or be another one of that name.
    OSError: the disk does not answer.
  """
  workdir = cells_lib.workdir(cell, directory)
  try:
    result = run_files.read_result(workdir)
  except ValueError:
    return False
  if result is None:
    return False
  saved = run_files.read_config(workdir)
  if saved is None:
    return True
  config = cells_lib.config(cell, directory)
  try:
    workdir_lib.check_finished(config, saved)
  except run_files.FAULTS as error:
    path = workdir / 'config.json'
    raise ValueError(f'{path} cannot be read ({error})') from error
  return run_files.is_as_long(result, config)
