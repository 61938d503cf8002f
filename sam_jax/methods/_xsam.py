"""XSAM: the way to the largest loss nearby, searched in a plane."""

import dataclasses
import math
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import leaves, sam, tree, types
from sam_jax.methods import base, interface, parts, registry
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.perturbed import Perturbed

# Where the loss is looked at: alpha = 0, 0.1, ..., 2.
_ALPHAS = np.linspace(0, 2, 21, dtype=np.float32)


@registry.register('xsam', fixes=['combine', 'descent_share', 'loss_share'])
def xsam(
  rho: float = 0.15,
  rho_max: float = 0.3,
  ascent_steps: int = 1,
  search_every: int = 390,
  **axes: Unpack[Axes],
) -> base.Method:
  r"""Returns eXplicit Sharpness-Aware Minimization.

  The gradient points away from where the loss is largest on a sphere. That
  place is looked for in the plane of the perturbation and of the gradient at
  its end: with k = ascent_steps steps of the length rho / k to w_k, the
  gradient g_k there, and psi the angle between v_0 and v_1,

  .. math::
    v_0 = \frac{w_k - w}{\|w_k - w\|}, \quad v_1 = \frac{g_k}{\|g_k\|}, \quad
    v(\alpha) = \frac{\sin((1 - \alpha)\psi)\, v_0 +
      \sin(\alpha\psi)\, v_1}{\sin\psi}, \qquad
    \tilde g = \|g_k\|\, v(\alpha^*)

  .. math::
    \alpha^* = \arg\max_{\alpha \in \{0, 0.1, \dots, 2\}}
      L(w + \rho_{max}\, v(\alpha))

  k + 1 gradients in a step, and in every search 21 evaluations of the loss,
  one after the other, which count as 7 gradients. With alpha = 1 it is SAM with
  as many ascent steps, which it is until the first search is made; with k = 1
  and alpha = 0 it has the direction of SGD; with rho = 0 it is SGD. The state
  is one number, alpha. Use it with several ascent steps, where g_k alone is a
  poor direction from w.

  Args:
    rho: length of the perturbation, in units of the parameters; the authors
      have 0.15 (ResNet-18, CIFAR-100).
    rho_max: radius of the sphere on which the loss is compared; it follows no
      schedule. The authors have 0.3 there.
    ascent_steps: k, at least 1.
    search_every: steps from one search to the next; the authors search once per
      epoch, and 390 steps are one of CIFAR with 128 examples in a batch.
    **axes: other choices on the axes, see `Axes`. A search that is due in a
      step that does not perturb is left out.

  Raises:
    ValueError: a value is out of range.

  Source: Chen and Zhou 2026 (ICLR, arXiv 2603.10048), with the authors' code.
  Differs from it: v is written with the part of v_1 that is orthogonal to v_0,
  which is the same and has no arccos of a rounded cosine, NaN there if it is
  above 1; the loss is the mean over all groups, and so the alpha that a search
  finds is used from the step after it, not in the same one.
  """
  if not 0 < rho_max < math.inf:
    raise ValueError(f'rho_max is {rho_max}; it is a radius: give a number > 0')
  if search_every < 1:
    raise ValueError(
      f'search_every is {search_every}; it must be a whole number >= 1'
    )
  method = create(rho, axes, ascent_steps=ascent_steps)
  if not isinstance(method, Perturbed):  # rho is 0
    return method
  share = 1.0 if method.when is None else method.when.share
  searches = share * len(_ALPHAS) / 3 / search_every
  evaluations = method.gradient_evaluations + searches
  shared = vars(method) | {'gradient_evaluations': evaluations}
  return _XSam(**shared, rho_max=float(rho_max), search_every=int(search_every))


