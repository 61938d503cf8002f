"""Gradient centralisation: no part of the gradient along the mean input."""

import jax
import jax.numpy as jnp

from sam_jax import arguments, balls, tree, types
from sam_jax.perturbations import _base

Axes = tuple[int, ...] | None


def centralised(
  perturbation: types.Perturbation, axes: Axes = None
) -> types.Perturbation:
  r"""Climbs along the centralised gradient: the ascent of GCSAM.

  .. math::
    \hat\epsilon = P(C(g), w), \qquad C(g) = g - \mathrm{mean}(g)

  where the mean is that over the inputs of each neuron. GCSAM has `l2` for P,
  and centralises the gradient of the descent as well: see `centralise`.
  Centralising twice is centralising once.

  Args:
    perturbation: P; norms are those of the centralised gradient.
    axes: see `centralise`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: `perturbation` is no perturbation.
    ValueError: when called, a tensor is split over the mesh axes of the
      perturbation.

  Source: Hassan et al. 2025 (GCSAM), arXiv 2501.11584; the authors' code could
  not be read.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> perturb = perturbations.centralised(perturbations.unnormalised(0.5))
    >>> print(perturb(jnp.array([[1.0, 5.0], [3.0, 9.0]]), None))
    [[-0.5 -1. ]
     [ 0.5  1. ]]
  """
  arguments.perturbation(perturbation)
  if perturbation is _base.none:
    return _base.none
  split = _base.axes_of(perturbation)

  @_base.over(split)
  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    _refuse_slices(grads, split)
    wide = balls.each(lambda g: _without_mean(tree.wide(g), axes), grads)
    return _base.rounded(perturbation(wide, params), grads)

  return perturb


def centralise(grads: types.Grads, axes: Axes = None) -> types.Grads:
  r"""Returns a gradient without its mean over the inputs of each neuron.

  .. math:: C(g) = g - \mathrm{mean}(g)

  Args:
    grads: of the parameters. A tensor with less than two axes stays as it is.
    axes: which axes of a tensor are inputs. None: all but the last, in the
      layout of Flax, [height, width, inputs, outputs]. That default is ours:
      the paper of GCSAM does not say what it takes the mean over, and that of
      gradient centralisation takes it over the inputs of each output. It does
      not fit an embedding, whose mean is then over the words, nor a layer whose
      outputs are on several axes: give the axes, or leave it out by `masked`.

  Source: Yong et al. 2020 (gradient centralisation), arXiv 2004.01461.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> print(perturbations.centralise(jnp.array([[1.0, 5.0], [3.0, 9.0]])))
    [[-1. -2.]
     [ 1.  2.]]
  """

  def without_mean(g: jax.Array) -> jax.Array:
    g = jnp.asarray(g)
    return _without_mean(tree.wide(g), axes).astype(g.dtype)

  return balls.each(without_mean, grads)


def _without_mean(g: jax.Array, axes: Axes) -> jax.Array:
  """Returns one tensor without its mean over some axes."""
  if g.ndim < 2 or not g.size:
    return g
  inputs = tuple(range(g.ndim - 1)) if axes is None else axes
  return g - jnp.mean(g, inputs, keepdims=True)


def _refuse_slices(grads: types.Grads, split: tuple[str, ...]) -> None:
  """Refuses tensors of which each device has a part.

  Raises:
    ValueError: there is one; along which of its axes it is split is not known.
  """
  for g in jax.tree.leaves(grads):
    axes = tuple(sorted(tree.varying(g).intersection(split)))
    if axes and jnp.ndim(g) >= 2:
      raise ValueError(
        f'a tensor of shape {jnp.shape(g)} is split over the mesh axes {axes}, '
        'and the mean over its inputs cannot be taken from a slice; centralise '
        'where parameters are whole, or under jax.jit with a NamedSharding'
      )
