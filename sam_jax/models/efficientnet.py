"""EfficientNet b0 to b8, L2 and L2-475 (Tan and Le 2019; Xie et al. 2020).

With the conventions of the TensorFlow originals, whose checkpoints the official
release converted: 'SAME' padding, initialisation by the outgoing connections,
depthwise kernels of shape [height, width, channels, 1], BatchNorm with momentum
0.99 and epsilon 0.001. Variables carry the official names, so that the name map
to an official checkpoint is the identity: renaming one breaks them.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from sam_jax.models import layers, registry

_BATCH_NORM = {'momentum': 0.99, 'epsilon': 1e-3}
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_CHANNELS_MULTIPLE = 8
_SQUEEZE_RATIO = 0.25

_kernel_init = jax.nn.initializers.variance_scaling(
  2.0, 'fan_out', 'truncated_normal'
)
_conv = functools.partial(layers.conv, kernel_init=_kernel_init)


class Stage(NamedTuple):
  """A row of the paper's table 1, for b0.

  Attributes:
    channels: of the output.
    kernel_size: of the depthwise convolution.
    num_blocks: of which the first has the strides.
    expansion: factor on the input's channels inside a block.
    strides: of the depthwise convolution.
  """

  channels: int
  kernel_size: int
  num_blocks: int
  expansion: int
  strides: int


STAGES = (
  Stage(16, 3, 1, 1, 1),
  Stage(24, 3, 2, 6, 2),
  Stage(40, 5, 2, 6, 2),
  Stage(80, 3, 3, 6, 2),
  Stage(112, 5, 3, 6, 1),
  Stage(192, 5, 4, 6, 2),
  Stage(320, 3, 1, 6, 1),
)


class _DepthwiseConv(nn.Module):
  """A convolution of each channel by itself, 'SAME', without bias."""

  kernel_size: int
  strides: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    size = (self.kernel_size, self.kernel_size)
    # TensorFlow's shape: it makes the outgoing connections of a channel those
    # of its own kernel only.
    kernel = self.param('depthwise_kernel', _kernel_init, (*size, channels, 1))
    return jax.lax.conv_general_dilated(
      x,
      jnp.swapaxes(kernel, 2, 3).astype(x.dtype),
      window_strides=(self.strides, self.strides),
      padding='SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=channels,
    )


class _SqueezeExcite(nn.Module):
  """Weighs channels by what two dense layers make of their means."""

  squeezed: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv = functools.partial(_conv, size=1, use_bias=True)
    y = x.mean((1, 2), keepdims=True)
    y = nn.swish(conv(self.squeezed, name='reduce_conv2d_0')(y))
    y = conv(x.shape[-1], name='expand_conv2d_1')(y)
    return x * nn.sigmoid(y)


class _Block(nn.Module):
  """MBConv: 1x1 expansion, depthwise convolution, squeeze-excite, 1x1."""

  channels: int
  kernel_size: int
  expansion: int
  strides: int
  drop_rate: float
  norm: layers.NormFactory
  train: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    # Layers of a kind are numbered from 0, the expansion's included if any.
    first = int(self.expansion > 1)
    y = x
    if self.expansion > 1:
      y = _conv(x.shape[-1] * self.expansion, size=1, name='expand_conv2d_0')(y)
      y = nn.swish(self.norm(name='batch_normalization_0')(y))
    y = _DepthwiseConv(self.kernel_size, self.strides, name='depthwise_conv2d')(
      y
    )
    y = nn.swish(self.norm(name=f'batch_normalization_{first}')(y))
    squeezed = max(1, int(x.shape[-1] * _SQUEEZE_RATIO))
    y = _SqueezeExcite(squeezed, name='SqueezeExcite_0')(y)
    y = _conv(self.channels, size=1, name=f'project_conv2d_{first}')(y)
    y = self.norm(name=f'batch_normalization_{first + 1}')(y)
    if x.shape != y.shape:
      return y
    # Stochastic depth: the whole branch of an example is dropped.
    return x + nn.Dropout(
      self.drop_rate, broadcast_dims=(1, 2, 3), deterministic=not self.train
    )(y)


class _Stem(nn.Module):
  """The first convolution."""

  channels: int
  norm: layers.NormFactory

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = _conv(self.channels, strides=2, name='conv2d')(x)
    return nn.swish(self.norm(name='batch_normalization')(x))


class _Head(nn.Module):
  """The last convolution, and the classifier."""

  channels: int
  num_classes: int
  dropout_rate: float
  norm: layers.NormFactory
  train: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = _conv(self.channels, size=1, name='conv2d')(x)
    x = nn.swish(self.norm(name='batch_normalization')(x)).mean((1, 2))
    x = nn.Dropout(self.dropout_rate, deterministic=not self.train)(x)
    return layers.classifier(self.num_classes, name='dense')(x)


class EfficientNet(layers.Classifier):
  """EfficientNet, e.g. those of the paper's table 3.

  Registered as 'efficientnet-b0' to 'efficientnet-b8', 'efficientnet-l2' and
  'efficientnet-l2-475', the official names.

  Attributes:
    num_classes: number of logits.
    width: factor on the channels of b0.
    depth: factor on the blocks of b0.
    resolution: height and width of the images that it is meant for; training
      and evaluation runs resize to it.
    dropout_rate: before the classifier.
    drop_connect_rate: probability that an example skips the last block; linear
      in depth before.
    norm: see `layers.Classifier`. Official: 'synced' from scratch, 'frozen'
      for fine-tuning.
    norm_axes: see `layers.Classifier`.
    remat: whether to recompute the blocks in the backward pass.
    stages: what b0 is made of; fewer give a smaller network.

  Source: official efficientnet/efficientnet.py. Differs from the official
  release: images of another size than the resolution are computed, not refused;
  gray images are shown as red, green and blue; freezing BatchNorm is an
  argument and not a global flag.

  Example:
    >>> from sam_jax import models
    >>> model = models.create('efficientnet-b7', num_classes=1000)
    >>> model.width, model.depth, model.resolution
    (2.0, 3.1, 600)
  """

  width: float
  depth: float
  resolution: int
  dropout_rate: float
  drop_connect_rate: float = 0.2
  remat: bool = False
  stages: tuple[Stage, ...] = STAGES

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    layers.check_dropout_rate(self.dropout_rate)
    if not 0 <= self.drop_connect_rate < 1:
      raise ValueError(
        f'drop_connect_rate must be in [0, 1), got {self.drop_connect_rate}'
      )
    if min(self.width, self.depth, self.resolution) <= 0:
      raise ValueError(
        'EfficientNet width, depth and resolution must be positive, got '
        f'{self.width}, {self.depth}, {self.resolution}'
      )

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, true_gradient: bool = False
  ) -> jax.Array:
    """Returns logits.

    Args:
      images: [batch, height, width, 1 or 3], float32, normalised.
      train: whether to normalise by this batch, update 'batch_stats' and drop
        out.
      true_gradient: unused; for models whose two passes differ.

    Returns:
      [batch, num_classes], the dtype of the images.
    """
    del true_gradient
    norm = self.batch_norm(train=train, **_BATCH_NORM)
    block = layers.maybe_remat(_Block, self.remat)
    x = jnp.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
    x = _Stem(self._scale(_STEM_CHANNELS), norm, name='Stem_0')(x)
    counts = [math.ceil(self.depth * stage.num_blocks) for stage in self.stages]
    index, num_blocks = 0, sum(counts)
    for stage, count in zip(self.stages, counts, strict=True):
      for i in range(count):
        x = block(
          self._scale(stage.channels),
          kernel_size=stage.kernel_size,
          expansion=stage.expansion,
          strides=stage.strides if i == 0 else 1,
          drop_rate=self.drop_connect_rate * index / num_blocks,
          norm=norm,
          train=train,
          name=f'MBConvBlock_{index + 1}',
        )(x)
        index += 1
    return _Head(
      self._scale(_HEAD_CHANNELS),
      self.num_classes,
      self.dropout_rate,
      norm,
      train,
      name=f'Head_{num_blocks + 1}',
    )(x)

  def _scale(self, channels: int) -> int:
    """Returns the channels of b0 times the width, to a multiple of 8."""
    target = self.width * channels
    multiple = _CHANNELS_MULTIPLE
    scaled = max(multiple, int(target + multiple / 2) // multiple * multiple)
    # Not more than a tenth below.
    return scaled if scaled >= 0.9 * target else scaled + multiple


# Width, depth, resolution and dropout rate of each.
_VARIANTS = {
  'efficientnet-b0': (1.0, 1.0, 224, 0.2),
  'efficientnet-b1': (1.0, 1.1, 240, 0.2),
  'efficientnet-b2': (1.1, 1.2, 260, 0.3),
  'efficientnet-b3': (1.2, 1.4, 300, 0.3),
  'efficientnet-b4': (1.4, 1.8, 380, 0.4),
  'efficientnet-b5': (1.6, 2.2, 456, 0.4),
  'efficientnet-b6': (1.8, 2.6, 528, 0.5),
  'efficientnet-b7': (2.0, 3.1, 600, 0.5),
  'efficientnet-b8': (2.2, 3.6, 672, 0.5),
  'efficientnet-l2': (4.3, 5.3, 800, 0.5),
  'efficientnet-l2-475': (4.3, 5.3, 475, 0.5),
}

for _name, (_width, _depth, _resolution, _dropout_rate) in _VARIANTS.items():
  registry.register(_name, width=_width, depth=_depth)(
    functools.partial(
      EfficientNet, resolution=_resolution, dropout_rate=_dropout_rate
    )
  )
registry.register('efficientnet')(EfficientNet)
