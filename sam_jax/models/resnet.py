"""ResNet-50, -101 and -152 for ImageNet (He et al. 2016), version 1.

Bottleneck blocks with the stride in the 3x3 convolution, and zeros as the first
scale of each block's last BatchNorm (Goyal et al. 2017). Variables carry the
official names, so that the name map to an official checkpoint is the identity:
renaming one breaks them.
"""

import functools

import jax
from flax import linen as nn

from sam_jax.models import layers, registry

_EXPANSION = 4
# What flax.nn's convolutions and dense layers had as their default.
_kernel_init = jax.nn.initializers.lecun_normal()
_conv = functools.partial(layers.conv, kernel_init=_kernel_init)


class _Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions and a shortcut around them."""

  channels: int
  strides: int
  norm: layers.NormFactory

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    # flax.nn counted the layers without a name all in one.
    y = _conv(self.channels, size=1, name='Conv_0')(x)
    y = nn.relu(self.norm(name='BatchNorm_1')(y))
    y = _conv(self.channels, strides=self.strides, name='Conv_2')(y)
    y = nn.relu(self.norm(name='BatchNorm_3')(y))
    y = _conv(self.channels * _EXPANSION, size=1, name='Conv_4')(y)
    y = self.norm(name='BatchNorm_5', scale_init=nn.initializers.zeros)(y)
    if x.shape != y.shape:
      x = _conv(y.shape[-1], size=1, strides=self.strides, name='conv_proj')(x)
      x = self.norm(name='norm_proj')(x)
    return nn.relu(x + y)


@registry.register('resnet')
@registry.register('Resnet50', stage_sizes=(3, 4, 6, 3))
@registry.register('Resnet101', stage_sizes=(3, 4, 23, 3))
@registry.register('Resnet152', stage_sizes=(3, 8, 36, 3))
class ResNet(layers.Classifier):
  """ResNet of bottlenecks, e.g. those of the paper's table 2.

  Registered as 'resnet', and under the official names 'Resnet50', 'Resnet101'
  and 'Resnet152'.

  Attributes:
    num_classes: number of logits.
    stage_sizes: number of blocks in each stage; each but the first halves the
      size of its images.
    width: channels of the stem and of the first stage's bottlenecks, doubled
      from stage to stage.
    norm: see `layers.Classifier`.
    norm_axes: see `layers.Classifier`.
    remat: whether to recompute the blocks in the backward pass.

  Source: official imagenet_models/resnet.py. As there, and unlike in most other
  implementations, no ReLU follows the stem's BatchNorm: the results of the
  paper's table 2 rest on it.

  Example:
    >>> from sam_jax import models
    >>> models.create('Resnet50', num_classes=1000).stage_sizes
    (3, 4, 6, 3)
  """

  stage_sizes: tuple[int, ...]
  width: int = 64
  remat: bool = False

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    layers.check_stages('ResNet', self.stage_sizes)
    if self.width < 1:
      raise ValueError(f'ResNet width must be positive, got {self.width}')

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, true_gradient: bool = False
  ) -> jax.Array:
    """Returns logits.

    Args:
      images: [batch, height, width, channels], float32, normalised.
      train: whether to normalise by this batch and update 'batch_stats'.
      true_gradient: unused; for models whose two passes differ.

    Returns:
      [batch, num_classes], the dtype of the images.
    """
    del true_gradient
    norm = self.batch_norm(train=train)
    block = layers.maybe_remat(_Bottleneck, self.remat)
    x = nn.Conv(
      self.width,
      (7, 7),
      strides=(2, 2),
      # Not 'SAME', which would pad more below and to the right.
      padding=((3, 3), (3, 3)),
      use_bias=False,
      kernel_init=_kernel_init,
      name='conv_init',
    )(images)
    # No ReLU here, as in the official release.
    x = norm(name='bn_init')(x)
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding='SAME')
    num_blocks = 0
    for stage, size in enumerate(self.stage_sizes):
      for i in range(size):
        x = block(
          self.width * 2**stage,
          strides=2 if stage > 0 and i == 0 else 1,
          norm=norm,
          name=f'BottleneckResNetBlock_{num_blocks}',
        )(x)
        num_blocks += 1
    # flax.nn counted this layer among its siblings, the blocks.
    return nn.Dense(
      self.num_classes, kernel_init=_kernel_init, name=f'Dense_{num_blocks}'
    )(x.mean((1, 2)))
