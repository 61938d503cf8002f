"""The vocabulary that the models share: layers, initialisers, checks."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from sam_jax import lookup
from sam_jax.models import batch_norm

Initializer = jax.nn.initializers.Initializer
# `(name=...) -> layer`; what differs between the passes is settled.
NormFactory = Callable[..., nn.Module]

# He et al. 2015, normal (not truncated), scaled by the outgoing connections.
he_fan_out = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': nn.relu,
  'tanh': jnp.tanh,
  'gelu': nn.gelu,
  'silu': nn.silu,
  'softplus': nn.softplus,
}

# BatchNorm over the examples of a microbatch, over those of all devices, or by
# the running statistics in training too.
BATCH_NORMS = ('batch', 'synced', 'frozen')
NORMS = (*BATCH_NORMS, 'none')


class Classifier(nn.Module, kw_only=True):
  """What the models have in common: classes, and how BatchNorm works.

  Attributes:
    num_classes: number of logits.
    norm: what BatchNorm normalises by in training: 'batch', the statistics of
      this call's examples; 'synced', those of all devices, as the official
      release does for EfficientNets from scratch; 'frozen', the running
      statistics, which then stay as they are, for fine-tuning.
    norm_axes: mapped axes over which 'synced' averages; none of them on a
      single device.
  """

  num_classes: int
  norm: str = 'batch'
  norm_axes: tuple[str, ...] | None = None

  # The values of `norm` that a model knows.
  norms: ClassVar[tuple[str, ...]] = BATCH_NORMS

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    lookup.check('norm', self.norm, self.norms)

  def batch_norm(
    self, *, train: bool, momentum: float = 0.9, epsilon: float = 1e-5
  ) -> NormFactory:
    """Returns the model's BatchNorm, as a factory that takes a name.

    Args:
      train: whether to normalise by a batch, and update 'batch_stats'.
      momentum: of the running statistics.
      epsilon: added to the variance.

    Raises:
      ValueError: norm is 'synced' and there are no axes to do so.
    """
    is_synced = train and self.norm == 'synced'
    if is_synced and self.norm_axes is None:
      raise ValueError(
        "norm='synced' needs norm_axes, the names of the mapped axes over "
        'which to average, e.g. that of jax.pmap'
      )
    return functools.partial(
      batch_norm.BatchNorm,
      use_running_average=not train or self.norm == 'frozen',
      momentum=momentum,
      epsilon=epsilon,
      axis_name=(self.norm_axes or None) if is_synced else None,
    )


def maybe_remat(block: type[nn.Module], remat: bool) -> type[nn.Module]:
  """Returns the block, or one that recomputes its inside in the backward pass.

  It then keeps its input only: less memory, about a third more arithmetic.
  """
  return nn.remat(block) if remat else block


def uniform_by_classes(
  key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
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
  size: int = 3,
  strides: int = 1,
  use_bias: bool = False,
  kernel_init: Initializer = he_fan_out,
  name: str | None = None,
) -> nn.Conv:
  """Returns a size x size convolution with 'SAME' padding."""
  return nn.Conv(
    features,
    kernel_size=(size, size),
    strides=(strides, strides),
    padding='SAME',
    use_bias=use_bias,
    kernel_init=kernel_init,
    name=name,
    conv_general_dilated=_pointwise if size == strides == 1 else None,
  )


def _pointwise(
  images: jax.Array,
  kernel: jax.Array,
  *geometry: Any,
  precision: jax.lax.PrecisionLike = None,
  **more_geometry: Any,
) -> jax.Array:
  """Convolves with a 1 x 1 kernel, as the matrix product that it is.

  XLA:CPU takes 0.71 of the time for a step of a PyramidNet so, and 0.94 for one
  of a ResNet-50.
  """
  del geometry, more_geometry  # nothing to stride over, pad or dilate
  dimensions = (((images.ndim - 1,), (0,)), ((), ()))
  return jax.lax.dot_general(
    images, kernel[0, 0], dimensions, precision=precision
  )


def classifier(num_classes: int, *, name: str | None = None) -> nn.Dense:
  """Returns the last dense layer, initialised by `uniform_by_classes`."""
  return nn.Dense(num_classes, kernel_init=uniform_by_classes, name=name)


def add_shortcut(
  residual: jax.Array, shortcut: jax.Array, *, average: bool = True
) -> jax.Array:
  """Adds a shortcut without parameters: pooling, and zero channels.

  Args:
    residual: [batch, height, width, channels], the output of some layers.
    shortcut: [batch, s * height, s * width, fewer or equal channels], their
      input. It is reduced over s x s windows, and zero channels are appended.
    average: whether to take the mean of a window, else its first pixel.

  Returns:
    The sum, of the shape of `residual`.
  """
  stride = -(-shortcut.shape[1] // residual.shape[1])
  if stride > 1 and average:
    window = (stride, stride)
    shortcut = nn.avg_pool(shortcut, window, strides=window)
  elif stride > 1:
    shortcut = shortcut[:, ::stride, ::stride]
  missing = residual.shape[-1] - shortcut.shape[-1]
  if missing > 0:
    shortcut = jnp.pad(shortcut, [(0, 0), (0, 0), (0, 0), (0, missing)])
  # Without the barrier XLA adds up the gradients of all blocks above in every
  # block once more, and compiles for a time that grows with the square of the
  # depth (jax 0.12: PyramidNet-272 in twice the time; 0.10 has it do nothing).
  return jax.lax.optimization_barrier(residual + shortcut)


def check_dropout_rate(rate: float) -> None:
  """Raises ValueError unless a dropout rate is in [0, 1)."""
  if not 0 <= rate < 1:
    raise ValueError(f'dropout_rate must be in [0, 1), got {rate}')


def check_quarters(model: str, shape: tuple[int, ...]) -> None:
  """Refuses images that two averages over 2 x 2 windows would not divide."""
  if len(shape) != 4 or shape[1] % 4 or shape[2] % 4:
    raise ValueError(
      f'{model} needs images [batch, height, width, channels] with height '
      f'and width multiples of 4, got {list(shape)}'
    )


def check_stages(model: str, stage_sizes: tuple[int, ...]) -> None:
  """Refuses a network without stages, or with an empty one."""
  if not stage_sizes or min(stage_sizes) < 1:
    raise ValueError(
      f'{model} stage_sizes must be positive numbers of blocks, got '
      f'{tuple(stage_sizes)}'
    )
