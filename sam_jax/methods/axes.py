"""The fields that every method takes which perturbs, and what they make."""

from collections.abc import Mapping
from typing import Any, TypedDict

from sam_jax import arguments, perturbations, sam
from sam_jax.methods import base, parts, radius, whens
from sam_jax.methods.perturbed import Perturbed


class Parts(TypedDict, total=False):
  """What a perturbation and a gradient are made of.

  A choice is a text: a name, or a name with arguments such as 'ema(0.1)'. In
  Python it may be an object too. None, or what is left out, changes nothing.

  Attributes:
    direction: along what is perturbed, see `parts.DIRECTIONS`.
    metric: how the radius is measured, see `parts.METRICS`.
    mask: which parameters are perturbed, see `parts.MASKS`; in Python also what
      `sam_jax.masked` takes.
    combine: what is made of the two gradients, see `parts.COMBINES`.
  """

  direction: Any
  metric: Any
  mask: Any
  combine: Any


class Examples(TypedDict, total=False):
  """Which of a group's examples a step that perturbs looks at, as shares.

  A share is taken of each microbatch, rounded up.

  Attributes:
    ascent_share: of the examples, the first ones, that make the perturbation.
    descent_share: of the examples that make the gradient: those whose loss
      rises most by the perturbation.
    loss_share: of the examples that make both: those with the largest losses.
  """

  ascent_share: float | None
  descent_share: float | None
  loss_share: float | None


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


class Radius(TypedDict, total=False):
  """How the radius changes.

  Attributes:
    rho_schedule: how the radius changes along the run, see `radius.create`.
    rho_min: the smallest radius of a schedule.
  """

  rho_schedule: str | None
  rho_min: float | None


class Choices(Parts, Examples, total=False):
  """Fields of a method that has times and a schedule of its own."""


class Unscheduled(Choices, Times, total=False):
  """Fields of a method that has a schedule of the radius of its own."""


class Untimed(Choices, Radius, total=False):
  """Fields of a method that chooses the steps itself."""


class Unsampled(Parts, Times, Radius, total=False):
  """Fields of a method that chooses the examples itself."""


class Axes(Choices, Times, Radius, total=False):
  """Fields of every method that perturbs."""


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
  mask = mask if isinstance(mask, parts.Mask) else parts.Fixed(mask)
  when = _when(chosen)
  shares = _shares(chosen)
  _check_together(
    direction, mask, when, combine, shares, ascent_steps, second_order
  )
  metric(rho)  # refuses what is out of range
  if rho == 0:
    return base.Method()

  def perturbation_fn(ctx: parts.Context) -> Any:
    perturbation = metric(radius_fn(ctx))
    if isinstance(mask, parts.Fixed):
      return perturbations.masked(perturbation, mask.chosen)
    return perturbation

  perturbed = _cost(direction, when, shares, ascent_steps + 2 * second_order)
  share = 1.0 if when is None else when.share
  made = [p for p in (direction, mask, when) if isinstance(p, parts.Part)]
  own_cost = sum(part.cost for part in made)
  return Perturbed(
    perturbation_fn,
    gradient_evaluations=share * perturbed + (1 - share) + own_cost,
    needs=tuple(name for part in made for name in part.needs),
    direction=direction,
    mask=mask,
    when=when,
    ascent_steps=ascent_steps,
    second_order=second_order,
    combine=combine,
    **shares,
  )


def _cost(
  direction: parts.Direction,
  when: parts.When | None,
  shares: Mapping[str, float],
  ascents: int,
) -> float:
  """Returns the gradient evaluations of a step that perturbs.

  A forward pass is a third of one. The losses of all examples at w are those of
  the first pass, unless that has other examples, or is made before.

  Args:
    direction: along what is perturbed.
    when: in which steps.
    shares: of the examples, by name.
    ascents: gradients by which the perturbation is made, of all examples but
      for the first. A Hessian-vector product counts as two: it differentiates a
      gradient.
  """
  ascent, descent, highest = shares.values()
  cost = descent
  if direction.needs_gradient:
    cost += ascent + ascents - 1
  if descent < 1:
    looks_first = when is not None and when.needs_gradient
    cost += (1 + (ascent < 1 or looks_first)) / 3
  return cost if highest == 1 else highest * cost + 1 / 3


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
  for name in ('ascent_share', 'descent_share', 'loss_share'):
    share = shares[name] = chosen.get(name, 1.0)
    if not 0 < share <= 1:
      raise ValueError(
        f'{name} is {share}; it is a share of the examples that share one '
        'perturbation: give a number in (0, 1]'
      )
  return shares


def _check_together(
  direction: parts.Direction,
  mask: parts.Mask,
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
      'mask': mask.needs_gradient,
      'when': when is not None and when.needs_gradient,
      'ascent_share': shares['ascent_share'] < 1,
      'descent_share': shares['descent_share'] < 1,
      'loss_share': shares['loss_share'] < 1,
      'ascent_steps': ascent_steps > 1,
      'second_order': second_order,
    }
    if names := [name for name, is_wrong in wrong.items() if is_wrong]:
      raise ValueError(
        f'the direction needs no gradient at the parameters, and '
        f'{" and ".join(names)} would need one; leave them out, or choose '
        "direction='gradient'"
      )
  given = {name: share for name, share in shares.items() if share < 1}
  if 'loss_share' in given and len(given) > 1:
    raise ValueError(
      'loss_share chooses the examples of both gradients, and there is '
      f'{" and ".join(f"{k}={v}" for k, v in given.items())}; leave out one'
    )
  if when is not None and when.needs_gradient:
    for name in ('ascent_share', 'loss_share'):
      if name in given:
        raise ValueError(
          f'when looks at the gradient of all examples, and {name} is '
          f'{given[name]}; leave one of them out'
        )
