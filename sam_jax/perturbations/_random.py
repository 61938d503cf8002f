"""A random direction, which SAM's is compared with."""

import jax
import jax.numpy as jnp

from sam_jax import tree, types
from sam_jax.perturbations import _base, _norms


def random(
  rho: types.Scalar, key: jax.Array, axis_name: _base.AxisName = None
) -> types.Perturbation:
  r"""Moves in a random direction, to a sphere of radius rho.

  .. math:: \epsilon = \rho\, z / \|z\|_2, \qquad z \sim N(0, I)

  What SAM's gradient direction is compared with in appendix C.5 of the paper
  (which prints the square of the norm; its figure's legend has the norm).

  Args:
    rho: radius, in units of the parameters; a number or a traced scalar.
    key: of the draw; each leaf's is the key with its number folded in. Inside
      `jax.shard_map` devices whose gradients differ draw differently from one
      key: their place on the mesh axis is folded in, unless the key differs
      over that axis. Under `pmap`, or with `check_vma=False`, where JAX does
      not know what differs, fold in `jax.lax.axis_index` yourself.
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon` that looks at shapes and dtypes of
    the gradient alone.

  Raises:
    TypeError: see `l2`.
    ValueError: rho is a number and negative, infinite or NaN.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> perturb = perturbations.random(0.5, jax.random.key(0))
    >>> print(f'{jnp.linalg.norm(perturb(jnp.ones(9), None)):.3f}')
    0.500
  """
  onto_sphere = _norms.l2(rho, axis_name)
  if onto_sphere is _base.none:
    return _base.none

  @_base.over(axis_name)
  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    leaves, structure = jax.tree.flatten(grads)
    drawn = [
      leaf
      if tree.is_float0(leaf)
      else _normal(jax.random.fold_in(key, i), leaf)
      for i, leaf in enumerate(leaves)
    ]
    epsilon = onto_sphere(jax.tree.unflatten(structure, drawn), params)
    return _base.rounded(epsilon, grads)

  return perturb


def _normal(key: jax.Array, leaf: jax.Array) -> jax.Array:
  """Draws as many normal numbers as a leaf has, in at least float32."""
  for axis in sorted(tree.varying(leaf) - tree.varying(key)):
    key = jax.random.fold_in(key, jax.lax.axis_index(axis))
  leaf, dtype = jnp.asarray(leaf), tree.real_dtype(leaf)
  if jnp.iscomplexobj(leaf):
    drawn = jax.lax.complex(*jax.random.normal(key, (2, *leaf.shape), dtype))
  else:
    drawn = jax.random.normal(key, leaf.shape, dtype)
  if tree.is_cut(leaf):
    drawn = jax.sharding.reshard(drawn, jax.typeof(leaf).sharding)
  return drawn
