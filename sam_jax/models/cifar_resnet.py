"""The thin ResNets for CIFAR: ResNet-20, -32, -56 (He et al. 2016, 4.2).

Blocks of two 3x3 convolutions, activation after the addition, in three stages
of 16, 32 and 64 channels. Shortcuts have no parameters: every other pixel and
zero channels (option A).
"""

import jax
from flax import linen as nn

from sam_jax.models import layers, registry

_STAGE_CHANNELS = (16, 32, 64)


class _Block(nn.Module):
  """Two convolutions and a shortcut around them."""

  channels: int
  strides: int
  norm: layers.NormFactory

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = layers.conv(self.channels, strides=self.strides, name='conv1')(x)
    y = nn.relu(self.norm(name='bn1')(y))
    y = layers.conv(self.channels, name='conv2')(y)
    y = self.norm(name='bn2')(y)
    return nn.relu(layers.add_shortcut(y, x, average=False))


@registry.register('cifar_resnet')
@registry.register('CifarResnet{depth}')
class CifarResNet(layers.Classifier):
  """Thin ResNet for images of 32 pixels, e.g. 'CifarResnet20'.

  Registered as 'cifar_resnet', with the depth as an argument, and as
  'CifarResnet20', 'CifarResnet32', 'CifarResnet56' and any other depth. ASAM
  and others report on them (ResNet-20, -32, -56); whether the "ResNet-32" of
  the paper's table 4 is this one is doubtful, see 'PreactResnet32_wide'.

  Attributes:
    num_classes: number of logits.
    depth: number of layers, 6n + 2 for n blocks per stage.
    norm: see `layers.Classifier`.
    norm_axes: see `layers.Classifier`.
    remat: whether to recompute the blocks in the backward pass.

  Example:
    >>> from sam_jax import models
    >>> models.create('CifarResnet56', num_classes=10).depth
    56
  """

  depth: int
  remat: bool = False

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    if self.depth < 8 or self.depth % 6 != 2:
      raise ValueError(
        'CIFAR ResNet depth must be 6n + 2 with n >= 1 (8, 14, 20, ... 32, '
        f'... 56), got {self.depth}'
      )

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
    block = layers.maybe_remat(_Block, self.remat)
    x = layers.conv(_STAGE_CHANNELS[0], name='conv_init')(images)
    x = nn.relu(norm(name='bn_init')(x))
    for stage, channels in enumerate(_STAGE_CHANNELS):
      for i in range((self.depth - 2) // 6):
        x = block(
          channels,
          strides=2 if stage > 0 and i == 0 else 1,
          norm=norm,
          name=f'stage{stage}_block{i}',
        )(x)
    return layers.classifier(self.num_classes, name='classifier')(
      x.mean((1, 2))
    )
