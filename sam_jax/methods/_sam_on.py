"""SAM-ON: SAM of the normalisation layers alone."""

from typing import Unpack

from sam_jax import perturbations
from sam_jax.methods import base, registry
from sam_jax.methods.axes import Axes, create


@registry.register('sam_on', fixes=['mask'])
def sam_on(rho: float = 0.5, **axes: Unpack[Axes]) -> base.Method:
  r"""Returns SAM-ON: only normalisation layers are perturbed.

  .. math::
    \epsilon_P = \rho\, g_P / \|g_P\|_2, \quad \epsilon = 0 \text{ elsewhere},
    \qquad \tilde g = \nabla L(w + \epsilon)

  where P is scale and bias of all normalisation layers; the norm is over P
  alone, and the gradient that is followed is that of all parameters. With
  metric='adaptive' it is the authors' ASAM-ON, with every parameter in P it is
  SAM, with rho = 0 it is SGD. Two gradients in a step. Use it as SAM for
  networks with normalisation layers, with a larger radius: P holds about a
  thousandth of the parameters.

  Args:
    rho: radius of the perturbation, in units of the parameters. The best one is
      several times SAM's: the authors have 10 for ViT with Lion where SAM has
      1. The default is ours.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range; or, in `init`, no parameter is the
      scale or the bias of a normalisation layer, see
      `perturbations.masks.normalisation`.

  Source: Mueller et al. 2023, section 3. As in the authors' code, the gradient
  is that of a full backward pass, and so costs as much as SAM's.
  """
  return create(rho, axes, mask=perturbations.masks.normalisation)
