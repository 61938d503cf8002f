"""Choices between settings: on the validation split, and at equal compute."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sam_jax.sweeps import (
  cells as cells_lib,
  results,
  settings as settings_lib,
)

# Fields that the paper chooses on the validation split.
_CHOSEN = ('method.rho', 'mixing.alpha')


class Choice(NamedTuple):
  """What the validation split says of settings that differ in what is chosen.

  Attributes:
    tried: the settings on the validation split that are compared.
    left_out: those that have less than half as many runs as the others. If most
      runs of a value failed, the rest is no fair sample of it.
    best: the best of `tried`, None if there are none.
    tested: the settings on the test split.
    test: the one of `tested` that has the best values. If there was nothing to
      choose, it is the only one of `tested`; else None. Of values that are
      equally good it is the first that was tested.
  """

  tried: Sequence[settings_lib.Setting]
  left_out: Sequence[settings_lib.Setting]
  best: settings_lib.Setting | None
  tested: Sequence[settings_lib.Setting]
  test: settings_lib.Setting | None

  @property
  def is_needed(self) -> bool:
    """Whether there was more than one setting to choose from."""
    return len(self.tried) + len(self.left_out) > 1


def choose(
  settings: Sequence[settings_lib.Setting], chosen: tuple[str, ...] = _CHOSEN
) -> list[Choice]:
  """Chooses rho, or Mixup's alpha, on the validation split as the paper does.

  Args:
    settings: on either split.
    chosen: names of the fields to choose.

  Returns:
    One choice for each combination of the other fields.
  """
  groups: dict[str, list[settings_lib.Setting]] = {}
  for setting in settings:
    others = {
      name: value
      for name, value in setting.fields.items()
      if results.own_name(name) not in (*chosen, 'data.split')
    }
    groups.setdefault(repr(others), []).append(setting)
  return [_choice(members, chosen) for members in groups.values()]


def _choice(
  settings: Sequence[settings_lib.Setting], chosen: tuple[str, ...]
) -> Choice:
  """Returns the choice between settings that differ in what is chosen."""

  def values(setting: settings_lib.Setting) -> str:
    fields = setting.fields.items()
    return repr({k: v for k, v in fields if results.own_name(k) in chosen})

  validation = [s for s in settings if s.split == 'validation']
  tested = [s for s in settings if s.split != 'validation']
  most = max((len(setting.runs) for setting in validation), default=0)
  tried = [s for s in validation if 2 * len(s.runs) >= most]
  left_out = [s for s in validation if 2 * len(s.runs) < most]
  best = _lowest(tried)
  of_best = [s for s in tested if values(s) in map(values, best)]
  if len(validation) < 2:
    of_best = tested if len(tested) == 1 else []
  test = of_best[0] if of_best else None
  if test is not None and best:
    best = [s for s in best if values(s) == values(test)] or best
  return Choice(tried, left_out, best[0] if best else None, tested, test)


def _lowest(
  settings: Sequence[settings_lib.Setting],
) -> list[settings_lib.Setting]:
  """Returns the settings of the lowest mean score; several may be equal."""
  scores = [setting.estimate(results.FINAL).mean for setting in settings]
  return [
    setting
    for setting, score in zip(settings, scores, strict=True)
    if score == min(scores)
  ]


def sgd_at_equal_compute(
  setting: settings_lib.Setting, settings: Iterable[settings_lib.Setting]
) -> settings_lib.Setting | None:
  """Returns the SGD that a setting has to beat.

  It is the setting of the lowest mean score among those of SGD that differ in
  nothing but method and length, and evaluate no more gradients. The paper
  reports the better of SGD for as many epochs and for twice as many.

  Args:
    setting: of another method.
    settings: all.

  Returns:
    None if there is no such setting, or the setting is one of SGD itself.
  """
  if setting.method == 'sgd':
    return None
  budget = setting.estimate('gradient_evaluations').mean
  rivals = [
    other
    for other in settings
    if other.method == 'sgd'
    and _problem(other) == _problem(setting)
    and other.estimate('gradient_evaluations').mean <= budget
  ]
  return min(rivals, key=lambda s: s.estimate(results.FINAL).mean, default=None)


def _problem(setting: settings_lib.Setting) -> cells_lib.Fields:
  """Returns the fields of a setting besides method and length."""
  ours = ('method', 'num_epochs', 'num_steps', 'm', 'microbatch_size')
  return {
    name: value
    for name, value in setting.fields.items()
    if not results.is_within(results.own_name(name), *ours)
  }
