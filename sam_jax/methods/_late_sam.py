"""Late-phase SAM: SGD first, and SAM at the end."""

from typing import Unpack

from sam_jax.methods import base, registry
from sam_jax.methods.axes import Untimed, create


@registry.register('late_sam')
def late_sam(
  rho: float = 0.05, start: float = 0.875, **axes: Unpack[Untimed]
) -> base.Method:
  r"""Returns late-phase SAM: SGD for most of the run, and then SAM.

  .. math::
    \tilde g_t = \begin{cases}
      \nabla L(w_t) & t < s T \\
      \nabla L(w_t + \rho\, g_t / \|g_t\|_2) & t \ge s T
    \end{cases}

  with the length T of the run and its share s that is made by SGD. One gradient
  in a step before s T and two after it: 2 - s, as a mean over the run. With
  start = 0 it is SAM, with start = 1 or rho = 0 it is SGD. Use it where a
  second gradient in every step is too much: the authors find that the few
  epochs at the end select nearly as flat a minimum as SAM from the beginning.
  In a loop of one's own, `value_and_grad` needs `num_steps`.

  Args:
    rho: radius of the perturbation, in units of the parameters, as for `sam`.
    start: share of the run before the first step that perturbs, in [0, 1]. The
      default is the last eighth, which the authors have for WRN-16-8 on
      CIFAR-10: epoch 175 of 200.
    **axes: other choices on the axes, see `Untimed`; `sam` takes `start` too,
      together with the other choices of steps.

  Raises:
    ValueError: a value is out of range.

  Source: Zhou et al. 2025 (Sharpness-aware minimization efficiently selects
  flatter minima late in training), algorithm 1.
  """
  return create(rho, axes, start=start)
