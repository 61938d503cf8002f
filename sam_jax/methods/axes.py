"""The fields that every method takes which perturbs, and what they make."""

from collections.abc import Mapping
from typing import Any, TypedDict

from sam_jax import arguments, perturbations, sam
from sam_jax.methods import base, parts, radius, whens
from sam_jax.methods.perturbed import Perturbed


class Choices(TypedDict, total=False):
  """What a perturbation and a gradient are made of.

  A choice is a text: a name, or a name with arguments such as 'ema(0.1)'. In
  Python it may be an object too. None, or what is left out, changes nothing.

  Attributes:
    direction: along what is perturbed, see `parts.DIRECTIONS`.
    metric: how the radius is measured, see `parts.METRICS`.
    mask: which parameters are perturbed, see `parts.MASKS`; in Python also what
      `sam_jax.masked` takes.
    ascent_share: of a group's examples, the first ones, that make the
      perturbation.
    descent_share: of a group's examples that make the gradient: those whose
      loss rises most by the perturbation.
    combine: what is made of the two gradients, see `parts.COMBINES`.
  """

  direction: Any
  metric: Any
  mask: Any
  ascent_share: float | None
  descent_share: float | None
  combine: Any


class Times(TypedDict, total=False):
  """Which steps perturb; one does if all that are given let it.

  Attributes:
    every: k, of which every k-th step perturbs.
    start: share of the run before the first step that perturbs.
    probability: with which a step perturbs.
    when: another test of the steps that perturb, see `parts.WHENS`.
  """

  every: int | None
  start: float | None
  probability: float | None
  when: Any


class Unscheduled(Choices, Times, total=False):
  """Fields of a method that has a schedule of the radius of its own."""


class Axes(Unscheduled, total=False):
  """Fields of every method that perturbs.

  Attributes:
    rho_schedule: how the radius changes along the run, see `radius.create`.
    rho_min: the smallest radius of a schedule.
  """

  rho_schedule: str | None
  rho_min: float | None


def create(
  rho: float,
  axes: Mapping[str, Any],
  *,
  ascent_steps: int = 1,
  second_order: bool = False,
  **own: Any,
) -> base.Method:
  """Returns the method of a radius and of choices.

  Args:
    rho: radius of the perturbation; with 0 the method is SGD.
    axes: what the user chose, those of `Axes`; None is no choice.
    ascent_steps: see `sam_jax.value_and_grad`.
    second_order: see `sam_jax.value_and_grad`.
    **own: choices of the method, by axis, where the user has none.

  Raises:
    ValueError: a value is out of range, or two choices do not go together.
  """
  chosen = own | {k: v for k, v in axes.items() if v is not None}
  radius_fn = radius.create(
    rho, chosen.get('rho_schedule', 'constant'), chosen.get('rho_min')
  )
  arguments.ascent(ascent_steps, second_order)
  metric = parts.METRICS.create(chosen.get('metric', 'l2'))
  direction = parts.DIRECTIONS.create(chosen.get('direction', 'gradient'))
  combine = parts.COMBINES.create(chosen.get('combine', 'sam'))
  mask = parts.MASKS.create(chosen.get('mask', 'none'))
  when = _when(chosen)
  shares = _shares(chosen)
  _check_together(direction, when, combine, shares, ascent_steps, second_order)
  metric(rho)  # refuses what is out of range
  if rho == 0:
    return base.Method()

  def perturbation_fn(ctx: parts.Context) -> Any:
    perturbation = metric(radius_fn(ctx))
    if isinstance(mask, parts.Mask):
      return perturbation
    return perturbations.masked(perturbation, mask)

  # A Hessian-vector product differentiates a gradient: about two of them.
  ascent = shares['ascent_share'] + ascent_steps - 1 + 2 * second_order
  descent = shares['descent_share']
  if descent < 1:  # the losses of all at both ends, forward alone
    descent += 2 / 3
  perturbed = descent + ascent * direction.needs_gradient
  share = 1.0 if when is None else when.share
  made = [p for p in (direction, mask, when) if isinstance(p, parts.Part)]
  own_cost = sum(part.cost for part in made)
  return Perturbed(
    perturbation_fn,
    gradient_evaluations=share * perturbed + (1 - share) + own_cost,
    needs=tuple(name for part in made for name in part.needs),
    direction=direction,
    mask=mask if isinstance(mask, parts.Mask) else parts.Mask(),
    when=when,
    ascent_steps=ascent_steps,
    second_order=second_order,
    combine=combine,
    **shares,
  )


def _when(chosen: Mapping[str, Any]) -> parts.When | None:
  """Returns the test of the steps that perturb, None if all do."""
  tests = {
    'every': whens.Every,
    'start': whens.Late,
    'probability': whens.Randomly,
    'when': parts.WHENS.create,
  }
  found = {n: make(chosen[n]) for n, make in tests.items() if n in chosen}
  return whens.All(found) if found else None


def _shares(chosen: Mapping[str, Any]) -> dict[str, float]:
  """Returns the shares of the examples that make the two gradients."""
  shares = {}
  for name in ('ascent_share', 'descent_share'):
    share = shares[name] = chosen.get(name, 1.0)
    if not 0 < share <= 1:
      raise ValueError(
        f'{name} is {share}; it is a share of the examples that share one '
        'perturbation: give a number in (0, 1]'
      )
  return shares


def _check_together(
  direction: parts.Direction,
  when: parts.When | None,
  combine: parts.Combine,
  shares: Mapping[str, float],
  ascent_steps: int,
  second_order: bool,
) -> None:
  """Refuses choices that need a gradient which others do without."""
  if not direction.needs_gradient:
    wrong = {
      'combine': combine is not sam.descent,
      'when': when is not None and when.needs_gradient,
      'ascent_share': shares['ascent_share'] < 1,
      'descent_share': shares['descent_share'] < 1,
      'ascent_steps': ascent_steps > 1,
      'second_order': second_order,
    }
    if names := [name for name, is_wrong in wrong.items() if is_wrong]:
      raise ValueError(
        f'the direction needs no gradient at the parameters, and '
        f'{" and ".join(names)} would need one; leave them out, or choose '
        "direction='gradient'"
      )
  if shares['ascent_share'] < 1 and when is not None and when.needs_gradient:
    raise ValueError(
      'when looks at the gradient of all examples, and ascent_share is '
      f'{shares["ascent_share"]}; leave one of them out'
    )
