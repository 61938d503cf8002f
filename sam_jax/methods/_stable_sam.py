"""StableSAM: the gradient of SAM, as long as the plain one."""

from typing import Unpack

import jax

from sam_jax import tree, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create


@parts.COMBINES.register('stable')
def _combine() -> parts.Combine:
  """Returns what gives the descent gradient the length of the other."""
  return _renormalize


@registry.register('stable_sam', fixes=['combine'])
def stable_sam(
  rho: float = 0.05,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns StableSAM, SAM's direction with the length of the plain gradient.

  .. math::
    g_s = \nabla L(w + \rho\, g / \|g\|_2), \qquad
    \tilde g = \frac{\|g\|_2}{\|g_s\|_2}\, g_s

  Near a minimum, and with a large rho, g_s is much longer than g; a learning
  rate that suits SGD may then be too large for SAM. Each group, the m examples
  that share one perturbation, has norms of its own. Two gradients in a step,
  and no field besides SAM's. With rho = 0 it is SGD. Where g_s is parallel to
  g and points the same way, it is SGD too. Use it where SAM diverges at the
  learning rate of SGD.

  Args:
    rho: radius of the perturbation, in units of the parameters. The default is
      SAM's.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Tan et al. 2024 (arXiv 2401.07250), who abbreviate it SSAM too. The
  renormalisation is that of the abstract and of a public collection of
  formulas; the authors' code was not found. A zero gradient stays zero.
  """
  return create(rho, axes, combine=_combine())


def _renormalize(
  ascent_grads: types.Grads, descent_grads: types.Grads
) -> types.Grads:
  """Returns the descent gradient with the length of the ascent gradient."""
  factor = tree.norm(ascent_grads) * tree.inverse_norm(descent_grads)
  return jax.tree.map(lambda d: tree.scale(factor, d), descent_grads)
