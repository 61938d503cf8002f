"""WSAM: the sharpness is a term of the loss, with a weight."""

import functools
from typing import Unpack

import jax

from sam_jax import tree, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.COMBINES.register('wsam')
def _combine(gamma: float = 0.9) -> parts.Combine:
  """Returns what weighs the two gradients.

  Raises:
    ValueError: gamma is not in [0, 1).
  """
  if not 0 <= gamma < 1:
    raise ValueError(
      f'gamma is {gamma}; it is the weight of the perturbed loss: give a '
      'number in [0, 1)'
    )
  return functools.partial(weigh, weight=gamma / (1 - gamma))


@registry.register('wsam', fixes=['combine'])
def wsam(
  rho: float = 0.05,
  gamma: float = 0.9,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns Weighted Sharpness-Aware Minimization.

  The loss that is minimised is (1 - a) L(w) + a L(w + epsilon), that is L and a
  times the sharpness L(w + epsilon) - L(w):

  .. math::
    \tilde g = (1 - a)\, g + a\, \nabla L(w + \rho\, g / \|g\|_2), \qquad
    a = \frac{\gamma}{1 - \gamma}

  Two gradients in a step. With gamma = 0.5 it is SAM, with gamma = 0 it is SGD;
  above 0.5 it goes beyond SAM, away from g. Both gradients are of the loss that
  is trained: weight decay with `place='descent'` takes part in the perturbation
  too. Use it where SAM helps and a larger rho does not help more.

  Args:
    rho: radius of the perturbation, in units of the parameters.
    gamma: weight of the perturbed loss, in [0, 1); the authors have 0.9, and
      0.8 to 0.95 by data set.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Yue et al. 2023 (KDD), of which this is the coupled form. Differs from
  the authors' code, whose default is the decoupled form: there the optimizer
  gets g alone, and after its step a (g_s - g), with g_s the gradient at
  w + epsilon, times the learning rate is subtracted from the parameters. A
  method here returns the gradient that the optimizer gets, also to a loop of
  one's own, and nothing that is applied after it, so the decoupled form is not
  offered. With SGD without momentum and without clipping the two forms are
  the same.
  """
  return create(rho, axes, combine=_combine(gamma))


def weigh(
  ascent_grads: types.Grads, descent_grads: types.Grads, weight: float
) -> types.Grads:
  """Returns 1 - weight times the first gradient and weight times the other."""
  if weight == 1:
    return descent_grads

  def mean(g: jax.Array, d: jax.Array) -> jax.Array:
    return tree.add(d, (1 - weight) * (tree.wide(g) - tree.wide(d)))

  return jax.tree.map(mean, ascent_grads, descent_grads)
