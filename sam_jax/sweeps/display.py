"""What a person sees while a sweep runs: a bar, or lines without a terminal."""

import sys
import time

import tqdm

from sam_jax.runs import progress_line

_SECONDS = 2  # between moves of the bar


class Display:
  """Shows how many cells' worth of runs is made. Close it when done."""

  def __init__(self, total: int, made: float) -> None:
    """Starts to show.

    Args:
      total: number of cells.
      made: cells' worth that was made before.
    """
    self._total, self._made_before = total, made
    self._began = time.monotonic()
    self._moved = 0.0
    self._bar = tqdm.tqdm(
      total=total,
      initial=made,
      disable=not sys.stderr.isatty(),
      bar_format='{l_bar}{bar}| {n:.2f}/{total_fmt} cells {postfix}',
    )

  def is_due(self) -> bool:
    """Returns whether to move the bar, for which all directories are read."""
    return not self._bar.disable and time.monotonic() - self._moved > _SECONDS

  def move(self, made: float, running: int, failed: int) -> None:
    """Moves the bar."""
    self._moved = time.monotonic()
    self._bar.n = made
    self._bar.set_postfix_str(
      f'{running} running, {failed} failed{self._left(made)}'
    )

  def line(self, text: str, done: int, made: float) -> None:
    """Prints a line, above the bar if there is one.

    Args:
      text: what happened.
      done: number of finished cells.
      made: cells' worth that is made.
    """
    text = f'[{done}/{self._total}{self._left(made)}] {text}'
    if self._bar.disable:
      print(text, flush=True)
    else:
      self._bar.write(text)

  def close(self) -> None:
    """Takes the bar away."""
    self._bar.close()

  def _left(self, made: float) -> str:
    """Returns the time left, once there is a rate to tell it by."""
    made_here = made - self._made_before
    if made_here <= 0:
      return ''
    seconds = (time.monotonic() - self._began) / made_here
    left = (self._total - made) * seconds
    return f', {progress_line.duration(left)} left'
