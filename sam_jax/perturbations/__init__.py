r"""Perturbations: how far, and in which direction, SAM climbs.

A perturbation is a pure function `(grads, params) -> epsilon`. All here are
homogeneous of degree zero in the gradient: its length does not matter, only
its direction, as long as its squares are float32 numbers. Those that climb
share these guarantees:

| gradient                  | epsilon                                       |
|---------------------------|-----------------------------------------------|
| zero everywhere           | zero, never NaN (also when differentiated)    |
| NaN somewhere             | NaN at least there, so the step is seen to fail |
| less exact than float32   | that dtype; norms are accumulated in float32  |
| complex leaf              | along the conjugate: JAX's gradient of a real |
|                           | loss is the conjugate of the way uphill       |
| `None` leaf               | `None`: that parameter is not perturbed       |

`rho` may be a traced value, so that a schedule costs no recompilation.

Inside `jax.shard_map`, with parameters that are split over a mesh axis, each
device sees its slices alone. `axis_name` names that axis, or several: norms are
then those of all slices, and leaves that are whole on every device count once.
A perturbation of your own that sums over axes itself, or has nothing to sum,
has an attribute `axis_name`, a tuple of their names.

Differs from the official release: `dual_vector` there has no guard against a
zero gradient (NaN parameters) and computes the norm in the leaves' dtype.
"""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import arguments, balls, tree, types

AxisName = str | tuple[str, ...] | None


def none(grads: types.Grads, params: types.Params) -> types.PyTree:
  """Perturbs nothing: what `l2(0)` and `lp(0, p)` return.

  `sam_jax.value_and_grad` recognises it and runs one pass instead of two.
  """
  del params
  return jax.tree.map(jnp.zeros_like, grads)


def _over(
  axis_name: AxisName,
) -> Callable[[types.Perturbation], types.Perturbation]:
  """Says of a perturbation over which mesh axes its norms are; a decorator."""

  def declare(perturb: types.Perturbation) -> types.Perturbation:
    vars(perturb)['axis_name'] = arguments.axes(axis_name)
    return perturb

  return declare


def axes_of(perturbation: types.Perturbation) -> tuple[str, ...]:
  """Returns the mesh axes over which the norms of a perturbation are."""
  return arguments.axes(getattr(perturbation, 'axis_name', None))


def l2(rho: types.Scalar, axis_name: AxisName = None) -> types.Perturbation:
  r"""Climbs along the gradient, to a sphere of radius rho.

  .. math:: \hat\epsilon = \rho\, g / \|g\|_2

  with one norm over the whole tree (Foret et al. 2020, equation 2, p = 2).

  Args:
    rho: radius, in units of the parameters; a number or a traced scalar. The
      paper tunes it over 0.01, 0.02, 0.05, 0.1, 0.2, 0.5.
    axis_name: mesh axes of `jax.shard_map` over which parameters are split.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: rho is no number, or axis_name no name.
    ValueError: rho is a number and negative, infinite or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import l2
    >>> print(l2(0.5)({'w': jnp.array([3.0, 4.0])}, None)['w'])
    [0.3 0.4]
  """
  return _within(balls.round_ball, rho, axis_name)


def lp(
  rho: types.Scalar, p: float, axis_name: AxisName = None
) -> types.Perturbation:
  r"""Climbs to the point of an l-p ball where the linearised loss is largest.

  .. math::
    \hat\epsilon = \rho\, \mathrm{sign}(g)\, |g|^{q-1} / (\|g\|_q^q)^{1/p},
    \qquad 1/p + 1/q = 1

  (Foret et al. 2020, equation 2), so that :math:`\|\hat\epsilon\|_p = \rho`
  over the whole tree. p = inf is rho sign(g); p = 1 moves the one weight with
  the largest gradient (several that tie share rho).

  Args:
    rho: radius of the ball, a number or a traced scalar.
    p: norm of the ball, in [1, inf]; known before tracing.
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: p is below 1 or NaN, or rho is not a radius.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import lp
    >>> print(lp(0.1, jnp.inf)(jnp.array([3.0, -4.0, 0.0]), None))
    [ 0.1 -0.1  0. ]
    >>> print(lp(0.1, 1)(jnp.array([3.0, -4.0, 0.0]), None))
    [ 0.  -0.1  0. ]
  """
  if not p >= 1:
    raise ValueError(f'p is {p}; the norm of the ball needs p in [1, inf]')
  named = {1: balls.cross, 2: balls.round_ball, math.inf: balls.cube}
  between = functools.partial(balls.between, p=float(p))
  return _within(named.get(p, between), rho, axis_name)


def _within(
  ball: Callable[..., types.PyTree], rho: types.Scalar, axis_name: AxisName
) -> types.Perturbation:
  """Returns the perturbation to the point of a ball."""
  axes = arguments.axes(axis_name)
  arguments.radius(rho)
  if isinstance(rho, numbers.Real) and rho == 0:
    return none

  @_over(axes)
  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    del params
    return ball(grads, rho, axes)

  return perturb


