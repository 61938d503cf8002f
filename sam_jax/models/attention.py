"""Attention by the device's fused kernel, and rotary positions."""

from typing import Literal

import jax
import jax.numpy as jnp

KERNELS = ('auto', 'xla', 'cudnn')

_ROTARY_BASE = 10_000.0
# What cuDNN's kernel takes: dtypes, units of a head, compute capability.
_FUSED_DTYPES = ('bfloat16', 'float16')
_FUSED_MULTIPLE = 8
_FUSED_LARGEST = 128
_FUSED_CAPABILITY = 8.0


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  *,
  is_causal: bool,
  kernel: str = 'auto',
) -> jax.Array:
  """Returns what each token gathers from the others.

  Args:
    query: [rows, length, heads, units of a head].
    key: of the same shape.
    value: of the same shape.
    is_causal: whether a token sees only itself and those before it.
    kernel: 'xla'; 'cudnn', the fused kernel for bfloat16 on NVIDIA GPUs, an
      error elsewhere; or 'auto', the fused kernel where there is one. It has
      no second derivative: methods that differentiate twice need 'xla' where
      they compute in bfloat16.

  Returns:
    An array of the same shape.
  """
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    is_causal=is_causal,
    implementation=_implementation(kernel, query),
  )


def rotate(x: jax.Array) -> jax.Array:
  """Rotates pairs of a head's units by angles that grow with the position.

  The angle of pair i of n is position / 10000^(i / n), and unit i is paired
  with unit i + n.

  Args:
    x: queries or keys, [rows, length, heads, 2 n].

  Source: Su et al. 2021 (RoFormer), with the pairs of GPT-NeoX.
  """
  half = x.shape[-1] // 2
  frequencies = _ROTARY_BASE ** (-jnp.arange(half) / half)
  angles = jnp.outer(jnp.arange(x.shape[1]), frequencies)[None, :, None]
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  # In float32: bfloat16 has no digits for the position in a long window.
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def _implementation(kernel: str, query: jax.Array) -> Literal['xla', 'cudnn']:
  """Returns which implementation JAX is asked for.

  Unless it is asked, JAX 0.12 takes the fused kernel nowhere; and where there
  is none for such arrays, it raises an error.
  """
  units = query.shape[-1]
  is_fused = kernel == 'cudnn' or (
    kernel == 'auto'
    and query.dtype.name in _FUSED_DTYPES
    and units <= _FUSED_LARGEST
    and units % _FUSED_MULTIPLE == 0
    and _has_fused_kernel(jax.local_devices()[0])
  )
  return 'cudnn' if is_fused else 'xla'


def _has_fused_kernel(device: jax.Device) -> bool:
  """Returns whether a device is an NVIDIA GPU like the A100, or newer."""
  return device.device_kind.startswith('NVIDIA') and (
    float(device.compute_capability) >= _FUSED_CAPABILITY
  )
