"""Traces of the steps of a run, for TensorBoard's profiler and Perfetto.

`python -m sam_jax.train --profile=STEPS` traces so many steps of each start, by
`jax.profiler`. The first steps of a start are left out: one of them compiles,
and what is prepared ahead of time is used up in the others. What is computed
stays the same to the last bit.

A trace has what the devices compute, and what the program waits for: the loop
marks each step, `train`, and its parts `next batch`, `read metrics`, `log`,
`evaluate` and `checkpoint`. It has no calls of Python functions: these make a
trace large, and slow down what it is to measure.
"""

import pathlib
from collections.abc import Callable

import jax

from sam_jax.training import parallel

DIRECTORY = 'profile'
WARM_UP = 10  # steps of a start that precede the first one in the trace


def check(steps: int | None) -> None:
  """Refuses a number of steps that cannot be traced.

  Args:
    steps: as it was given; None traces nothing.

  Raises:
    ValueError: it is not positive.
  """
  if steps is not None and steps < 1:
    raise ValueError(
      f'the number of steps to profile is {steps}; it must be at least 1'
    )


class Profile:
  """The trace of some steps of a start. Close it when done.

  Of several processes that train together, the first one writes a trace. The
  others know of the same steps: all of them wait for what is under way before
  the trace begins and before it ends, and a callback that is called then may
  wait for the other processes.

  Attributes:
    steps: that are traced, counted from the beginning of the run; the same in
      all processes.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    wanted: int | None,
    *,
    made: int,
    num_steps: int,
    say: Callable[[str], None],
  ) -> None:
    """Chooses the steps, and says if they are fewer than are wanted.

    Args:
      workdir: run directory.
      wanted: steps to trace; None traces nothing.
      made: steps that were made before this start.
      num_steps: of the whole run.
      say: prints a line, in the first process only.
    """
    self._say = say
    self._workdir = workdir
    self._last_seen = made
    self._is_open = False
    if wanted is None:
      self.steps = range(0)
      return
    first = made + WARM_UP + 1
    self.steps = range(first, min(first + wanted, num_steps + 1))
    if len(self.steps) < wanted:
      say(
        f'profile: {_traced(len(self.steps))}: this start makes '
        f'{_count(num_steps - made)}, and the first {WARM_UP} are not traced'
      )

  @property
  def path(self) -> pathlib.Path:
    """The directory of the trace, which TensorBoard and Perfetto open."""
    name = f'{self.steps.start}-{self.steps.stop - 1}'
    return self._workdir / DIRECTORY / name

  def is_first(self, step: int) -> bool:
    """Whether the trace begins before a step."""
    return bool(self.steps) and step == self.steps.start

  def made(self, step: int) -> bool:
    """Takes note of a step; returns whether the trace ends with it."""
    self._last_seen = step
    return bool(self.steps) and step == self.steps[-1]

  def start(self) -> bool:
    """Begins the trace in the first process; returns whether it has begun.

    If it cannot begin, a line says why. No trace is worth a run.
    """
    if not parallel.is_first_process():
      return False
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    try:
      jax.profiler.start_trace(self.path, profiler_options=options)
    except Exception as error:
      self._say(f'profile: nothing is traced: {_line(error)}')
    else:
      self._is_open = True
    return self._is_open

  def stop(self) -> None:
    """Writes the trace if it has begun, and says where it is."""
    if not self._is_open:
      return
    self._is_open = False
    try:
      jax.profiler.stop_trace()
    except Exception as error:  # the disk may be full
      self._say(f'profile: the trace could not be written: {_line(error)}')
      return
    first, last = self.steps.start, self._last_seen
    if last < first:
      what = f'the run ended within step {first}, the first one; the trace is'
    elif last == first:
      what = f'step {first} is'
    else:
      what = f'the steps {first} to {last} are'
    self._say(f'profile: {what} in {self.path}')

  def close(self) -> None:
    """Writes what was traced if the run ends within it."""
    if self._is_open:
      self.stop()
    elif self.steps and self._last_seen < self.steps.start:
      self._say(
        f'profile: the run ended at step {self._last_seen}, and the trace '
        f'would have begun with step {self.steps.start}; there is none'
      )


def _traced(count: int) -> str:
  """Returns how many steps are traced, if they are fewer than are wanted."""
  return f'only {_count(count)} can be traced' if count else 'no step is traced'


def _count(steps: int) -> str:
  """Returns a number of steps in words."""
  return f'{steps} step{"" if steps == 1 else "s"}'


def _line(error: Exception) -> str:
  """Returns an error in one line."""
  return ' '.join(f'{type(error).__name__}: {error}'.split())