class _Search(parts.Part):
  """Remembers alpha: where the mean loss of all groups was largest."""

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns that of SAM."""
    del params
    return jnp.float32(1)

  def stats(
    self,
    problem: interface.Problem,
    memory: types.PyTree,
    params: types.Params,
    grads: types.Grads,
    ctx: interface.Context,
  ) -> types.PyTree:
    """Returns that nothing was found, as in a step without a search."""
    del problem, memory, params, grads, ctx
    return jnp.zeros(len(_ALPHAS), jnp.float32), jnp.float32(0)

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: interface.Context,
  ) -> types.PyTree:
    """Returns the alpha of the largest loss, or the last one."""
    del grads, ctx
    losses, is_searched = stats
    is_found = (is_searched > 0) & jnp.all(jnp.isfinite(losses))
    return jnp.where(is_found, jnp.asarray(_ALPHAS)[losses.argmax()], memory)


class _Plane(NamedTuple):
  """Two unit vectors, orthogonal to each other, and the angle of v_1.

  Attributes:
    along: v_0.
    across: the direction of the part of v_1 that is orthogonal to it.
    angle: psi.
  """

  along: types.PyTree
  across: types.PyTree
  angle: jax.Array

  def point(self, alpha: types.Scalar, length: types.Scalar) -> types.PyTree:
    """Returns the length times v(alpha)."""
    turn = alpha * self.angle
    near, far = length * jnp.cos(turn), length * jnp.sin(turn)
    return jax.tree.map(
      lambda a, b: tree.times(near, a) + tree.times(far, b),
      self.along,
      self.across,
    )


def _plane(epsilon: types.PyTree, grads: types.Grads) -> _Plane:
  """Returns the plane of a perturbation and of a gradient.

  It is one of gradients, which JAX has conjugate to the way uphill.
  """
  along, ahead = _unit(jax.tree.map(jnp.conj, epsilon)), _unit(grads)
  cosine = tree.vdot(ahead, along)
  across = jax.tree.map(lambda v, a: v - tree.times(cosine, a), ahead, along)
  angle = jnp.arctan2(tree.norm(across), cosine)
  return _Plane(along, _unit(across), angle)


def _unit(vector: types.PyTree) -> types.PyTree:
  """Returns a tree of length 1 in at least float32; 0 for zero."""
  inverse = tree.inverse_norm(vector)
  return jax.tree.map(lambda x: tree.times(inverse, tree.wide(x)), vector)


@dataclasses.dataclass(frozen=True)
class _XSam(Perturbed):
  """See `xsam`."""

  rho_max: float = 0.0
  search_every: int = 1
  search: _Search = dataclasses.field(default_factory=_Search)

  def perturb(
    self,
    problem: interface.Problem,
    params: types.Params,
    ctx: interface.Context,
    memory: Any = None,
    first: tuple[Any, types.Grads] | None = None,
  ) -> tuple[interface.GroupResult, sam.SamInfo]:
    """Turns the gradient by the alpha that is known, and looks for another."""
    result, info = super().perturb(problem, params, ctx, memory, first)
    plane = _plane(info.epsilon, info.descent_grads)
    turned = plane.point(memory['search'], tree.norm(info.descent_grads))
    grads = jax.tree.map(
      lambda v, g: v.astype(g.dtype), turned, info.descent_grads
    )
    stats = result.stats | {'search': self._look(problem, params, plane, ctx)}
    return result._replace(grads=grads, stats=stats), info

  def _parts(self) -> dict[str, parts.Part]:
    """Returns the parts of a perturbation, and the search."""
    return {**super()._parts(), 'search': self.search}

  def _look(
    self,
    problem: interface.Problem,
    params: types.Params,
    plane: _Plane,
    ctx: interface.Context,
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the loss of the group for each alpha where a search is due."""
    whole = leaves.Parameters(params)

    def loss(alpha: jax.Array) -> jax.Array:
      point = jax.tree.map(jnp.conj, plane.point(alpha, self.rho_max))
      moved = whole.moved(point)
      (value, _), _ = problem.descend(moved)  # its gradient is not computed
      return value.astype(jnp.float32)

    def losses() -> jax.Array:
      return jax.lax.map(loss, jnp.asarray(_ALPHAS))

    is_due = ctx.step % self.search_every == 0
    nothing = jax.eval_shape(losses)
    found = jax.lax.cond(is_due, losses, lambda: tree.zeros(nothing))
    return found, jnp.float32(is_due)
