"""The vocabulary that the models share: layers, initialisers, checks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

Initializer = jax.nn.initializers.Initializer

# He et al. 2015, normal (not truncated), scaled by the outgoing connections.
he_fan_out = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': nn.relu,
  'tanh': jnp.tanh,
  'gelu': nn.gelu,
  'silu': nn.silu,
  'softplus': nn.softplus,
}

NORMS = ('batch', 'none')


def uniform_by_classes(
  key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
  """Draws a classifier's kernel from U(-1/sqrt(C), 1/sqrt(C)).

  C is the number of classes, `shape[-1]`; most libraries scale by the number
  of inputs. Source: the official release's models, after AutoAugment's, whose
  hyperparameters were tuned for it.
  """
  bound = shape[-1] ** -0.5
  return jax.random.uniform(key, shape, dtype, -bound, bound)


def conv(
  features: int,
  *,
  strides: int = 1,
  use_bias: bool = False,
  kernel_init: Initializer = he_fan_out,
  name: str | None = None,
) -> nn.Conv:
  """Returns a 3x3 convolution with 'SAME' padding."""
  return nn.Conv(
    features,
    kernel_size=(3, 3),
    strides=(strides, strides),
    padding='SAME',
    use_bias=use_bias,
    kernel_init=kernel_init,
    name=name,
  )


def batch_norm(*, train: bool, name: str | None = None) -> nn.BatchNorm:
  """Returns BatchNorm over the examples of this call, never over devices."""
  return nn.BatchNorm(
    use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name
  )


def classifier(num_classes: int, *, name: str | None = None) -> nn.Dense:
  """Returns the last dense layer, initialised by `uniform_by_classes`."""
  return nn.Dense(num_classes, kernel_init=uniform_by_classes, name=name)


def add_shortcut(residual: jax.Array, shortcut: jax.Array) -> jax.Array:
  """Adds a shortcut without parameters: average pooling, zero channels.

  Args:
    residual: [batch, height, width, channels], the output of some layers.
    shortcut: [batch, s * height, s * width, fewer or equal channels], their
      input. It is averaged over s x s windows, and zero channels are appended.

  Returns:
    The sum, of the shape of `residual`.
  """
  stride = shortcut.shape[1] // residual.shape[1]
  if stride > 1:
    window = (stride, stride)
    shortcut = nn.avg_pool(shortcut, window, strides=window)
  missing = residual.shape[-1] - shortcut.shape[-1]
  if missing > 0:
    shortcut = jnp.pad(shortcut, [(0, 0), (0, 0), (0, 0), (0, missing)])
  return residual + shortcut


def check_dropout_rate(rate: float) -> None:
  """Raises ValueError unless a dropout rate is in [0, 1)."""
  if not 0 <= rate < 1:
    raise ValueError(f'dropout_rate must be in [0, 1), got {rate}')
