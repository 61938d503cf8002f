"""Arithmetic in less than float32, and what it leaves of a perturbation.

Parameters, norms and the sum w + epsilon are float32 always; a multiplication
may see fewer bits of them. A perturbation is small beside the parameters, so
rounding w + epsilon may change it into something else: with 36.5 M Gaussian
weights and rho = 0.05, what a network in bfloat16 sees is 2.9 times as long as
epsilon, at a cosine of 0.35.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sam_jax import lookup, tree, types

COMPUTE_DTYPES = ('float32', 'bfloat16')
# None is the device's own: TensorFloat-32 on GPUs that have it, bfloat16 on
# TPUs.
MATMUL_PRECISIONS = (None, 'bfloat16', 'tensorfloat32', 'float32')

FLOAT32_BITS = 23
_BFLOAT16_BITS = 7
_TENSORFLOAT32_BITS = 10
_EXPONENT_BITS = 8  # of all of these

# What `jax.lax.Precision` makes of the names. A GPU has nothing coarser for
# float32 than TensorFloat-32; a TPU adds up products of bfloat16 parts, of two
# parts for 'tensorfloat32'.
_MATMUL_BITS = {
  'gpu': {
    'bfloat16': _TENSORFLOAT32_BITS,
    'tensorfloat32': _TENSORFLOAT32_BITS,
    'float32': FLOAT32_BITS,
  },
  'tpu': {
    'bfloat16': _BFLOAT16_BITS,
    'tensorfloat32': 2 * _BFLOAT16_BITS + 1,
    'float32': FLOAT32_BITS,
  },
}
_DEFAULT_MATMUL = 'bfloat16'  # another name of JAX's default


def mantissa_bits(
  compute_dtype: str, matmul_precision: str | None, platform: str
) -> int:
  """Returns how many bits of a parameter's mantissa a multiplication sees.

  Args:
    compute_dtype: one of `COMPUTE_DTYPES`.
    matmul_precision: one of `MATMUL_PRECISIONS`.
    platform: 'cpu', 'gpu' or 'tpu'; a CPU rounds nothing in a float32
      multiplication. A GPU counts as one that has TensorFloat-32.

  Raises:
    ValueError: an unknown name.

  Example:
    >>> from sam_jax.training import precision
    >>> precision.mantissa_bits('float32', None, 'gpu')
    10
  """
  lookup.check('compute_dtype', compute_dtype, COMPUTE_DTYPES)
  if matmul_precision is not None:
    lookup.check('matmul_precision', matmul_precision, MATMUL_PRECISIONS[1:])
  if compute_dtype == 'bfloat16':
    return _BFLOAT16_BITS
  if platform not in _MATMUL_BITS:
    return FLOAT32_BITS
  return _MATMUL_BITS[platform][matmul_precision or _DEFAULT_MATMUL]


def apply_in(
  apply_fn: Callable[..., Any],
  compute_dtype: str,
  matmul_precision: str | None = None,
) -> Callable[..., Any]:
  """Returns a Flax module's `apply` that computes in less than float32.

  Parameters and floating-point inputs are cast on the way in, so gradients come
  out in the parameters' own dtype; BatchNorm statistics, and inputs such as
  tokens, stay as they are.

  Args:
    apply_fn: `(variables, inputs, **kwargs)`.
    compute_dtype: of activations, one of `COMPUTE_DTYPES`.
    matmul_precision: of float32 multiplications, one of `MATMUL_PRECISIONS`.

  Raises:
    ValueError: an unknown name.
  """
  mantissa_bits(compute_dtype, matmul_precision, 'cpu')  # checks the names
  dtype = jnp.dtype(compute_dtype)

  def cast(x: jax.Array) -> jax.Array:
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

  def apply(
    variables: Mapping[str, types.PyTree], inputs: types.PyTree, **kwargs: Any
  ) -> Any:
    params = jax.tree.map(cast, variables['params'])
    # Also where it is None: what JAX is set to is not the run's.
    with jax.default_matmul_precision(matmul_precision):
      return apply_fn(
        {**variables, 'params': params}, jax.tree.map(cast, inputs), **kwargs
      )

  return apply


def effective_perturbation(
  params: types.Params, epsilon: types.PyTree, bits: int
) -> dict[str, jax.Array]:
  """Returns how much of a perturbation is left after rounding.

  Args:
    params: float32 parameters.
    epsilon: their perturbation.
    bits: of the mantissa that are left, see `mantissa_bits`.

  Returns:
    Scalars: effective_perturbation_ratio, the length of round(w + epsilon) -
    round(w) in units of epsilon's; effective_perturbation_cosine between the
    two. Both are 1 without rounding, or if epsilon is zero.
  """

  def seen(w: jax.Array, e: jax.Array) -> jax.Array:
    return _round(w + e, bits) - _round(w, bits)

  effective = jax.tree.map(seen, params, epsilon)
  norm = tree.norm(epsilon)
  is_zero = norm == 0
  ratio = tree.norm(effective) / jnp.where(is_zero, 1, norm)
  cosine = tree.cosine(effective, epsilon)
  return {
    'effective_perturbation_ratio': jnp.where(is_zero, 1, ratio),
    'effective_perturbation_cosine': jnp.where(is_zero, 1, cosine),
  }


def _round(x: jax.Array, bits: int) -> jax.Array:
  """Rounds to so many bits of mantissa."""
  return jax.lax.reduce_precision(x, _EXPONENT_BITS, bits)