def random(
  rho: types.Scalar, key: jax.Array, axis_name: AxisName = None
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
  onto_sphere = l2(rho, axis_name)
  if onto_sphere is none:
    return none

  @_over(axis_name)
  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    leaves, structure = jax.tree.flatten(grads)
    drawn = [
      leaf
      if tree.is_float0(leaf)
      else _normal(jax.random.fold_in(key, i), leaf)
      for i, leaf in enumerate(leaves)
    ]
    epsilon = onto_sphere(jax.tree.unflatten(structure, drawn), params)
    return balls.each(
      lambda g, e: e.astype(jnp.asarray(g).dtype), grads, epsilon
    )

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


def asam(
  rho: types.Scalar,
  eta: float = 0.01,
  p: float = 2.0,
  axis_name: AxisName = None,
) -> types.Perturbation:
  r"""Climbs within a ball that is stretched along large parameters.

  .. math::
    \hat\epsilon = T\, \mathrm{lp}(T g), \quad T = |w| + \eta, \qquad
    p = 2:\; \hat\epsilon = \rho\, T^2 g / \|T g\|_2

  elementwise, so that :math:`\|T^{-1} \hat\epsilon\|_p = \rho`. With eta = 0 a
  factor that moves from one layer to the next changes nothing.

  Args:
    rho: radius in the stretched units; a number or a traced scalar.
    eta: added to the magnitudes, >= 0: what lets a zero weight move. The
      default is that of the paper.
    p: norm of the ball, in [1, inf].
    axis_name: see `l2`.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    TypeError: see `l2`.
    ValueError: rho is not a radius, eta is negative, or p is below 1.

  Source: Kwon et al. 2021 (ASAM), equation 6 and its p = inf. Differs from
  their code: there biases and BatchNorm are perturbed as in SAM, T = 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> print(perturbations.asam(0.5, eta=0)(
    ...   jnp.array([3.0, 2.0]), jnp.array([1.0, -2.0])))
    [0.3 0.8]
  """
  if not 0 <= eta < math.inf:
    raise ValueError(f'eta is {eta}; it is added to |w|: give a number >= 0')
  ascend, offset = lp(rho, p, axis_name), float(eta)
  if ascend is none:
    return none

  def stretch(w: Any, x: jax.Array | None) -> jax.Array | None:
    if x is None or tree.is_float0(x):
      return x
    wide = tree.wide(x)
    factor = jnp.abs(tree.wide(w)) + offset
    return tree.times(factor, wide)

  @_over(axis_name)
  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    ascended = ascend(jax.tree.map(stretch, params, grads), params)
    epsilon = jax.tree.map(stretch, params, ascended)
    return balls.each(
      lambda g, e: e.astype(jnp.asarray(g).dtype), grads, epsilon
    )

  return perturb


adaptive = asam


def masked(
  perturbation: types.Perturbation, mask: types.PyTree
) -> types.Perturbation:
  """Perturbs some of the parameters, as if there were no others.

  Args:
    perturbation: of those that are chosen; norms are theirs alone.
    mask: what is chosen: a tree of bools, where a bool may stand for a whole
      branch of the parameters, or a function that makes one of the parameters.

  Returns:
    A function `(grads, params) -> epsilon`; epsilon is zero for the others.

  Raises:
    TypeError: `perturbation` is no perturbation, or, when called, the mask has
      something else than bools.
    ValueError: when called, the mask is no tree like the parameters.

  Example:
    SAM-ON (Mueller et al. 2023) perturbs normalisation layers alone:

    >>> import jax.numpy as jnp
    >>> from sam_jax import l2, masked
    >>> perturb = masked(l2(0.5), {'conv': False, 'norm': True})
    >>> grads = {'conv': jnp.ones(2), 'norm': {'scale': jnp.array([3.0, 4.0])}}
    >>> epsilon = perturb(grads, grads)
    >>> print(epsilon['conv'], epsilon['norm']['scale'])
    [0. 0.] [0.3 0.4]
  """
  arguments.perturbation(perturbation)
  if perturbation is none:
    return none

  @_over(axes_of(perturbation))
  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    chosen = _chosen(mask(params) if callable(mask) else mask, grads)

    def keep(values: types.PyTree) -> types.PyTree:
      return jax.tree.map(
        lambda is_kept, x: x if is_kept else None,
        chosen,
        values,
        is_leaf=lambda x: x is None,
      )

    kept_params = None if params is None else keep(params)
    epsilon = perturbation(keep(grads), kept_params)
    return balls.each(
      lambda g, e: jnp.zeros_like(g) if e is None else e, grads, epsilon
    )

  return perturb


def _chosen(mask: types.PyTree, grads: types.Grads) -> types.PyTree:
  """Returns a mask as a tree of bools like the gradient.

  Raises:
    TypeError: it has something else than bools.
    ValueError: it is no tree like the gradient.
  """
  for leaf in jax.tree.leaves(mask):
    if not isinstance(leaf, bool | np.bool_):
      raise TypeError(
        f'the mask holds {leaf!r}; it must be a tree of bools, known before '
        'tracing, or a function that makes one of the parameters'
      )
  try:
    return jax.tree.map(
      lambda is_kept, branch: jax.tree.map(lambda _: bool(is_kept), branch),
      mask,
      grads,
    )
  except ValueError as error:
    raise ValueError(
      'the mask is no tree like the parameters: it has the structure '
      f'{jax.tree.structure(mask)}, and they have {jax.tree.structure(grads)}'
    ) from error
