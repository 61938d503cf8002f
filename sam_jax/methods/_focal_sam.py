"""Focal-SAM: rare classes are perturbed more than frequent ones."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import sam, tree, types
from sam_jax.methods import base, interface, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.derived import derive
from sam_jax.methods.perturbed import Perturbed

FIXES = ('ascent_share', 'descent_share', 'loss_share', 'combine')


@registry.register('focal_sam', fixes=FIXES)
def focal_sam(
  rho: float = 0.2,
  gamma: float = 3.0,
  lam: float = 0.5,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns Focal-SAM, for data with many examples of some classes.

  With the share pi_c of class c in the training examples, and the sum L_c of
  the losses of its examples, divided by those of all classes,

  .. math::
    L_\gamma = \sum_c (1 - \pi_c)^\gamma L_c, \qquad
    \epsilon = \rho\, \frac{\nabla L_\gamma(w)}{\|\nabla L_\gamma(w)\|_2},
    \qquad
    \tilde g = \nabla (L - \lambda L_\gamma)(w)
      + \lambda \nabla L_\gamma(w + \epsilon)

  so that the sharpness of the loss of the rare classes counts more. Three
  gradients in a step. With gamma = 0 and lam = 1 it is SAM, with lam = 0 or
  rho = 0 it is SGD.

  A penalty of weight decay with `place='loss'` or 'descent' counts as a part of
  the loss of each example: it takes part in the perturbation, with the mean of
  the weights. Of a mixed image, the weight is the mean of those of its classes.
  Take it, or `imb_sam`, where the error of rare classes matters.

  Args:
    rho: radius of the perturbation, in units of the parameters.
    gamma: how much less frequent classes are perturbed, >= 0.
    lam: share of the sharpness in what is minimised, >= 0. The three defaults
      are the authors' for CIFAR-10-LT with ResNet-32, imbalance 100; they have
      0.3, 3.2 and 0.8 for CIFAR-100-LT.
    **axes: other choices on the axes, see `Axes`; a direction has to be made of
      a gradient.

  Raises:
    ValueError: a value is out of range; or, when a run is built, its task has
      no classes.

  Source: Li et al. 2025 (arXiv 2505.01660), and the authors' `train_step.py`
  and `scripts/cifar.sh`. Differs from these: the loss there is logit
  adjustment, here it is that of the task.
  """
  for name, value in (('gamma', gamma), ('lam', lam)):
    if not 0 <= value < math.inf:
      raise ValueError(f'{name} is {value}; it must be a number >= 0')

  def weights(counts: np.ndarray) -> np.ndarray:
    return (1 - counts / counts.sum()) ** gamma

  method = create(rho, axes)
  return derive(ByClass, method, 1, weights=weights, lam=float(lam))


@dataclasses.dataclass(frozen=True)
class ByClass(Perturbed):
  """The loss with weights for classes is perturbed, the rest is not.

  Attributes:
    weights: of the classes, of the number of their training examples.
    lam: factor on what the perturbation changes.
  """

  needs_of_task: ClassVar[tuple[str, ...]] = ('classes',)
  weights: Callable[[np.ndarray], np.ndarray] = np.ones_like
  lam: float = 1.0

  def perturb(
    self,
    problem: interface.Problem,
    params: types.Params,
    ctx: interface.Context,
    memory: Any = None,
    first: tuple[Any, types.Grads] | None = None,
  ) -> tuple[interface.GroupResult, sam.SamInfo]:
    """Returns g + lam (g_w(w + epsilon) - g_w(w)), g_w of the weighted loss."""
    out, grads = problem.descend(params) if first is None else first
    of_class = self.weights(problem.get('class_counts'))
    weighted = problem.get('with_losses')(
      weigh, problem.get('class_values')(of_class)
    )
    # The three gradients are of one function, its penalty included.
    weighted = weighted.of_descent()
    result, info = super().perturb(weighted, params, ctx, memory)

    def add(g: jax.Array, d: jax.Array, a: jax.Array) -> jax.Array:
      change = tree.wide(d) - tree.wide(a)
      return tree.add(g, tree.times(jnp.asarray(self.lam), change))

    grads = jax.tree.map(add, grads, info.descent_grads, info.ascent_grads)
    return result._replace(out=out, grads=grads), info


def weigh(
  outputs: Any, losses: jax.Array, penalty: types.Scalar, weights: jax.Array
) -> jax.Array:
  """Returns the losses of a microbatch, each with its weight."""
  del outputs
  return weights * (losses + penalty)
