"""SS-SAM: SAM in steps that are drawn."""

from typing import Unpack

from sam_jax.methods import base, registry
from sam_jax.methods.axes import Untimed, create


@registry.register('ss_sam')
def ss_sam(
  rho: float = 0.05, probability: float = 0.5, **axes: Unpack[Untimed]
) -> base.Method:
  r"""Returns Stochastic Scheduled SAM: SAM with a probability, else SGD.

  .. math::
    z_t \sim \mathrm{Bernoulli}(p), \qquad
    \tilde g_t = \nabla L(w_t + z_t\, \rho\, g_t / \|g_t\|_2)

  One draw in a step, the same for all groups. A step has one gradient or two,
  1 + p in expectation. With probability = 1 it is SAM, with probability = 0 or
  rho = 0 it is SGD. Use it to trade accuracy for time continuously; `late_sam`
  costs less. In a loop of one's own, `value_and_grad` needs a `key`.

  Args:
    rho: radius of the perturbation, in units of the parameters, as for `sam`.
    probability: p, in [0, 1]. The default is ours.
    **axes: other choices on the axes, see `Untimed`; `sam` takes `probability`
      too, together with the other choices of steps.

  Raises:
    ValueError: a value is out of range.

  Source: Zhao et al. 2022 (SS-SAM), with a constant schedule. Differs from the
  paper: its schedules in which p changes along the run are left out.
  """
  return create(rho, axes, probability=probability)
