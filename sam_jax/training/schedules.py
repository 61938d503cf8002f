"""Learning-rate schedules: functions from the step to the learning rate."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from sam_jax import lookup

# The official release's exponential schedule ends at this share of its base.
_EXPONENTIAL_END = 0.012


def constant(learning_rate: float, num_steps: int) -> optax.Schedule:
  """Returns the same learning rate for ever."""
  del num_steps
  return optax.constant_schedule(learning_rate)


def cosine(
  learning_rate: float, num_steps: int, end_fraction: float = 0.0
) -> optax.Schedule:
  """Returns a half cosine, from learning_rate at step 0 on.

  Args:
    learning_rate: at step 0.
    num_steps: length of the run.
    end_fraction: share of the learning rate that is left at num_steps; the
      official release has 0, and recipes for language models 0.1.

  Raises:
    ValueError: end_fraction is no share.

  Differs from the official release, which rises again after the last step.
  """
  _check_share(end_fraction)
  return optax.cosine_decay_schedule(
    learning_rate, max(num_steps, 1), alpha=end_fraction
  )


def exponential(
  learning_rate: float, num_steps: int, end_fraction: float = _EXPONENTIAL_END
) -> optax.Schedule:
  """Returns learning_rate * end_fraction ** (step / num_steps).

  Args:
    learning_rate: at step 0.
    num_steps: length of the run.
    end_fraction: share of the learning rate that is left at num_steps; the
      official release has 0.012.
  """
  return optax.exponential_decay(
    learning_rate, max(num_steps, 1), decay_rate=end_fraction
  )


def linear(
  learning_rate: float, num_steps: int, end_fraction: float = 0.0
) -> optax.Schedule:
  """Returns a straight line.

  Args:
    learning_rate: at step 0.
    num_steps: length of the run.
    end_fraction: share of the learning rate that is left at num_steps, in
      [0, 1].

  Raises:
    ValueError: end_fraction is no share.
  """
  _check_share(end_fraction)
  return optax.linear_schedule(
    learning_rate, end_fraction * learning_rate, max(num_steps, 1)
  )


def piecewise(
  learning_rate: float,
  num_steps: int,
  boundaries: Sequence[float] = (0.5, 0.75),
  factor: float = 0.1,
) -> optax.Schedule:
  """Returns a learning rate that is multiplied by factor at each boundary.

  Args:
    learning_rate: before the first boundary.
    num_steps: length of the run.
    boundaries: where it changes, as increasing shares of the run in (0, 1).
    factor: multiplies the learning rate at each boundary.

  Raises:
    ValueError: boundaries are not increasing shares.
  """
  inside = all(0 < b < 1 for b in boundaries)
  if not inside or sorted(set(boundaries)) != list(boundaries):
    raise ValueError(
      f'schedule.boundaries are {tuple(boundaries)}; they are shares of the '
      'run, increasing, between 0 and 1'
    )
  steps: dict[int, float] = {}
  for boundary in boundaries:  # in a short run, two may be the same step
    step = round(boundary * num_steps)
    steps[step] = steps.get(step, 1.0) * factor
  return optax.piecewise_constant_schedule(learning_rate, steps)


def _check_share(end_fraction: float) -> None:
  """Refuses an end that is no share of the learning rate."""
  if not 0 <= end_fraction <= 1:
    raise ValueError(
      f'schedule.end_fraction is {end_fraction}; it is a share of the learning '
      'rate, in [0, 1]'
    )


_SCHEDULES = {
  'constant': constant,
  'cosine': cosine,
  'exponential': exponential,
  'linear': linear,
  'piecewise': piecewise,
}


def create(
  name: str,
  *,
  learning_rate: float,
  num_steps: int,
  warmup_steps: int = 0,
  after_warmup: bool = False,
  **options: float | Sequence[float] | None,
) -> optax.Schedule:
  """Returns the schedule of that name.

  During warm-up the schedule is multiplied by step / warmup_steps, as in the
  official release: it decays from step 0 on, with or without warm-up, unless
  after_warmup says otherwise.

  Args:
    name: 'constant', 'cosine', 'exponential', 'linear' or 'piecewise'.
    learning_rate: the largest value.
    num_steps: length of the run, warm-up included.
    warmup_steps: length of the warm-up; 0 is none.
    after_warmup: whether the schedule begins where the warm-up ends, with the
      learning rate itself, and decays over the rest of the run.
    **options: of that schedule; None means its default.

  Returns:
    A function from the number of updates made before to the learning rate.

  Raises:
    ValueError: an unknown name or option, or a warm-up that does not fit.

  Differs from the official release: its exponential schedule is 0/0 at step 0
  when there is no warm-up, which makes all parameters NaN.
  """
  lookup.check('schedule', name, sorted(_SCHEDULES))
  if not 0 <= warmup_steps <= num_steps:
    raise ValueError(
      f'the warm-up takes {warmup_steps} of {num_steps} steps; warmup_epochs '
      'or warmup_steps must fit into the run'
    )
  factory = _SCHEDULES[name]
  given = {k: v for k, v in options.items() if v is not None}
  lookup.check_options(
    f'schedule {name!r}', factory, given, ('learning_rate', 'num_steps')
  )
  lookup.check_types(f'schedule {name!r}', factory, given)
  start = warmup_steps if after_warmup else 0
  schedule = factory(learning_rate, num_steps - start, **given)
  if warmup_steps == 0:
    return schedule
  return lambda step: (
    schedule(jnp.maximum(step - start, 0))
    * jnp.minimum(1.0, step / warmup_steps)
  )
