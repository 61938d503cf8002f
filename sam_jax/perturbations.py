r"""Perturbations: how far, and in which direction, SAM climbs.

A perturbation is a pure function `(grads, params) -> epsilon`. All here are
homogeneous of degree zero in the gradient: its length does not matter, only
its direction, as long as its squares are float32 numbers. Those that climb
share these guarantees:

| gradient                  | epsilon                                       |
|---------------------------|-----------------------------------------------|
| zero everywhere           | zero, never NaN (also when differentiated)    |
| NaN somewhere             | NaN at least there, so the step is seen to fail |
| bfloat16 or float16 leaf  | that dtype; norms are accumulated in float32  |
| `None` leaf               | `None`: that parameter is not perturbed       |

`rho` may be a traced value, so that a schedule costs no recompilation.

Differs from the official release: `dual_vector` there has no guard against a
zero gradient (NaN parameters) and computes the norm in the leaves' dtype.
"""

import math
import numbers

import jax
import jax.numpy as jnp

from sam_jax import tree, types


def none(grads: types.Grads, params: types.Params) -> types.PyTree:
  """Perturbs nothing: what `l2(0)` and `lp(0, p)` return.

  `sam_jax.value_and_grad` recognises it and runs one pass instead of two.
  """
  del params
  return jax.tree.map(jnp.zeros_like, grads)


def _validated(rho: types.Scalar) -> types.Scalar:
  """Returns rho; refuses a number that is no radius."""
  if isinstance(rho, numbers.Real) and not 0 <= rho < math.inf:
    raise ValueError(f'rho is {rho}; it is a radius: give a number >= 0')
  return rho


def _is_static_zero(rho: types.Scalar) -> bool:
  """Whether rho is the number zero, known before tracing."""
  return isinstance(rho, numbers.Real) and rho == 0


def _scale(grads: types.Grads, factor: jax.Array) -> types.PyTree:
  """Multiplies in the factor's precision, keeps each leaf's dtype."""
  return jax.tree.map(lambda g: (factor * g).astype(g.dtype), grads)


def l2(rho: types.Scalar) -> types.Perturbation:
  r"""Climbs along the gradient, to a sphere of radius rho.

  .. math:: \hat\epsilon = \rho\, g / \|g\|_2

  with one norm over the whole tree (Foret et al. 2020, equation 2, p = 2).

  Args:
    rho: radius, in units of the parameters; a number or a traced scalar. The
      paper tunes it over 0.01, 0.02, 0.05, 0.1, 0.2, 0.5.

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
    ValueError: rho is a number and negative, infinite or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import l2
    >>> print(l2(0.5)({'w': jnp.array([3.0, 4.0])}, None)['w'])
    [0.3 0.4]
  """
  if _is_static_zero(_validated(rho)):
    return none

  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    del params
    squared = tree.vdot(grads, grads)
    is_zero = squared == 0
    length = jnp.sqrt(jnp.where(is_zero, 1, squared))
    return _scale(grads, jnp.where(is_zero, 0, rho / length))

  return perturb


def lp(rho: types.Scalar, p: float) -> types.Perturbation:
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

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
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
  if p == 2:
    return l2(rho)
  if _is_static_zero(_validated(rho)):
    return none
  return _lp_max(rho) if p == 1 else _lp_power(rho, float(p))


def random(rho: types.Scalar, key: jax.Array) -> types.Perturbation:
  r"""Moves in a random direction, to a sphere of radius rho.

  .. math:: \epsilon = \rho\, z / \|z\|_2, \qquad z \sim N(0, I)

  What SAM's gradient direction is compared with in appendix C.5 of the paper
  (which prints the square of the norm; its figure's legend has the norm).

  Args:
    rho: radius, in units of the parameters; a number or a traced scalar.
    key: of the draw; each leaf's is the key with its number folded in.

  Returns:
    A function `(grads, params) -> epsilon` that looks at shapes and dtypes of
    the gradient alone.

  Raises:
    ValueError: rho is a number and negative, infinite or NaN.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> perturb = perturbations.random(0.5, jax.random.key(0))
    >>> print(f'{jnp.linalg.norm(perturb(jnp.ones(9), None)):.3f}')
    0.500
  """
  if _is_static_zero(_validated(rho)):
    return none

  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    leaves, structure = jax.tree.flatten(grads)
    drawn = [
      jax.random.normal(jax.random.fold_in(key, i), leaf.shape)
      for i, leaf in enumerate(leaves)
    ]
    epsilon = l2(rho)(jax.tree.unflatten(structure, drawn), params)
    return jax.tree.map(lambda e, g: e.astype(g.dtype), epsilon, grads)

  return perturb


def asam(
  rho: types.Scalar, eta: float = 0.01, p: float = 2.0
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

  Returns:
    A function `(grads, params) -> epsilon`.

  Raises:
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
  ascend = lp(rho, p)
  if ascend is none:
    return none

  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    def stretch(w: jax.Array, x: jax.Array | None) -> jax.Array | None:
      return None if x is None else ((jnp.abs(w) + eta) * x).astype(x.dtype)

    ascended = ascend(jax.tree.map(stretch, params, grads), params)
    return jax.tree.map(stretch, params, ascended)

  return perturb


def _largest(grads: types.Grads) -> jax.Array:
  """Returns the largest magnitude in the tree; NaN if there is one."""
  return jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(grads)]).max()


def _lp_max(rho: types.Scalar) -> types.Perturbation:
  """Returns the limit p = 1: all of rho where |g| is largest."""

  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    del params
    largest = _largest(grads)
    # A product with a mask would turn a NaN into 0 where XLA makes it a select.
    at_largest = jax.tree.map(
      lambda g: jnp.where(jnp.abs(g) < largest, 0, jnp.sign(g)), grads
    )
    ties = tree.vdot(at_largest, at_largest)
    return _scale(at_largest, rho / jnp.where(ties == 0, 1, ties))

  return perturb


def _lp_power(rho: types.Scalar, p: float) -> types.Perturbation:
  """Returns the perturbation for p in (1, inf]."""
  q = 1.0 if p == math.inf else p / (p - 1)

  def perturb(grads: types.Grads, params: types.Params) -> types.PyTree:
    del params
    largest = _largest(grads)
    # The formula does not depend on the gradient's scale, but |g|^q overflows
    # for p near 1, where q is large: scale to [0, 1] first.
    unit = jax.tree.map(
      lambda g: tree.wide(jnp.abs(g)) / _nonzero(largest), grads
    )
    total = sum(jnp.sum(_power(u, q)) for u in jax.tree.leaves(unit))
    factor = rho / _nonzero(jnp.asarray(total)) ** (1 / p)
    return jax.tree.map(
      lambda g, u: (factor * jnp.sign(g) * _power(u, q - 1)).astype(g.dtype),
      grads,
      unit,
    )

  return perturb


def _power(x: jax.Array, exponent: float) -> jax.Array:
  """Returns x ** exponent, and 0 where x is; differentiable there too."""
  is_zero = x == 0
  return jnp.where(is_zero, 0, jnp.where(is_zero, 1, x) ** exponent)


def _nonzero(x: jax.Array) -> jax.Array:
  """Returns x, or 1 where it is zero."""
  return jnp.where(x == 0, 1, x)
