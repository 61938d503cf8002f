"""SSAM-F: sparse SAM by the Fisher information of single examples."""

from typing import Unpack

import jax

from sam_jax import tree, types
from sam_jax.methods import base, masks, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.interface import Context, Problem


@parts.MASKS.register('fisher')
class Fisher(masks.Remembered):
  """Those with the largest mean of squared gradients of single examples."""

  def __init__(
    self, sparsity: float = 0.5, samples: int = 16, refresh: int = 400
  ) -> None:
    """Takes the share that is left out, and how many examples are looked at.

    Raises:
      ValueError: a value is out of range.
    """
    super().__init__(refresh)
    masks.check_sparsity(sparsity)
    if samples < 1:
      raise ValueError(f'samples is {samples}; it must be a whole number >= 1')
    self._sparsity, self._samples = sparsity, samples

  def stats(
    self,
    problem: Problem,
    memory: types.PyTree,
    params: types.Params,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the diagonal of the Fisher information, zeros if none is due."""
    del memory, grads
    squares_fn = problem.get('squared_gradients')
    shapes = jax.eval_shape(lambda: squares_fn(params, self._samples))
    return jax.lax.cond(
      self.is_due(ctx),
      lambda: squares_fn(params, self._samples),
      lambda: jax.tree.map(tree.zeros, shapes),
    )

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the mask of the steps that follow."""
    del grads
    count = masks.kept(memory, 1 - self._sparsity)
    return jax.lax.cond(
      self.is_due(ctx),
      lambda: masks.like(masks.largest(masks.flat(stats), count), memory),
      lambda: memory,
    )


@registry.register('ssam_f', fixes=['mask'])
def ssam_f(
  rho: float = 0.1,
  sparsity: float = 0.5,
  samples: int = 16,
  refresh: int = 400,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns sparse SAM with a mask by the Fisher information.

  .. math::
    \epsilon = \rho\, M \odot g / \|g\|_2, \qquad
    \tilde g = \nabla L(w + \epsilon)

  with the norm of the full gradient, and M = 1 for the share 1 - s of all
  parameters with the largest

  .. math:: F = \frac{1}{n} \sum_{i=1}^n (\nabla l(w; x_i))^2

  over n single examples, made anew in every so many steps. F is averaged over
  all groups, and so over n examples of each. Two gradients in a step, and n / m
  of one where the mask is made, which is not counted. The state is a bool for
  each parameter; F is sent between the devices like a second gradient. In the
  first step there is no mask yet, and all is perturbed. With sparsity = 0 it is
  SAM, with rho = 0 it is SGD. The sparsity saves no time here, as in the
  authors' code; use it where SAM's full perturbation is too much.

  Args:
    rho: radius of the full perturbation, in units of the parameters. The
      authors have 0.1 for CIFAR-10 and 0.2 for CIFAR-100.
    sparsity: s, share of the parameters that are not perturbed, in [0, 1); the
      authors have 0.5.
    samples: n, of each group; rounded up to a multiple of its microbatches. The
      authors have 16 for CIFAR and 128 for ImageNet.
    refresh: steps from one mask to the next. The authors make it once in an
      epoch, which is 391 steps for CIFAR with their batch size of 128.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range; or, when called, the loss is a function
      of parameters alone, which has no examples.

  Source: Mi et al. 2022, algorithm 1. Differs from the authors' code: there
  nothing is perturbed until the first mask is made, the examples are drawn from
  the whole training set, and BatchNorm normalises each by itself; here they are
  those of the step, and go through the model as it is evaluated.
  """
  return create(rho, axes, mask=Fisher(sparsity, samples, refresh))
