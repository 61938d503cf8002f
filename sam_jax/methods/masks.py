"""Which parameters are perturbed: by name, by chance, or by what they did."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sam_jax import leaves, perturbations, tree, types
from sam_jax.methods import parts
from sam_jax.methods.interface import Context

_Chooses = Callable[[types.Params], types.PyTree]


@parts.MASKS.register('kernels')
def _kernels() -> _Chooses:
  """Returns the mask of kernels and embeddings."""
  return perturbations.masks.kernels


@parts.MASKS.register('normalisation')
def _normalisation() -> _Chooses:
  """Returns the mask of scale and bias of normalisation layers, as SAM-ON."""
  return perturbations.masks.normalisation


@parts.MASKS.register('weights')
def _weights() -> _Chooses:
  """Returns the mask of whatever is no bias."""
  return perturbations.masks.weights


@parts.MASKS.register('matching')
def _matching(pattern: str) -> _Chooses:
  """Returns the mask of the names that match a regular expression."""
  return perturbations.masks.matching(pattern)


class Remembered(parts.Mask):
  """A mask that is made anew in every so many steps.

  It is made of averages over all groups and devices at the end of such a step,
  the first one included, and used from the next step on. Until then, in the
  first step, all is perturbed. The length by which the perturbation was
  normalised is that of all parameters.
  """

  applies_later = True

  def __init__(self, refresh: int) -> None:
    """Takes the number of steps from one mask to the next.

    Raises:
      ValueError: it is below 1.
    """
    if refresh < 1:
      raise ValueError(f'refresh is {refresh}; it must be a whole number >= 1')
    self._refresh = refresh

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns the mask of the first step."""
    return jax.tree.map(
      lambda p: jnp.ones(jnp.shape(p), bool) if leaves.is_float(p) else None,
      params,
    )

  def __call__(
    self, memory: types.PyTree, epsilon: types.PyTree, ctx: Context
  ) -> types.PyTree:
    """Returns the perturbation of those that are in the mask."""
    del ctx
    return jax.tree.map(
      lambda is_live, e: (
        None if e is None else jnp.where(is_live, e, jnp.zeros_like(e))
      ),
      memory,
      epsilon,
    )

  def is_due(self, ctx: Context) -> jax.Array:
    """Returns whether the mask is made anew at the end of the step."""
    return ctx.step % self._refresh == 0


def check_sparsity(sparsity: float) -> None:
  """Refuses what is no share of the parameters.

  Raises:
    ValueError: it is not in [0, 1).
  """
  if not 0 <= sparsity < 1:
    raise ValueError(
      f'sparsity is {sparsity}; it is the share of the parameters that are not '
      'perturbed: give a number in [0, 1)'
    )


def size(mask: types.PyTree) -> int:
  """Returns how many numbers a mask is of."""
  return sum(leaf.size for leaf in jax.tree.leaves(mask))


def flat(values: types.PyTree) -> jax.Array:
  """Returns the numbers of a tree as one vector."""
  return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(values)])


def like(vector: jax.Array, mask: types.PyTree) -> types.PyTree:
  """Returns the numbers of a vector as a tree like a mask."""
  found, structure = jax.tree.flatten(mask)
  ends = [sum(x.size for x in found[: i + 1]) for i in range(len(found) - 1)]
  parts_ = jnp.split(vector, ends)
  shaped = [p.reshape(x.shape) for p, x in zip(parts_, found, strict=True)]
  return jax.tree.unflatten(structure, shaped)


def largest(scores: jax.Array, count: int | jax.Array) -> jax.Array:
  """Returns which numbers of a vector are among that many of the largest.

  Exactly that many are, of equal ones the first.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax.methods import masks
    >>> print(masks.largest(jnp.array([1.0, 3.0, 3.0, 2.0]), 1))
    [False  True False False]
  """
  order = jnp.argsort(-scores, stable=True)
  ranks = jnp.arange(scores.size)
  return jnp.zeros(scores.size, bool).at[order].set(ranks < count)


def kept(mask: types.PyTree, share: float) -> int:
  """Returns how many numbers a share of a mask is, at least one."""
  return max(1, math.floor(round(share * size(mask), 6)))


def magnitude(x: jax.Array) -> jax.Array:
  """Returns the magnitude of a number, real, in at least float32."""
  return jnp.abs(tree.wide(x))
