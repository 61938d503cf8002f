"""Runs the cells of a sweep in processes of their own, some at a time."""

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import tqdm

from sam_jax.runs import progress_line, workdir as workdir_lib
from sam_jax.sweeps import cells as cells_lib

_POLL_SECONDS = 0.5
_SHOW_SECONDS = 2
_LOOK_SECONDS = 5  # between looks at cells that could not be started
_STOP_SECONDS = 120
_PR_SET_PDEATHSIG = 1
# Exit statuses of a run that goes on where it was: no failure of its own.
_STOPPED = (
  128 + signal.SIGTERM,
  128 + signal.SIGINT,
  -signal.SIGTERM,
  -signal.SIGINT,
)


_TRACEBACK = 'Traceback (most recent call last):'


@dataclasses.dataclass
class _Run:
  """A cell that is running."""

  cell: cells_lib.Fields
  claim: cells_lib.Claim
  process: subprocess.Popen
  log_start: int  # where in the log its output begins
  slot: int
  renewed: float


class Runner:
  """Runs the cells that are left.

  A cell that fails does not stop the rest, nor does one whose files cannot be
  read or written. Two runners, on one machine or on several, may share a
  directory: each cell is claimed by one of them.
  """

  def __init__(
    self,
    cells: Sequence[cells_lib.Fields],
    directory: pathlib.Path,
    *,
    workers: int = 1,
    gpus: Sequence[str] = (),
    retry: bool = False,
    root: pathlib.Path,
  ) -> None:
    """Looks at what is done already.

    Args:
      cells: of a sweep, checked.
      directory: of all runs, absolute.
      workers: cells at a time.
      gpus: numbers of GPUs that the workers take turns with; none leaves all
        to each.
      retry: whether to run cells again that failed before.
      root: directory to which the paths of config files are relative.
    """
    self._cells = cells
    self._directory = directory
    self._workers, self._gpus = workers, gpus
    self._retry, self._root = retry, root
    self._pending = list(cells)
    self._running: list[_Run] = []
    self._failed: dict[str, str] = {}
    # Cells that cannot be run now: another sweep's, or with unreadable files,
    # and then why, by name.
    self._elsewhere: list[cells_lib.Fields] = []
    self._trouble: dict[str, str] = {}
    self._looked = time.monotonic()
    self._idle_since: float | None = None
    self._signum: int | None = None
    self._has_to_hurry = False
    self._other_runs = self._find_other_runs()
    self._began = time.monotonic()
    self._shown = 0.0
    self._fraction_at_start = self._fraction()
    self._bar = tqdm.tqdm(
      total=len(cells),
      initial=self._fraction_at_start,
      disable=not sys.stderr.isatty(),
      bar_format='{l_bar}{bar}| {n:.2f}/{total_fmt} cells {postfix}',
    )

  def run(self) -> int:
    """Runs all; prints what becomes of them.

    Returns:
      The exit status: 0 if every cell is finished, 1 if some are not, and 128 +
      the number of the signal that ended it: what ran has saved a checkpoint.
    """
    for signum in (signal.SIGTERM, signal.SIGINT):
      signal.signal(signum, self._note)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
      signal.signal(signal.SIGHUP, self._note)
    # Ctrl-Z would stop us, who renew the claims, and not the runs.
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    while self._signum is None and (
      self._pending or self._running or self._waits()
    ):
      self._look_again()
      self._fill()
      for run in list(self._running):
        with self._guard(run.cell):
          self._attend(run)
      self._show()
      time.sleep(0 if self._pending and not self._running else _POLL_SECONDS)
    self._stop()
    self._bar.close()
    return self._conclude()

  def _find_other_runs(self) -> dict[str, str]:
    """Returns why finished runs are not those of their cells, by name.

    A config file may have been edited since, or be another one of its name.
    What is not finished is refused by the run itself.
    """
    found = {}
    for cell in self._cells:
      workdir = self._workdir(cell)
      if not cells_lib.is_finished(workdir):
        continue
      try:
        saved = workdir_lib.read_config(workdir)
        if saved is not None:
          config = cells_lib.config(cell, self._directory, self._root)
          workdir_lib.check_finished(config, saved)
      except ValueError as error:
        found[cells_lib.cell_name(cell)] = str(error)
    return found

  def _waits(self) -> bool:
    """Whether to wait, with nothing else to do, for cells that are not free.

    Not for long: a sweep that lives renews its claims.
    """
    if not self._elsewhere:
      return False
    now = time.monotonic()
    if self._idle_since is None:
      self._idle_since = now
      count = len(self._elsewhere)
      self._line(f'waiting two minutes for {count} cells of another sweep')
    return (
      now - self._idle_since
      <= cells_lib.STALE_SECONDS + cells_lib.RENEW_SECONDS
    )

  def _look_again(self) -> None:
    """Puts cells that could not be run back now and then, if a worker is free.

    The sweep that had them may have ended, or died.
    """
    now = time.monotonic()
    has_worker = len(self._running) < self._workers
    if has_worker and now - self._looked > _LOOK_SECONDS:
      self._looked = now
      self._pending += self._elsewhere
      self._elsewhere = []

  def _note(self, signum: int, frame: Any) -> None:
    """Takes note of a signal; of a second one, that there is no time."""
    del frame
    self._has_to_hurry = self._signum is not None
    self._signum = signum

  # --- One cell ---

  def _fill(self) -> None:
    """Starts cells while there are workers for them."""
    for cell in list(self._pending):
      if len(self._running) == self._workers:
        return
      missing = [n for n in cells_lib.needs(cell) if not self._is_done(n)]
      coming = [*self._pending, *(run.cell for run in self._running)]
      if any(need in coming for need in missing):
        continue
      self._pending.remove(cell)
      if any(need in self._elsewhere for need in missing):
        self._elsewhere.append(cell)
      elif missing:
        name = cells_lib.cell_name(missing[0])
        self._fail(cell, f'needs {name}, which is not finished')
      else:
        with self._guard(cell):
          self._start(cell)

  def _start(self, cell: cells_lib.Fields) -> None:
    """Starts a cell, unless it is finished, failed or another machine's."""
    self._trouble.pop(cells_lib.cell_name(cell), None)
    if self._is_done(cell):
      return
    if cells_lib.cell_name(cell) in self._other_runs:
      self._fail(cell, self._other_runs[cells_lib.cell_name(cell)])
      return
    failure = self._failure(cell)
    if failure.exists() and not self._retry:
      self._failed[cells_lib.cell_name(cell)] = failure.read_text().strip()
      return
    claim = cells_lib.Claim(
      self._directory / 'claims', cells_lib.cell_name(cell)
    )
    if not claim.take():
      self._elsewhere.append(cell)
      return
    with contextlib.ExitStack() as unless_it_runs:
      unless_it_runs.callback(claim.give_back)
      # It may have been finished between the first look and the claim.
      if self._is_done(cell):
        return
      failure.unlink(missing_ok=True)
      slot = min(set(range(self._workers)) - {r.slot for r in self._running})
      process, log_start = self._launch(cell, slot)
      unless_it_runs.pop_all()
    self._idle_since = None
    self._running.append(
      _Run(cell, claim, process, log_start, slot, time.monotonic())
    )

  def _launch(
    self, cell: cells_lib.Fields, slot: int
  ) -> tuple[subprocess.Popen, int]:
    """Starts a cell in a process of its own that does not outlive this one.

    Returns:
      The process, and where in the cell's log it begins.
    """
    environment = dict(os.environ)
    if self._gpus:
      gpu = self._gpus[slot % len(self._gpus)]
      environment['CUDA_VISIBLE_DEVICES'] = gpu
    log = self._log(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('ab') as stream:
      start = stream.tell()
      process = subprocess.Popen(
        [sys.executable, *cells_lib.command(cell, self._directory)],
        cwd=self._root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for us, who stop it then
        preexec_fn=_die_with_parent if sys.platform == 'linux' else None,
      )
    return process, start

  def _attend(self, run: _Run) -> None:
    """Renews a claim; takes note of an end."""
    if not self._renew(run):
      # We slept so long that another machine took it.
      run.process.kill()
      run.process.wait()
      self._running.remove(run)
      self._elsewhere.append(run.cell)
      return
    if run.process.poll() is None:
      return
    self._running.remove(run)
    try:
      self._take_note(run)
    finally:
      run.claim.give_back()

  def _take_note(self, run: _Run) -> None:
    """Says what became of a run that has ended."""
    result = None
    if run.process.returncode == 0:
      result = cells_lib.result(self._workdir(run.cell))
    if result is not None:
      self._line(
        f'{result["split"]} error {result["final_error_rate"]:.2%} in '
        f'{result["wall_seconds"]:.0f} s: {cells_lib.cell_name(run.cell)}'
      )
    elif run.process.returncode in _STOPPED:
      self._fail(run.cell, 'was stopped by a signal')
    else:
      reason = _reason(run, self._log(run.cell))
      self._failure(run.cell).parent.mkdir(parents=True, exist_ok=True)
      self._failure(run.cell).write_text(reason + '\n')
      self._fail(run.cell, reason)

  def _renew(self, run: _Run) -> bool:
    """Renews a claim when it is time; returns whether the cell is ours."""
    if time.monotonic() - run.renewed <= cells_lib.RENEW_SECONDS:
      return True
    run.renewed = time.monotonic()
    return run.claim.renew()

  @contextlib.contextmanager
  def _guard(self, cell: cells_lib.Fields) -> Iterator[None]:
    """Makes files that cannot be read or written a matter of that cell alone.

    It is tried again a little later, and by the same command.
    """
    try:
      yield
    except (OSError, ValueError) as error:
      self._trouble[cells_lib.cell_name(cell)] = str(error)
      self._elsewhere.append(cell)

  def _fail(self, cell: cells_lib.Fields, reason: str) -> None:
    """Takes note of a cell that cannot be finished."""
    self._failed[cells_lib.cell_name(cell)] = reason
    self._line(f'failed: {cells_lib.cell_name(cell)}: {reason}')

  # --- All cells ---

  def _stop(self) -> None:
    """Has what is running save a checkpoint and end."""
    if self._running:
      print('runs save a checkpoint; another signal stops them at once')
    for run in self._running:
      run.process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    while self._running:
      for run in list(self._running):
        is_late = self._has_to_hurry or time.monotonic() > deadline
        if is_late or not self._renew(run):
          run.process.kill()
          run.process.wait()
        if run.process.poll() is not None:
          run.claim.give_back()
          self._running.remove(run)
      time.sleep(_POLL_SECONDS if self._running else 0)

  def _conclude(self) -> int:
    """Says what is done and what is not; returns the exit status."""
    done = sum(map(self._is_done, self._cells))
    print(f'{done} of {len(self._cells)} cells are finished')
    count = len(self._elsewhere) - len(self._trouble)
    if count:
      print(f'{count} were being run by another sweep')
    for name, reason in (self._failed | self._trouble).items():
      log = self._directory / 'logs' / f'{name}.log'
      where = f' ({log})' if log.exists() else ''
      print(f'failed: {name}: {reason}{where}')
    if self._signum is not None:
      print('stopped by a signal; the same command goes on from there')
      return 128 + self._signum
    return 0 if done == len(self._cells) else 1

  def _is_done(self, cell: cells_lib.Fields) -> bool:
    """Whether a cell is finished, and the run in its directory is its own."""
    is_other = cells_lib.cell_name(cell) in self._other_runs
    return not is_other and cells_lib.is_finished(self._workdir(cell))

  def _fraction(self) -> float:
    """Returns how many cells' worth is made."""
    return sum(cells_lib.fraction(self._workdir(cell)) for cell in self._cells)

  def _show(self) -> None:
    """Moves the bar, not too often: all directories are looked at."""
    now = time.monotonic()
    if not self._bar.disable and now - self._shown > _SHOW_SECONDS:
      self._shown = now
      self._bar.n = made = self._fraction()
      self._bar.set_postfix_str(
        f'{len(self._running)} running, {len(self._failed)} failed'
        f'{self._time_left(made)}'
      )

  def _line(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    done = sum(map(self._is_done, self._cells))
    left = self._time_left(self._fraction())
    text = f'[{done}/{len(self._cells)}{left}] {text}'
    if self._bar.disable:
      print(text, flush=True)
    else:
      self._bar.write(text)

  def _time_left(self, made: float) -> str:
    """Returns the time left, once there is something to tell it by."""
    here = made - self._fraction_at_start
    if here <= 0:
      return ''
    rate = here / (time.monotonic() - self._began)
    left = progress_line.duration((len(self._cells) - made) / rate)
    return f', {left} left'

  def _workdir(self, cell: cells_lib.Fields) -> pathlib.Path:
    """Returns the run directory of a cell."""
    return self._directory / cells_lib.cell_name(cell)

  def _log(self, cell: cells_lib.Fields) -> pathlib.Path:
    """Returns the file of what a cell prints."""
    return self._directory / 'logs' / f'{cells_lib.cell_name(cell)}.log'

  def _failure(self, cell: cells_lib.Fields) -> pathlib.Path:
    """Returns the file that says why a cell failed."""
    return self._directory / 'failed' / cells_lib.cell_name(cell)


def _die_with_parent() -> None:
  """Has Linux kill this process when the sweep is killed.

  A run that went on alone would write where the next sweep writes.
  """
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _reason(run: _Run, log: pathlib.Path) -> str:
  """Returns why a run has failed, in a line."""
  status = run.process.returncode
  if status < 0:
    of_memory = ' (out of memory?)' if status == -signal.SIGKILL else ''
    return f'killed by {signal.Signals(-status).name}{of_memory}'
  with log.open('rb') as stream:
    stream.seek(run.log_start)
    text = stream.read().decode('utf-8', errors='replace')
  lines = [line.rstrip() for line in text.splitlines() if line.strip()]
  if not lines:
    return f'exit status {status}, no output'
  if _TRACEBACK in lines:
    # The error is where the indented frames end; JAX has a note below it.
    last = len(lines) - lines[::-1].index(_TRACEBACK)
    lines = [line for line in lines[last:] if line[0] != ' '][:1] or lines
  return lines[-1].strip()
