"""Shake-Shake networks (Gastaldi 2017), as the official release has them.

Residual blocks of two branches, ReLU-Conv-BN-ReLU-Conv-BN each, whose sum is
weighted at random, in three groups of 16, 32 and 64 times `width` channels.
Variables carry the official names, so that the name map to an official
checkpoint is the identity: renaming one breaks them.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from sam_jax.models import layers, registry, shake

_GROUP_CHANNELS = (16, 32, 64)


class _Shortcut(nn.Module):
  """Two 1x1 convolutions of every other pixel, the second's one pixel off.

  Gastaldi 2017, section 2.1.1: no pixel is left out that the first misses on
  the diagonal.
  """

  channels: int
  strides: int
  norm: layers.NormFactory

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shifted = jnp.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])[:, 1:, 1:]
    halves = [
      layers.conv(self.channels // 2, size=1, name=name)(
        y[:, :: self.strides, :: self.strides]
      )
      for name, y in (('conv_h1', x), ('conv_h2', shifted))
    ]
    return self.norm(name='bn_residual')(jnp.concatenate(halves, axis=-1))


class _Block(nn.Module):
  """Two branches, mixed at random, and a shortcut around them."""

  channels: int
  strides: int
  norm: layers.NormFactory

  @nn.compact
  def __call__(
    self, x: jax.Array, weights: shake.Coefficients | None
  ) -> jax.Array:
    y = shake.shake_shake(self._branch(x, 'a'), self._branch(x, 'b'), weights)
    if x.shape[-1] != self.channels:
      x = _Shortcut(self.channels, self.strides, self.norm, name='Shortcut_0')(
        x
      )
    return x + y

  def _branch(self, x: jax.Array, letter: str) -> jax.Array:
    """One of the two branches."""
    x = layers.conv(
      self.channels, strides=self.strides, name=f'conv_{letter}_1'
    )(nn.relu(x))
    x = nn.relu(self.norm(name=f'bn_{letter}_1')(x))
    x = layers.conv(self.channels, name=f'conv_{letter}_2')(x)
    return self.norm(name=f'bn_{letter}_2')(x)


class _Group(nn.Module):
  """Blocks of the same width, the first of which may reduce the size."""

  channels: int
  strides: int
  norm: layers.NormFactory
  remat: bool

  @nn.compact
  def __call__(
    self, x: jax.Array, weights: list[shake.Coefficients | None]
  ) -> jax.Array:
    block = layers.maybe_remat(_Block, self.remat)
    for i, block_weights in enumerate(weights):
      x = block(
        self.channels,
        strides=self.strides if i == 0 else 1,
        norm=self.norm,
        name=f'ShakeShakeBlock_{i}',
      )(x, block_weights)
    return x


@registry.register('shake_shake')
@registry.register('ShakeShake{depth}_2x{width}d')
@registry.register('WideResnet28x6_ShakeShake', depth=26, width=96)
@registry.register('WideResnet_ShakeShake_mini', depth=14, width=16)
class ShakeShake(layers.Classifier):
  """Shake-Shake network, e.g. 26 2x96d of the paper's tables 1 and 5.

  Registered as 'shake_shake', with depth and width as arguments; under the
  literature's names, 'ShakeShake26_2x96d' and any other; and under the official
  ones, 'WideResnet28x6_ShakeShake', which is 26 2x96d all the same, and
  'WideResnet_ShakeShake_mini', which is 14 2x16d.

  Attributes:
    num_classes: number of logits.
    depth: number of layers, 6n + 2 for n blocks per group.
    width: channels of the first group's branches; an even number.
    norm: see `layers.Classifier`.
    norm_axes: see `layers.Classifier`.
    remat: whether to recompute the blocks in the backward pass.

  Source: official models/wide_resnet_shakeshake.py. Differs from the official
  release: the last pooling is over the whole image, whatever its size.

  Example:
    >>> from sam_jax import models
    >>> model = models.create('ShakeShake26_2x96d', num_classes=10)
    >>> model.depth, model.width
    (26, 96)
  """

  depth: int
  width: int
  remat: bool = False

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    if self.depth < 8 or self.depth % 6 != 2:
      raise ValueError(
        'Shake-Shake depth must be 6n + 2 with n >= 1 (8, 14, 20, 26, ...), '
        f'got {self.depth}'
      )
    if self.width < 2 or self.width % 2:
      raise ValueError(
        f'Shake-Shake width must be even and positive, got {self.width}'
      )

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, true_gradient: bool = False
  ) -> jax.Array:
    """Returns logits.

    Args:
      images: [batch, height, width, channels], float32, normalised.
      train: whether to normalise by this batch, update 'batch_stats' and draw
        the weights of the branches.
      true_gradient: whether the backward pass has the forward weights, as
        SAM's ascent pass wants it.

    Returns:
      [batch, num_classes], the dtype of the images.
    """
    norm = self.batch_norm(train=train)
    per_group = (self.depth - 2) // 6
    weights = self._weights(len(images), train, true_gradient)
    x = layers.conv(16, name='init_conv')(images)
    x = norm(name='init_bn')(x)
    for i, channels in enumerate(_GROUP_CHANNELS):
      x = _Group(
        channels=channels * self.width // _GROUP_CHANNELS[0],
        strides=1 if i == 0 else 2,
        norm=norm,
        remat=self.remat,
        name=f'WideResnetShakeShakeGroup_{i}',
      )(x, weights[i * per_group : (i + 1) * per_group])
    x = nn.relu(x).mean((1, 2))
    # flax.nn counted this layer among its siblings, the three groups.
    return layers.classifier(self.num_classes, name='Dense_3')(x)

  def _weights(
    self, batch_size: int, train: bool, true_gradient: bool
  ) -> list[shake.Coefficients | None]:
    """Returns what each block mixes its branches with."""
    num_blocks = (self.depth - 2) // 2
    if not train:
      return [None] * num_blocks
    weights = shake.shake_shake_coefficients(
      self.make_rng('dropout'),
      num_blocks,
      batch_size,
      true_gradient=true_gradient,
    )
    return [weights.of_block(i) for i in range(num_blocks)]
