"""Functional SAM: the network is perturbed, the loss of its outputs is not."""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from sam_jax import sam, types
from sam_jax.methods import base, interface, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.derived import derive
from sam_jax.methods.perturbed import Perturbed


@registry.register(
  'functional_sam', fixes=['ascent_share', 'descent_share', 'loss_share']
)
def functional_sam(rho: float = 0.05, **axes: Unpack[Axes]) -> base.Method:
  r"""Returns Functional SAM.

  With the model's outputs F(w), their Jacobian J and the loss L(F), the
  gradient of SAM is the product of two factors at w + epsilon. Here only one of
  them is there,

  .. math::
    \tilde g = J(w + \epsilon)^T\, \frac{\partial L}{\partial F}(w), \qquad
    \epsilon = \rho\, g / \|g\|_2

  so that the sharpness which is lowered is that of the function that the
  network is, and not that of the loss as a function of the logits, which is
  lowered by smaller logits. It is for language models, where the authors find
  that SAM does mostly the latter; for images SAM is as good. Two gradients in a
  step. With rho = 0 it is SGD, and so it is if the outputs are linear in the
  parameters.

  Both passes see the same examples, dropout masks and microbatches, and each
  normalises by the BatchNorm statistics of its own activations: these are a
  part of F. A penalty of weight decay is no function of the outputs: with
  `place='loss'` its gradient is taken at w + epsilon, as in SAM. The
  derivatives by the outputs are kept from one pass to the other, an array as
  large as the outputs of the examples that a device has of a group.

  Args:
    rho: radius of the perturbation, in units of the parameters. The default is
      SAM's; the authors tune it for each size of model.
    **axes: other choices on the axes, see `Axes`; a direction has to be made of
      a gradient.

  Raises:
    ValueError: a value is out of range.

  Source: Singh et al. 2025 (arXiv 2502.02407), "Avoiding spurious sharpness
  minimization broadens applicability of SAM", Functional-SAM. The variant with
  a preconditioned perturbation is not here.
  """
  return derive(_FunctionalSam, create(rho, axes), 0, starts_anew=True)


@dataclasses.dataclass(frozen=True)
class _FunctionalSam(Perturbed):
  """See `functional_sam`."""

  def perturb(
    self,
    problem: interface.Problem,
    params: types.Params,
    ctx: interface.Context,
    memory: Any = None,
    first: tuple[Any, types.Grads] | None = None,
  ) -> tuple[interface.GroupResult, sam.SamInfo]:
    """Returns the result with the slopes of the loss at w."""
    del first  # it has no slopes
    if self.combine is not sam.descent:
      problem = problem.of_descent()
    found, slopes = problem.get('slopes')(params)
    linear = problem.get('with_losses')(_along, slopes)
    linear = linear._replace(ascend=problem.ascend)
    return super().perturb(linear, params, ctx, memory, found)


def _along(
  outputs: types.PyTree,
  losses: jax.Array,
  penalty: types.Scalar,
  slopes: types.PyTree,
) -> jax.Array:
  """Returns the inner product of each example's outputs and slopes."""
  products = jax.tree.map(
    lambda o, s: jnp.sum((o * s).reshape(len(losses), -1), axis=1),
    outputs,
    slopes,
  )
  return sum(jax.tree.leaves(products), jnp.zeros_like(losses)) + penalty
