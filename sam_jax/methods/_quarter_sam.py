"""SAM with the perturbation of a quarter of the examples."""

from typing import Unpack

from sam_jax.methods import base, registry
from sam_jax.methods.axes import Unsampled, create


@registry.register('quarter_sam')
def quarter_sam(
  rho: float = 0.05, ascent_share: float = 0.25, **axes: Unpack[Unsampled]
) -> base.Method:
  r"""Returns SAM whose perturbation is made of a share of the examples.

  .. math::
    \epsilon = \rho\, g_S / \|g_S\|_2, \quad g_S = \nabla L_S(w), \qquad
    \tilde g = \nabla L(w + \epsilon)

  where S is the first quarter of the group's examples, and L is of all of them.
  1.25 gradients in a step. With ascent_share = 1 it is SAM, with rho = 0 it is
  SGD. It is the recipe for language models, and the cheapest one that perturbs
  in every step by the gradient of that step.

  Value, metrics and BatchNorm statistics are those of the first pass, and so of
  S alone; training logs over how many examples the metrics of a step are means,
  as `metric_examples`, and `sharpness` is the difference of the losses of two
  sets of examples.

  Args:
    rho: radius of the perturbation, in units of the parameters, as for `sam`.
    ascent_share: share of the examples of each microbatch, in (0, 1], rounded
      up; the authors have a quarter.
    **axes: other choices on the axes, see `Unsampled`.

  Raises:
    ValueError: a value is out of range; or, when called, the loss is a function
      of parameters alone, which has no examples.

  Source: Bahri et al. 2021 (Sharpness-aware minimization improves language
  model generalization), who follow Brock et al. 2021. The examples of a batch
  are in random order, so that the first ones are a random share.
  """
  return create(rho, axes, ascent_share=ascent_share)
