"""GCSAM: SAM along the centralised gradient."""

from typing import Unpack

from sam_jax import perturbations, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create

Inputs = tuple[int, ...] | None


@parts.METRICS.register('centralised')
def _centralised(inputs: Inputs = None) -> parts.Metric:
  """Returns the metric 'l2' of the gradient less its mean over the inputs."""
  return lambda rho: perturbations.centralised(perturbations.l2(rho), inputs)


@parts.COMBINES.register('centralised')
def _combine(inputs: Inputs = None) -> parts.Combine:
  """Returns what takes the gradient at w + epsilon less such a mean."""

  def centralise(
    ascent_grads: types.Grads, descent_grads: types.Grads
  ) -> types.Grads:
    del ascent_grads
    return perturbations.centralise(descent_grads, inputs)

  return centralise


@registry.register('gcsam', fixes=['metric', 'combine'])
def gcsam(
  rho: float = 0.05, inputs: Inputs = None, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns GCSAM, SAM with both gradients centralised.

  .. math::
    \epsilon = \rho\, C(g) / \|C(g)\|_2, \qquad
    \tilde g = C(\nabla L(w + \epsilon)), \qquad C(g) = g - \mathrm{mean}(g)

  where the mean is over the inputs of each neuron. Two gradients in a step. For
  parameters without inputs, such as biases, it is SAM; with rho = 0 it is SGD.

  Args:
    rho: radius, in units of the parameters; tune it as SAM's. The default is
      ours.
    inputs: axes of a tensor that are inputs. None is all but the last one, for
      tensors of two axes and more, in the layout of Flax. That default is ours:
      the paper does not say what the mean is taken over.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Hassan et al. 2025, arXiv 2501.11584, with the gradient centralisation
  of Yong et al. 2020; the authors' code could not be read.
  """
  return create(
    rho, axes, metric=_centralised(inputs), combine=_combine(inputs)
  )
