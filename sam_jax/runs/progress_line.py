"""What a person sees while a run trains.

A bar on a terminal; elsewhere, plain lines now and then. The first step of a
start is compiled, which may take longer than all other steps: it is announced,
and counts neither for the rate nor for the time that is left.
"""

import sys
import time
from collections.abc import Mapping

import tqdm

from sam_jax import tasks


class ProgressLine:
  """Shows how far a run is. Close it when done."""

  def __init__(
    self,
    *,
    task: tasks.Task,
    start_step: int,
    num_steps: int,
    batch_size: int,
    seconds: float,
    quiet: bool = False,
  ) -> None:
    """Starts to show.

    Args:
      task: knows which metrics are shown, and its words.
      start_step: updates made before.
      num_steps: updates at the end of the run.
      batch_size: examples per update, for the rate.
      seconds: between lines where there is no terminal.
      quiet: whether to show nothing, as the other processes of a run do.
    """
    self._task = task
    self._quiet = quiet
    self._num_steps = num_steps
    self._batch_size = batch_size
    self._seconds = seconds
    self._last = _Moment(start_step)
    self._begin: _Moment | None = None
    self._bar = tqdm.tqdm(
      total=num_steps,
      initial=start_step,
      disable=quiet or not sys.stderr.isatty(),
      unit='step',
      dynamic_ncols=True,
    )

  def compiling(self) -> None:
    """Says that the first step is being compiled."""
    if self._bar.disable:
      self.line('compiling the first step')
    else:
      self._bar.set_description_str('compiling the first step')

  def step(self, step: int, metrics: Mapping[str, float]) -> None:
    """Takes note of a finished step; shows it if it is time to."""
    if self._begin is None:
      self._begin = _Moment(step)
      self._start_bar(step)
    rate = self._rate(self._begin, step)
    shown = describe(self._task, metrics)
    if not self._bar.disable:
      self._bar.update(step - self._bar.n)
      text = ', '.join([*shown, self._task.rate(rate)])
      self._bar.set_postfix_str(text, refresh=False)
    elif time.monotonic() - self._last.time >= self._seconds:
      text = ', '.join([*shown, *self._pace(step, rate)])
      self.line(f'step {step}/{self._num_steps}: {text}')
      self._last = _Moment(step)

  def line(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    if not self._bar.disable:
      self._bar.write(text)
    elif not self._quiet:
      print(text, flush=True)

  def close(self) -> None:
    """Takes the bar away."""
    self._bar.close()

  def _start_bar(self, step: int) -> None:
    """Has the bar count time and rate from the end of the first step on."""
    if self._bar.disable:
      return
    self._bar.set_description_str('', refresh=False)
    self._bar.initial = self._bar.n = self._bar.last_print_n = step
    self._bar.unpause()

  def _pace(self, step: int, rate: float) -> list[str]:
    """Returns rate and time left; nothing before a second step is known."""
    if not rate:
      return []
    left = (self._num_steps - step) * self._batch_size / rate
    return [self._task.rate(rate), f'{duration(left)} left']

  def _rate(self, since: '_Moment', step: int) -> float:
    """Returns examples per second since a moment."""
    seconds = max(time.monotonic() - since.time, 1e-9)
    return (step - since.step) * self._batch_size / seconds


class _Moment:
  """A step and when it was."""

  def __init__(self, step: int) -> None:
    self.step = step
    self.time = time.monotonic()


def describe(task: tasks.Task, metrics: Mapping[str, float]) -> list[str]:
  """Returns what a task shows of the metrics of a step, such as 'loss 0.1234'.

  Metrics that the task does not measure in training are left out.
  """
  score = task.score
  parts = [
    f'{name} {metrics[name]:.4f}'
    for name in task.shown
    if name in metrics and name != score.metric
  ]
  if score.metric in metrics:
    parts.append(f'{score.label} {score.text(metrics[score.metric])}')
  return parts


def duration(seconds: float) -> str:
  """Returns h:mm:ss."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'
