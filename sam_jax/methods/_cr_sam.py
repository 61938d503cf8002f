"""CR-SAM: the curvature along the perturbation is kept low, and even."""

import dataclasses
import math
from typing import Any, Unpack

import jax

from sam_jax import leaves, sam, tree, types
from sam_jax.methods import base, interface, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.derived import derive
from sam_jax.methods.perturbed import Perturbed


@registry.register(
  'cr_sam', fixes=['combine', 'ascent_share', 'descent_share', 'loss_share']
)
def cr_sam(
  rho: float = 0.1,
  gamma: float = 0.1,
  beta: float = 0.01,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns Curvature-Regularized Sharpness-Aware Minimization.

  With the gradients on both sides of w,

  .. math::
    g_\pm = \nabla L(w \pm \epsilon), \qquad
    \epsilon = \rho\, g / \|g\|_2, \qquad
    \tilde g = g_+ + \gamma\, (g_+ + g_- - 2 g) + \beta\, (g_+ - g_-)

  The second term is the gradient of L(w + epsilon) + L(w - epsilon) - 2 L(w),
  which is the curvature along epsilon; the third one is that of
  L(w + epsilon) - L(w - epsilon), the slope. Three gradients in a step. With
  gamma = beta = 0 it is SAM, with rho = 0 it is SGD. All three gradients are of
  the loss that is trained: weight decay with `place='descent'` takes part in
  the perturbation too. Use it where a loss is so curved that one step of ascent
  does not tell where it is largest, and a third gradient can be paid for.

  Args:
    rho: radius of the perturbation, in units of the parameters; the authors
      have 0.1.
    gamma: weight of the curvature, >= 0; the authors have 0.1.
    beta: weight of the slope, >= 0; the authors have 0.01.
    **axes: other choices on the axes, see `Axes`; the direction has to be one
      that needs the gradient.

  Raises:
    ValueError: a value is out of range.

  Source: Wu et al. 2024 (AAAI), with the authors' code. Differs from it: a zero
  gradient gives no NaN.
  """
  for name, value in (('gamma', gamma), ('beta', beta)):
    if not 0 <= value < math.inf:
      raise ValueError(f'{name} is {value}; it must be a number >= 0')
  method = create(rho, axes)
  return derive(_CrSam, method, 1, gamma=float(gamma), beta=float(beta))


@dataclasses.dataclass(frozen=True)
class _CrSam(Perturbed):
  """See `cr_sam`."""

  gamma: float = 0.0
  beta: float = 0.0

  def perturb(
    self,
    problem: interface.Problem,
    params: types.Params,
    ctx: interface.Context,
    memory: Any = None,
    first: tuple[Any, types.Grads] | None = None,
  ) -> tuple[interface.GroupResult, sam.SamInfo]:
    """Adds what the gradient on the other side says."""
    problem = problem.of_descent()
    result, info = super().perturb(problem, params, ctx, memory, first)
    backwards = jax.tree.map(lambda e: -e, info.epsilon)
    _, behind = problem.descend(leaves.Parameters(params).moved(backwards))
    grads = jax.tree.map(
      self._regularize, info.descent_grads, behind, info.ascent_grads
    )
    return result._replace(grads=grads), info

  def _regularize(
    self, ahead: jax.Array, behind: jax.Array, here: jax.Array
  ) -> jax.Array:
    """Returns the gradient of the loss and of both penalties, of a leaf."""
    plus, minus = tree.wide(ahead), tree.wide(behind)
    curvature = plus + minus - 2 * tree.wide(here)
    return tree.add(ahead, self.gamma * curvature + self.beta * (plus - minus))
