"""The attention of a transformer, by the fastest kernel that there is."""

from typing import Literal, cast

import jax

KERNELS = ('auto', 'xla', 'cudnn')

# What cuDNN's kernel takes: its dtypes, the units of a head, and the device.
_FUSED_DTYPES = ('bfloat16', 'float16')
_FUSED_MULTIPLE = 8
_FUSED_LARGEST = 128
_FUSED_CAPABILITY = 8.0


def attend(
  attention: str, query: jax.Array, key: jax.Array, value: jax.Array
) -> jax.Array:
  """Returns what each token sees of all tokens.

  Args:
    attention: see `implementation`.
    query: [rows, length, heads, units of a head].
    key: of the same shape.
    value: of the same shape.

  Returns:
    An array of the same shape.
  """
  return jax.nn.dot_product_attention(
    query, key, value, implementation=implementation(attention, query)
  )


def implementation(attention: str, query: jax.Array) -> Literal['xla', 'cudnn']:
  """Returns which kernel of `jax.nn.dot_product_attention` computes.

  By itself JAX takes the fused kernel nowhere (0.12), and one that is asked for
  where it does not exist is an error.

  Args:
    attention: one of `KERNELS`; 'auto' is the fused kernel wherever there is
      one.
    query: [rows, length, heads, units of a head].
  """
  if attention != 'auto':
    return cast(Literal['xla', 'cudnn'], attention)
  units = query.shape[-1]
  is_fused = (
    query.dtype.name in _FUSED_DTYPES
    and units <= _FUSED_LARGEST
    and units % _FUSED_MULTIPLE == 0
    and _has_fused_kernel(jax.local_devices()[0])
  )
  return 'cudnn' if is_fused else 'xla'


def _has_fused_kernel(device: jax.Device) -> bool:
  """Whether a device is an NVIDIA GPU as new as the A100."""
  return (
    device.device_kind.startswith('NVIDIA')
    and float(device.compute_capability) >= _FUSED_CAPABILITY
  )
