"""Eigen-SAM: the perturbation is turned towards the top eigenvector."""

import math
from typing import Unpack

import jax
import jax.numpy as jnp

from sam_jax import arguments, keys, leaves, perturbations, tree, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.interface import Context, Problem


@parts.DIRECTIONS.register('eigen')
class Eigen(parts.Direction):
  """Along the unit gradient, plus a part of the Hessian's top eigenvector.

  The result is longer than 1; most metrics count its direction alone.
  """

  def __init__(
    self, alpha: float = 0.2, refresh_every: int = 100, iterations: int = 5
  ) -> None:
    """Takes the share of the eigenvector, and when it is made.

    Raises:
      ValueError: alpha is negative or no number, or there are no iterations, or
        more than steps to make them in.
    """
    if not 0 <= alpha < math.inf:
      raise ValueError(f'alpha is {alpha}; it must be a number >= 0')
    if not 1 <= iterations <= refresh_every:
      raise ValueError(
        f'iterations is {iterations}, and refresh_every is {refresh_every}; '
        'a step makes one iteration: give 1 <= iterations <= refresh_every'
      )
    self._alpha = alpha
    self._every, self._iterations = refresh_every, iterations
    # A Hessian-vector product differentiates a gradient: about two of them.
    self.cost = 2 * iterations / refresh_every

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns a random vector, the same in every run, on which none depends."""
    start = perturbations.random(1.0, keys.make(0))
    return {
      'vector': start(leaves.wide_zeros(params), None),
      'iterations': jnp.int32(0),
    }

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> types.PyTree:
    """Returns the unit gradient plus alpha times what is across it."""
    del ctx
    is_made = memory['iterations'] >= self._iterations
    vector = _like(memory['vector'], grads)
    inverse = tree.inverse_norm(grads)
    along = tree.vdot(grads, vector) * inverse
    share = jnp.where(is_made, self._alpha, 0.0) * jnp.sign(along)

    def turn(v: jax.Array, g: jax.Array | None) -> jax.Array | None:
      if g is None:
        return None
      unit = tree.times(inverse, tree.wide(g))
      return unit + tree.times(share, v - tree.times(along, unit))

    return jax.tree.map(turn, memory['vector'], grads)

  def stats(
    self,
    problem: Problem,
    memory: types.PyTree,
    params: types.Params,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the Hessian times the vector, in steps that need it."""

    def product() -> types.PyTree:
      return _product(problem, memory['vector'], params, grads)

    zeros = jax.tree.map(tree.zeros, jax.eval_shape(product))
    return jax.lax.cond(self._is_due(ctx), product, lambda: zeros)

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns the vector after a power iteration, in steps that make one."""
    del grads
    inverse, is_due = tree.inverse_norm(stats), self._is_due(ctx)

    def iterate(v: jax.Array, product: jax.Array | None) -> jax.Array:
      if product is None:
        return v
      new = tree.times(inverse, tree.wide(product)).astype(v.dtype)
      # Without curvature there is no other vector.
      return jnp.where(is_due & (inverse != 0), new, v)

    return {
      'vector': jax.tree.map(iterate, memory['vector'], stats),
      'iterations': memory['iterations'] + is_due.astype(jnp.int32),
    }

  def _is_due(self, ctx: Context) -> jax.Array:
    """Whether a step makes a power iteration."""
    return ctx.step % self._every < self._iterations


def _like(vector: types.PyTree, grads: types.Grads) -> types.PyTree:
  """Returns a vector without the parameters that have no gradient."""
  return jax.tree.map(lambda v, g: None if g is None else v, vector, grads)


def _product(
  problem: Problem,
  vector: types.PyTree,
  params: types.Params,
  grads: types.Grads,
) -> types.PyTree:
  """Returns the Hessian of the loss that is climbed, times a vector."""
  grads = leaves.differentiable(grads)
  whole = leaves.Parameters(params)
  trained = whole.like(grads)

  def gradient(moved: types.Params) -> types.Grads:
    return leaves.differentiable(problem.ascend(whole.replaced(moved))[1])

  along = jax.tree.map(
    # A vector is like a gradient, and so conjugate to a way.
    lambda p, v: tree.vary_like(jnp.conj(v).astype(p.dtype), p),
    trained,
    _like(vector, grads),
  )
  return jax.jvp(gradient, (trained,), (along,))[1]


def _as_long_as(rho: types.Scalar) -> types.Perturbation:
  """Returns the perturbation of rho times what it is given."""
  arguments.radius(rho)

  def perturb(along: types.Grads, params: types.Params) -> types.PyTree:
    del params
    # Uphill is the conjugate of JAX's gradient.
    return jax.tree.map(
      lambda x: tree.scale(jnp.asarray(rho), jnp.conj(x)), along
    )

  return perturb


@registry.register('eigen_sam', fixes=['direction', 'metric'])
def eigen_sam(
  rho: float = 0.1,
  alpha: float = 0.2,
  refresh_every: int = 100,
  iterations: int = 5,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns Eigen-SAM, which climbs along the sharpest direction too.

  .. math::
    \hat g = g / \|g\|_2, \qquad
    \epsilon = \rho \left(\hat g + \alpha\, \mathrm{sign} \langle g, v\rangle
      \left(v - \langle \hat g, v\rangle\, \hat g\right)\right), \qquad
    \tilde g = \nabla L(w + \epsilon)

  with the gradient g at w and a unit vector v near the eigenvector of the
  Hessian whose eigenvalue is largest in magnitude. epsilon is a little longer
  than rho. v is made by power iterations and kept until it is made anew, from
  where it was. Two gradients in a step, and `iterations` Hessian-vector
  products in `refresh_every` steps, each of about two gradients: 2.1 with the
  defaults. The state is a tree like the parameters. With alpha = 0 it does what
  SAM does, with rho = 0 it is SGD. For when the largest eigenvalue is what is
  to be small.

  Args:
    rho: radius of the perturbation, in units of the parameters. The default is
      the authors' for ResNet-18 on CIFAR-100.
    alpha: share of the part of v across the gradient, >= 0; the authors have
      0.2 there.
    refresh_every: steps from one making of v to the next; the authors have 100.
    iterations: power iterations that make it, in as many steps; the authors
      have 5.
    **axes: other choices on the axes, see `Axes`.

  Raises:
    ValueError: a value is out of range.

  Source: Luo et al. 2024 (NeurIPS), and the authors' code. Differs from the
  code, which makes all iterations in one step, on one batch: here each of them
  is in a step of its own, with the Hessian of its batch averaged over all
  groups, since what is remembered must not depend on how a batch is cut. So the
  first steps, as many as `iterations`, are SAM's, and a new v is complete that
  many steps later. The Hessian is that of the loss as it is trained, with
  BatchNorm over the batch and dropout, where the code has evaluation mode.
  """
  direction = Eigen(alpha, refresh_every, iterations)
  return create(rho, axes, direction=direction, metric=_as_long_as)
