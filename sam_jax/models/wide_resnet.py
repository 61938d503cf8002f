"""WideResNet (Zagoruyko and Komodakis 2016), as the official release has it.

Pre-activation blocks of two 3x3 convolutions, in three groups of 16, 32 and
64 times `width` channels. Shortcuts have no parameters: average pooling and
zero channels. Variables carry the official names, such as
'WideResnetGroup_0/WideResnetBlock_0/conv1/kernel', so that the name map to an
official checkpoint is the identity: renaming one breaks them.
"""

from typing import ClassVar

import jax
from flax import linen as nn

from sam_jax.models import layers, registry

_GROUP_CHANNELS = (16, 32, 64)


class _Block(nn.Module):
  """Two pre-activation convolutions and a shortcut around them."""

  channels: int
  strides: int
  activate_before_shortcut: bool
  norm: layers.NormFactory | None
  branch_scale: float
  dropout_rate: float
  train: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    use_bias = self.norm is None
    y = _activation(x, self.norm, 'init_bn')
    shortcut = y if self.activate_before_shortcut else x
    y = layers.conv(
      self.channels, strides=self.strides, use_bias=use_bias, name='conv1'
    )(y)
    y = _activation(y, self.norm, 'bn_2')
    y = nn.Dropout(self.dropout_rate, deterministic=not self.train)(y)
    y = layers.conv(self.channels, use_bias=use_bias, name='conv2')(y)
    return layers.add_shortcut(self.branch_scale * y, shortcut)


class _Group(nn.Module):
  """Blocks of the same width, the first of which may reduce the size."""

  num_blocks: int
  channels: int
  strides: int
  activate_before_shortcut: bool
  use_additional_skip_connection: bool
  norm: layers.NormFactory | None
  branch_scale: float
  dropout_rate: float
  train: bool
  remat: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    first = x
    block = layers.maybe_remat(_Block, self.remat)
    for i in range(self.num_blocks):
      x = block(
        self.channels,
        strides=self.strides if i == 0 else 1,
        activate_before_shortcut=self.activate_before_shortcut and i == 0,
        norm=self.norm,
        branch_scale=self.branch_scale,
        dropout_rate=self.dropout_rate,
        train=self.train,
        name=f'WideResnetBlock_{i}',
      )(x)
    if self.use_additional_skip_connection:
      x = layers.add_shortcut(x, first)
    return x


@registry.register('wide_resnet')
@registry.register('WideResnet{depth}x{width}')
@registry.register('WideResnet_mini', depth=16, width=1)
class WideResnet(layers.Classifier):
  """WideResNet for images whose height and width are multiples of 4.

  Registered as 'wide_resnet', with depth and width as arguments; under the
  official names, 'WideResnet28x10' and any other depth and width; and as
  'WideResnet_mini', which is 16x1.

  Without BatchNorm (norm='none', for the Hessian experiment of the paper's
  figure 3, whose network is not specified further) every convolution gets a
  bias, zero at first, in place of BatchNorm's, and the residual branch of
  each of the L blocks is multiplied by 1/sqrt(L) (Hayou et al. 2021, "Stable
  ResNet"). He initialisation alone doubles the variance from block to block;
  so scaled, neither activations nor the effect of a gradient step grow with
  depth.

  Attributes:
    num_classes: number of logits.
    depth: number of layers, 6n + 4 for n blocks per group.
    width: multiplier of the channels.
    use_additional_skip_connections: adds shortcuts around each group and
      around all of them, from the images on, as AutoAugment's model has
      (official flag of the same name; off in the paper).
    norm: see `layers.Classifier`; and 'none'.
    norm_axes: see `layers.Classifier`.
    remat: whether to recompute the blocks in the backward pass.
    dropout_rate: between the two convolutions of each block; 0 in the paper.

  Source: official models/wide_resnet.py. Differs from the official release:
  the option is an argument and not a global flag; sizes that lead to
  fractional shortcuts are refused; norm and dropout_rate are new.

  Example:
    >>> import jax
    >>> from sam_jax import models
    >>> model = models.create('WideResnet28x10', num_classes=10)
    >>> images = jax.ShapeDtypeStruct((8, 32, 32, 3), 'float32')
    >>> init = lambda key, images: model.init(key, images, train=False)
    >>> variables = jax.eval_shape(init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    36220634
  """

  depth: int
  width: int
  use_additional_skip_connections: bool = False
  dropout_rate: float = 0.0
  remat: bool = False

  norms: ClassVar[tuple[str, ...]] = layers.NORMS

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    if self.depth < 10 or self.depth % 6 != 4:
      raise ValueError(
        'WideResNet depth must be 6n + 4 with n >= 1 (10, 16, 22, 28, ...), '
        f'got {self.depth}'
      )
    if self.width < 1:
      raise ValueError(f'WideResNet width must be positive, got {self.width}')
    layers.check_dropout_rate(self.dropout_rate)

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, true_gradient: bool = False
  ) -> jax.Array:
    """Returns logits.

    Args:
      images: [batch, height, width, channels], float32, normalised; height
        and width are multiples of 4.
      train: whether to normalise by this batch, update 'batch_stats' and drop
        out.
      true_gradient: unused; for models whose two passes differ.

    Returns:
      [batch, num_classes], the dtype of the images.

    Raises:
      ValueError: if height or width is no multiple of 4.
    """
    del true_gradient
    layers.check_quarters('WideResnet', images.shape)
    norm = None if self.norm == 'none' else self.batch_norm(train=train)
    x = layers.conv(16, use_bias=norm is None, name='init_conv')(images)
    for index in range(len(_GROUP_CHANNELS)):
      x = self._group(index, norm, train)(x)
    if self.use_additional_skip_connections:
      x = layers.add_shortcut(x, images)
    x = _activation(x, norm, 'pre-pool-bn')
    # flax.nn counted this layer among its siblings, the three groups.
    return layers.classifier(self.num_classes, name='Dense_3')(x.mean((1, 2)))

  def _group(
    self, index: int, norm: layers.NormFactory | None, train: bool
  ) -> _Group:
    """Returns one of the three groups; only the first keeps the size."""
    num_blocks = (self.depth - 4) // 6
    num_branches = num_blocks * len(_GROUP_CHANNELS)
    return _Group(
      num_blocks,
      channels=_GROUP_CHANNELS[index] * self.width,
      strides=1 if index == 0 else 2,
      activate_before_shortcut=index == 0,
      use_additional_skip_connection=self.use_additional_skip_connections,
      norm=norm,
      branch_scale=num_branches**-0.5 if norm is None else 1.0,
      dropout_rate=self.dropout_rate,
      train=train,
      remat=self.remat,
      name=f'WideResnetGroup_{index}',
    )


def _activation(
  x: jax.Array, norm: layers.NormFactory | None, name: str
) -> jax.Array:
  """BatchNorm, if there is any, then ReLU."""
  return nn.relu(x if norm is None else norm(name=name)(x))
