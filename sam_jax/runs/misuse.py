"""What looks like a mistake in how a method is used: said once in a run.

Nothing is said where the perturbation is meant to be small: without one, in
steps that make none, and while a schedule of the radius has it below half of
rho. A false alarm would be worse than silence.
"""

import math
from collections.abc import Callable, Mapping

import ml_collections

from sam_jax import methods

# Below, rounding adds more to the perturbation than is left of it: sqrt(1/2).
_POOR_COSINE = 0.7
# Steps in a row whose perturbation changes nothing.
_MANY = 100
# Of Foret et al. 2020, by data set and batch size (section 4.1).
_PAPER_M = {
  ('cifar10', 256): 32,
  ('cifar100', 256): 32,
  ('svhn_cropped', 256): 32,
  ('imagenet2012', 4096): 128,
}


class Watch:
  """Looks at the metrics of the steps."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    said: list[str],
    say: Callable[[str], None],
  ) -> None:
    """Takes what it depends on.

    Args:
      config: of the run, resolved.
      said: names of what the run has been told; remembered with the run.
      say: prints a line.
    """
    self._config = config
    self._said = said
    self._say = say
    self._unchanged = 0
    method = methods.defaults(config.method.name) | {
      name: x for name, x in config.method.items() if x is not None
    }
    self._rho = method.get('rho')
    self._is_scheduled = method.get('rho_schedule', 'constant') != 'constant'

  def start(self) -> None:
    """Looks at the config."""
    config = self._config
    paper_m = _PAPER_M.get((config.data.name, config.batch_size))
    if paper_m and self._rho and config.m == config.batch_size:
      self._warn(
        'm',
        f'm = B = {config.m}: all examples of a batch share one perturbation. '
        f'The tables of the paper for {config.data.name} are with m = '
        f'{paper_m}: use --config.m={paper_m} to compare with them',
      )

  def step(self, values: Mapping[str, float]) -> None:
    """Looks at the metrics of a perturbation; there are none without one."""
    if not self._is_full(values):
      return
    self._look_for_rounding(values)
    is_unchanged = 0 in (values['perturbation_norm'], values.get('sharpness'))
    self._unchanged = self._unchanged + 1 if is_unchanged else 0
    if self._unchanged >= _MANY:
      self._tell_of_nothing(values)

  def failed(
    self, step: Mapping[str, float], values: Mapping[str, float]
  ) -> None:
    """Looks at the metrics of a step that was not finite, and is skipped."""
    if reason := too_large(step, values):
      self._warn('rho', f'{reason}; use a smaller method.rho')

  def _is_full(self, values: Mapping[str, float]) -> bool:
    """Whether there is a perturbation that is to be seen."""
    if 'perturbation_norm' not in values or self._rho == 0:
      return False
    if not self._is_scheduled:
      return True
    return values['perturbation_norm'] >= (self._rho or math.inf) / 2

  def _look_for_rounding(self, values: Mapping[str, float]) -> None:
    """Warns if precision leaves little of the perturbation."""
    cosine = values.get('effective_perturbation_cosine', 1.0)
    if cosine >= _POOR_COSINE:
      return
    ratio = values['effective_perturbation_ratio']
    self._warn(
      'rounding',
      'rounding changes the perturbation: multiplications see one '
      f'{ratio:.2f} times as long, at a cosine of {cosine:.2f}; use '
      'compute_dtype=float32 and matmul_precision=float32, or a larger rho',
    )

  def _tell_of_nothing(self, values: Mapping[str, float]) -> None:
    """Warns that the perturbation has changed no loss for many steps."""
    norm = values['perturbation_norm']
    if norm == 0:
      self._warn(
        'zero',
        f'the perturbation has been zero for {_MANY} steps, which were those '
        'of SGD: the gradient is zero, or no parameter is perturbed; look at '
        'gradient_norm, and at method.mask',
      )
    elif 'rounding' not in self._said:
      self._warn(
        'rounding',
        f'the perturbation, {norm:.2g} long, has changed no loss for {_MANY} '
        'steps: it is lost to rounding when it is added to the parameters; '
        'use a larger rho',
      )

  def _warn(self, name: str, text: str) -> None:
    """Says something that the run has not been told."""
    if name not in self._said:
      self._said.append(name)
      self._say(f'warning: {text}')


def too_large(
  step: Mapping[str, float], values: Mapping[str, float]
) -> str | None:
  """Returns that rho is too large, if that is why a step was not finite.

  Args:
    step: metrics of every step.
    values: those of the perturbation.
  """
  # NaN if the gradient was not finite, of which the perturbation is made.
  norm = values.get('perturbation_norm', math.nan)
  perturbed = values.get('perturbed_loss', 0.0)
  if not (norm > 0 and math.isfinite(step['loss'])) or math.isfinite(perturbed):
    return None
  return (
    f'the loss is {step["loss"]:.4g} at the parameters and {perturbed} at the '
    f'end of the perturbation, which is {norm:.3g} long'
  )
