"""Shows how far an analysis is."""

import sys
import time
from collections.abc import Mapping

import tqdm

from sam_jax.runs import progress_line

# Pieces by kind, their name without its number: how many there are, and about
# how long one takes in comparison with others.
Plan = Mapping[str, tuple[int, float]]


class PassBar:
  """Shows the share that is done, the rate and the time left.

  A bar on a terminal; elsewhere plain lines, a few seconds apart.
  """

  def __init__(
    self,
    what: str,
    plan: Plan,
    *,
    seconds: float = 5.0,
  ) -> None:
    """Starts the clock.

    Args:
      what: what is measured, for the line.
      plan: of the whole analysis.
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
    """Counts a pass over some examples."""
    self._examples += examples
    now = time.monotonic()
    if not self._bar.disable:
      self._bar.set_postfix_str(self._pace(now))
    elif now - self._last >= self._seconds:
      share = (self._kept + self._done) / self._total
      print(f'{self._what}: {share:.0%}{self._pace(now)}', flush=True)
      self._last = now

  def piece(self, name: str, is_kept: bool) -> None:
    """Counts a piece, which may have been kept by an earlier process."""
    cost = self._costs[name.rpartition('-')[0] or name]
    if is_kept:
      self._kept += cost
    else:
      self._done += cost
    self._bar.update(cost)

  def close(self) -> None:
    """Removes the bar."""
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
