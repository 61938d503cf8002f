"""A perturbation of some of the parameters."""

import jax
import jax.numpy as jnp

from sam_jax import arguments, balls, types
from sam_jax.perturbations import _base


def masked(
  perturbation: types.Perturbation, mask: types.PyTree
) -> types.Perturbation:
  """Perturbs some of the parameters, as if there were no others.

  Args:
    perturbation: of those that are chosen; norms are theirs alone.
    mask: what is chosen: a tree of bools, where a bool may stand for a whole
      branch of the parameters, or a function that makes one of the parameters,
      such as those of `perturbations.masks`.

  Returns:
    A function `(grads, params) -> epsilon`; epsilon is zero for the others.

  Raises:
    TypeError: `perturbation` is no perturbation, or, when called, the mask has
      something else than bools.
    ValueError: when called, the mask is no tree like the parameters.

  Example:
    SAM-ON (Mueller et al. 2023) perturbs normalisation layers alone:

    >>> import jax.numpy as jnp
    >>> from sam_jax import l2, masked, perturbations
    >>> perturb = masked(l2(0.5), perturbations.masks.normalisation)
    >>> grads = {'conv': jnp.ones(2), 'norm': {'scale': jnp.array([3.0, 4.0])}}
    >>> epsilon = perturb(grads, grads)
    >>> print(epsilon['conv'], epsilon['norm']['scale'])
    [0. 0.] [0.3 0.4]
  """
  arguments.perturbation(perturbation)
  if perturbation is _base.none:
    return _base.none

  @_base.over(_base.axes_of(perturbation))
  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    is_chosen = _base.chosen(mask, grads, params)

    def keep(values: types.PyTree) -> types.PyTree:
      return jax.tree.map(
        lambda is_kept, x: x if is_kept else None,
        is_chosen,
        values,
        is_leaf=lambda x: x is None,
      )

    kept_params = None if params is None else keep(params)
    epsilon = perturbation(keep(grads), kept_params)
    return balls.each(
      lambda g, e: jnp.zeros_like(g) if e is None else e, grads, epsilon
    )

  return perturb
