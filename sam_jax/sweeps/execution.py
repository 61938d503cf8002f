"""Runs the cells of a sweep that are left, wherever there is room for them.

Where cells run is a `Place`: processes on this machine (`pool`), or a Ray
cluster (`ray_cluster`). What is finished is left alone, and an interrupted run
resumes, so the same command again is all that it takes after a kill.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from sam_jax.runs import interrupts, lock, workdir as workdir_lib
from sam_jax.sweeps import cells as cells_lib, child, display, results


class Place(Protocol):
  """Where cells run."""

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
) -> int:
  """Runs the cells that are not finished; prints what becomes of them.

  A cell that fails does not stop the rest, nor does one whose files cannot be
  read or written.

  Args:
    cells: of a sweep, checked.
    directory: of the sweep, absolute; made if it does not exist.
    place: where the cells run.
    retry: whether to run cells again that failed before.

  Returns:
    The exit status: 0 if every cell is finished, 1 if some are not, 128 + the
    number of the signal that stopped the sweep. Runs that a signal stopped have
    saved a checkpoint.

  Raises:
    ValueError: another sweep runs in the directory.
  """
  with lock.hold(directory, 'sweep'):
    return _Execution(cells, directory, place, retry).run()


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
    self._retry = retry
    self._other_runs = _other_runs(cells, directory)
    self._finished = {
      name
      for cell in cells
      if (name := cells_lib.cell_name(cell)) not in self._other_runs
      and results.is_finished(directory / name)
    }
    # Why cells failed, and why others were left: they only have to be resumed.
    self._failed: dict[str, str] = {}
    self._left: dict[str, str] = {}
    # Cells that are not started yet, and those that were and have not ended.
    self._pending = {cells_lib.cell_name(cell): cell for cell in cells}
    self._running: set[str] = set()
    self._display = display.Display(len(cells), self._made())

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
      if name in self._finished:
        continue
      if missing:
        self._fail(name, f'needs {missing[0]}, which is not finished')
      else:
        with self._guard(name):
          self._start(name, cell)

  def _start(self, name: str, cell: cells_lib.Fields) -> None:
    """Starts a cell, unless its directory has another run, or it failed."""
    if name in self._other_runs:
      return self._fail(name, self._other_runs[name])
    failure = self._failure(name)
    if failure.exists() and not self._retry:
      self._failed[name] = failure.read_text('utf-8').strip()
      return None
    failure.unlink(missing_ok=True)
    self._place.start(cell)
    self._running.add(name)
    return None

  def _attend(self) -> None:
    """Waits a moment, and takes note of the cells that have ended."""
    for cell, end in self._place.ended():
      name = cells_lib.cell_name(cell)
      self._running.discard(name)
      with self._guard(name):
        self._take_note(name, end)
    if self._display.is_due():
      running, failed = len(self._running), len(self._failed)
      self._display.move(self._made(), running, failed)

  def _take_note(self, name: str, end: child.End) -> None:
    """Says what became of a cell that has ended."""
    if end.result is not None:
      self._finish(name, end.result)
    elif end.is_failure:
      failure = self._failure(name)
      failure.parent.mkdir(parents=True, exist_ok=True)
      failure.write_text(end.reason + '\n', 'utf-8')
      self._fail(name, end.reason)
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
    return sum(results.fraction(self._directory / name) for name in names)

  def _failure(self, name: str) -> pathlib.Path:
    """Returns the file that says why a cell failed."""
    return self._directory / 'failed' / name

  def _conclude(self, signum: int | None) -> int:
    """Says what is finished and what is not; returns the exit status."""
    print(f'{len(self._finished)} of {len(self._cells)} cells are finished')
    for cell in self._cells:
      name = cells_lib.cell_name(cell)
      log = log_path(cell, self._directory)
      where = f' ({log})' if log.exists() else ''
      for what, why in (('not finished', self._left), ('failed', self._failed)):
        if name in why:
          print(f'{what}: {name}: {why[name]}{where}')
    if signum is not None:
      print('stopped by a signal; the same command resumes the sweep')
      return 128 + signum
    return 0 if len(self._finished) == len(self._cells) else 1


def _other_runs(
  cells: Sequence[cells_lib.Fields], directory: pathlib.Path
) -> dict[str, str]:
  """Returns why finished runs are not those of their cells, by name.

  The config file may have been edited since, or be another one of that name. A
  run that is not finished checks this itself.
  """
  found = {}
  for cell in cells:
    workdir = cells_lib.workdir(cell, directory)
    if not results.is_finished(workdir):
      continue
    try:
      saved = workdir_lib.read_config(workdir)
      if saved is not None:
        config = cells_lib.config(cell, directory)
        workdir_lib.check_finished(config, saved)
    except ValueError as error:
      found[workdir.name] = str(error)
  return found
