"""Imbalanced SAM: only the loss of rare classes is perturbed."""

from typing import Unpack

import numpy as np

from sam_jax.methods import base, registry
from sam_jax.methods._focal_sam import FIXES, ByClass
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.derived import derive


@registry.register('imb_sam', fixes=FIXES)
def imb_sam(
  rho: float = 0.05, eta: float = 20.0, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns Imbalanced SAM, for data with many examples of some classes.

  The tail are the classes with fewer than eta training images, the others are
  the head. Both losses are sums over their examples in a group, divided by the
  number of all examples in it, and

  .. math::
    \epsilon = \rho\, \frac{\nabla L_{tail}(w)}{\|\nabla L_{tail}(w)\|_2},
    \qquad
    \tilde g = \nabla L_{head}(w) + \nabla L_{tail}(w + \epsilon)

  Three gradients in a step. If all classes are in the tail it is SAM; if none
  is, or with rho = 0, it is SGD, and so it is for a group without an example of
  the tail.

  A penalty of weight decay with `place='loss'` or 'descent' counts as a part of
  the loss of each example: it takes part in the perturbation by the share of
  the tail. Of a mixed image, the share of its label that is in the tail counts.
  Take it, or `focal_sam`, where the error of rare classes matters.

  Args:
    rho: radius of the perturbation, in units of the parameters. The default is
      that of the authors' optimizer.
    eta: number of training images from which on a class is not perturbed, >= 0.
      The authors have 20 for CIFAR-100-LT, imbalance 100, where it splits off
      the classes with few examples.
    **axes: other choices on the axes, see `Axes`; a direction has to be made of
      a gradient.

  Raises:
    ValueError: a value is out of range; or, when a run is built, its task has
      no classes.

  Source: Zhou et al. 2023 (arXiv 2308.07815), and the authors' `imbsam.py` and
  `utils/trainval.py`. Differs from these: the head's gradient is made as that
  of all examples less that of the tail, which is the same up to rounding.
  """
  if not eta >= 0:
    raise ValueError(f'eta is {eta}; it must be a number of images, >= 0')

  def weights(counts: np.ndarray) -> np.ndarray:
    return (counts < eta).astype(np.float64)

  return derive(ByClass, create(rho, axes), 1, weights=weights)
