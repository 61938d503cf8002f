"""Pre-activation ResNets of plain blocks for CIFAR (He et al. 2016b).

'PreactResnet18' is what half of the literature on SAM's variants reports on;
'PreactResnet32_wide' is the "ResNet-32" of the literature on label noise.
"""

from collections.abc import Callable

import jax
from flax import linen as nn

from sam_jax import lookup
from sam_jax.models import layers, registry

# What leads around a block that changes the shape: a 1x1 convolution of what
# the block's first activation gives, or average pooling and zero channels.
_SHORTCUTS = ('projection', 'zero_pad')


class _Block(nn.Module):
  """Two pre-activation convolutions and a shortcut around them."""

  channels: int
  strides: int
  shortcut: str
  activate_before_shortcut: bool
  activation: Callable[[jax.Array], jax.Array]
  norm: layers.NormFactory

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = self.activation(self.norm(name='bn1')(x))
    if self.activate_before_shortcut:
      x = y
    if self.shortcut == 'projection' and self._changes_shape(x):
      x = layers.conv(
        self.channels, size=1, strides=self.strides, name='projection'
      )(y)
    y = layers.conv(self.channels, strides=self.strides, name='conv1')(y)
    y = self.activation(self.norm(name='bn2')(y))
    y = layers.conv(self.channels, name='conv2')(y)
    return layers.add_shortcut(y, x)

  def _changes_shape(self, x: jax.Array) -> bool:
    """Whether the output's shape is not the input's."""
    return self.strides > 1 or x.shape[-1] != self.channels


@registry.register('preact_resnet')
@registry.register(
  'PreactResnet18',
  stage_sizes=(2, 2, 2, 2),
  stage_channels=(64, 128, 256, 512),
)
@registry.register(
  'PreactResnet32_wide',
  stage_sizes=(5, 5, 5),
  stage_channels=(128, 256, 512),
  shortcut='zero_pad',
  activate_first=True,
  negative_slope=0.1,
  epsilon=1e-3,
)
class PreactResNet(layers.Classifier):
  """Pre-activation ResNet of plain blocks, for images of 32 pixels.

  Registered as 'preact_resnet'; as 'PreactResnet18'; and as
  'PreactResnet32_wide', after the public code of MentorMix (Jiang et al. 2020),
  which the paper's label-noise experiment (table 4) follows: it is likely, not
  certain, that its "ResNet-32" is this network of 29.4 M parameters and not the
  thin one ('CifarResnet32').

  Attributes:
    num_classes: number of logits.
    stage_sizes: number of blocks in each stage; each but the first halves the
      size of its images.
    stage_channels: channels of each stage.
    stem_channels: channels of the first convolution.
    shortcut: around a block that changes the shape: 'projection', a 1x1
      convolution of the block's first activation; 'zero_pad', average pooling
      and zero channels.
    activate_first: whether the first block's shortcut starts behind its
      activation (as in WideResNet's first group), for 'zero_pad'.
    negative_slope: of the ReLU.
    epsilon: of BatchNorm.
    norm: see `layers.Classifier`.
    norm_axes: see `layers.Classifier`.
    remat: whether to recompute the blocks in the backward pass.

  Example:
    >>> from sam_jax import models
    >>> models.create('PreactResnet18', num_classes=10).stage_sizes
    (2, 2, 2, 2)
  """

  stage_sizes: tuple[int, ...]
  stage_channels: tuple[int, ...]
  stem_channels: int = 64
  shortcut: str = 'projection'
  activate_first: bool = False
  negative_slope: float = 0.0
  epsilon: float = 1e-5
  remat: bool = False

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    layers.check_stages('PreactResNet', self.stage_sizes)
    lookup.check('shortcut', self.shortcut, _SHORTCUTS)
    if len(self.stage_channels) != len(self.stage_sizes):
      raise ValueError(
        f'PreactResNet has {len(self.stage_sizes)} stages and '
        f'{len(self.stage_channels)} stage_channels; give one for each'
      )

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, true_gradient: bool = False
  ) -> jax.Array:
    """Returns logits.

    Args:
      images: [batch, height, width, channels], float32, normalised; with
        'zero_pad', height and width are divisible by 2 for each halving.
      train: whether to normalise by this batch and update 'batch_stats'.
      true_gradient: unused; for models whose two passes differ.

    Returns:
      [batch, num_classes], the dtype of the images.

    Raises:
      ValueError: if height or width do not fit 'zero_pad'.
    """
    del true_gradient
    self._check_size(images.shape)
    norm = self.batch_norm(train=train, epsilon=self.epsilon)
    block = layers.maybe_remat(_Block, self.remat)
    x = layers.conv(self.stem_channels, name='conv_init')(images)
    for stage, channels in enumerate(self.stage_channels):
      for i in range(self.stage_sizes[stage]):
        x = block(
          channels,
          strides=2 if stage > 0 and i == 0 else 1,
          shortcut=self.shortcut,
          activate_before_shortcut=self.activate_first and stage == i == 0,
          activation=self._activation,
          norm=norm,
          name=f'stage{stage}_block{i}',
        )(x)
    x = self._activation(norm(name='bn_final')(x))
    return layers.classifier(self.num_classes, name='classifier')(
      x.mean((1, 2))
    )

  def _check_size(self, shape: tuple[int, ...]) -> None:
    """Refuses images whose averaged shortcuts would not fit their branches."""
    factor = 2 ** (len(self.stage_sizes) - 1)
    if self.shortcut == 'zero_pad' and (shape[1] % factor or shape[2] % factor):
      raise ValueError(
        f"PreactResNet with shortcut='zero_pad' needs height and width to be "
        f'multiples of {factor}, got {shape[1]}x{shape[2]}'
      )

  def _activation(self, x: jax.Array) -> jax.Array:
    """ReLU, leaky if asked for."""
    return nn.leaky_relu(x, self.negative_slope)
