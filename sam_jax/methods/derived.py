"""Steps of the choices on the axes that look into the loss."""

import dataclasses
from typing import Any

from sam_jax.methods import base
from sam_jax.methods.perturbed import Perturbed

# Of a forward and backward pass, what the forward pass alone costs.
FORWARD = 1 / 3


def derive(
  kind: type[Perturbed],
  method: base.Method,
  more: float,
  *,
  starts_anew: bool = False,
  **own: Any,
) -> base.Method:
  """Returns a method with the choices of another one.

  Args:
    kind: a subclass that makes its step in another way.
    method: with the choices, as `axes.create` makes it.
    more: what a step that perturbs costs more than the other method's.
    starts_anew: whether the gradient by which `when` decides cannot be used.
    **own: fields of the subclass.

  Raises:
    ValueError: the direction needs no gradient.
  """
  if not isinstance(method, Perturbed):  # rho is 0
    return method
  if not method.direction.needs_gradient:
    raise ValueError(
      'the method needs a gradient at the parameters, and the direction does '
      "without it; choose direction='gradient', or one that is made of it"
    )
  share = 1.0
  if method.when is not None:
    share = method.when.share
    more += starts_anew * method.when.needs_gradient
  choices = {
    f.name: getattr(method, f.name) for f in dataclasses.fields(method)
  }
  choices['gradient_evaluations'] += share * more
  return kind(**choices, **own)
