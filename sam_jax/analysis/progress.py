"""An analysis that can be interrupted: what is done is kept, and shown."""

import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import tqdm

from sam_jax.analysis import units
from sam_jax.runs import progress_line


class Progress:
  """Shows how far an analysis is, its rate and the time left.

  A bar on a terminal; elsewhere, plain lines now and then.
  """

  def __init__(
    self,
    what: str,
    plan: Mapping[str, tuple[int, float]],
    *,
    seconds: float = 5.0,
  ) -> None:
    """Begins.

    Args:
      what: is measured.
      plan: of the pieces, by their name without its number: how many there
        are, and about how long one takes in comparison with others.
      seconds: between lines where there is no terminal.
    """
    self._what = what
    self._costs = {kind: cost for kind, (_, cost) in plan.items()}
    self._total = sum(count * cost for count, cost in plan.values())
    self._seconds = seconds
    self._kept = self._done = 0.0
    self._examples = 0
    self._start = self._last = time.monotonic()
    self._bar = tqdm.tqdm(
      total=self._total,
      desc=what,
      disable=not sys.stderr.isatty(),
      bar_format='{desc} {percentage:3.0f}%|{bar}|{postfix}',
    )

  def passed(self, examples: int) -> None:
    """Counts a walk over so many examples."""
    self._examples += examples
    now = time.monotonic()
    if not self._bar.disable:
      self._bar.set_postfix_str(self._pace(now))
    elif now - self._last >= self._seconds:
      share = (self._kept + self._done) / self._total
      print(f'{self._what}: {share:.0%}{self._pace(now)}', flush=True)
      self._last = now

  def piece(self, name: str, is_kept: bool) -> None:
    """Counts a piece, which may have been there before."""
    cost = self._costs[name.rpartition('-')[0] or name]
    if is_kept:
      self._kept += cost
    else:
      self._done += cost
    self._bar.update(cost)

  def close(self) -> None:
    """Takes the bar away."""
    self._bar.close()

  def _pace(self, now: float) -> str:
    """Returns rate and time left, as far as they are known."""
    seconds = max(now - self._start, 1e-9)
    pace = f', {self._examples / seconds:.0f} examples/s'
    if self._done:
      rest = self._total - self._kept - self._done
      left = progress_line.duration(seconds * rest / self._done)
      pace += f', {left} left'
    return pace


class Store:
  """A `units.Unit` that keeps each piece in a file and repeats none."""

  def __init__(
    self, directory: pathlib.Path, progress: Progress | None = None
  ) -> None:
    """Keeps the pieces of one computation.

    Args:
      directory: for them alone, made with the first; its name has to tell the
        computation from any other.
      progress: is told of every piece.
    """
    self._directory = directory
    self._progress = progress

  def __call__(self, name: str, fn: Callable[[], units.Result]) -> units.Result:
    """Returns a piece: read, or computed and written whole or not at all."""
    path = self._directory / f'{name}.npz'
    is_kept = path.exists()
    if not is_kept:
      result = fn()
      self._directory.mkdir(parents=True, exist_ok=True)
      partial = path.with_suffix('.partial')
      with partial.open('wb') as stream:
        np.savez(stream, **result)
      partial.replace(path)
    if self._progress is not None:
      self._progress.piece(name, is_kept)
    with np.load(path) as saved:
      return dict(saved)

  def clear(self) -> None:
    """Removes the pieces; what was made of them is written elsewhere."""
    shutil.rmtree(self._directory, ignore_errors=True)
