"""PyramidNet (Han et al. 2017), with or without ShakeDrop (Yamada et al. 2018).

Pre-activation bottleneck blocks whose width grows by the same amount from each
to the next. Variables carry the official names, so that the name map to an
official checkpoint is the identity: renaming one breaks them.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from sam_jax.models import layers, registry, shake

_STEM_CHANNELS = 16
_EXPANSION = 4
# Probability that ShakeDrop drops the last block; linear in depth before.
_LAST_DROP_PROBABILITY = 0.5


class _Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions and a shortcut around them."""

  channels: int
  strides: int
  norm: layers.NormFactory
  keep_probability: float | None

  @nn.compact
  def __call__(
    self, x: jax.Array, coefficients: shake.Coefficients | None
  ) -> jax.Array:
    y = self.norm(name='bn_1_pre')(x)
    y = layers.conv(self.channels, size=1, name='1x1_conv_contract')(y)
    y = nn.relu(self.norm(name='bn_1_post')(y))
    y = layers.conv(self.channels, strides=self.strides, name='3x3')(y)
    y = nn.relu(self.norm(name='bn_2')(y))
    y = layers.conv(self.channels * _EXPANSION, size=1, name='1x1_conv_expand')(
      y
    )
    y = self.norm(name='bn_3')(y)
    if self.keep_probability is not None:
      y = shake.shake_drop(y, coefficients, self.keep_probability)
    return layers.add_shortcut(y, x)


@registry.register('pyramidnet')
@registry.register('PyramidNet{depth}', shake_drop=False)
@registry.register('Pyramid_ShakeDrop', depth=272, shake_drop=True)
@registry.register('Pyramid_ShakeDrop_mini', depth=11, shake_drop=True)
class PyramidNet(layers.Classifier):
  """PyramidNet of bottlenecks for images of multiples of 4 pixels.

  Registered as 'pyramidnet'; as 'PyramidNet272' and any other depth, without
  ShakeDrop (in the paper's table 1, not in the official release); and under the
  official names 'Pyramid_ShakeDrop' (depth 272, alpha 200) and
  'Pyramid_ShakeDrop_mini' (depth 11).

  Attributes:
    num_classes: number of logits.
    depth: number of layers, 9n + 2 for n blocks per group.
    alpha: channels by which the bottlenecks grow from the first to the last.
    shake_drop: whether the blocks' branches are dropped at random in training,
      the last with probability 1/2, earlier ones linearly less.
    norm: see `layers.Classifier`.
    norm_axes: see `layers.Classifier`.
    remat: whether to recompute the blocks in the backward pass.

  Source: official models/pyramidnet.py. As there, widths are rounded, not
  truncated as by Han et al.; that is 0.2 M parameters more at depth 272.
  Differs from the official release: the last pooling is over the whole image,
  whatever its size; there, 28x28 images leave no feature at all.

  Example:
    >>> from sam_jax import models
    >>> model = models.create('PyramidNet272', num_classes=10)
    >>> model.depth, model.alpha, model.shake_drop
    (272, 200, False)
  """

  depth: int = 272
  alpha: int = 200
  shake_drop: bool = False
  remat: bool = False

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    if self.depth < 11 or self.depth % 9 != 2:
      raise ValueError(
        'PyramidNet depth must be 9n + 2 with n >= 1 (11, 20, 29, ... 110, '
        f'272), got {self.depth}'
      )
    if self.alpha < 0:
      raise ValueError(f'PyramidNet alpha must be >= 0, got {self.alpha}')

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, true_gradient: bool = False
  ) -> jax.Array:
    """Returns logits.

    Args:
      images: [batch, height, width, channels], float32, normalised; height
        and width are multiples of 4.
      train: whether to normalise by this batch, update 'batch_stats' and drop
        branches.
      true_gradient: whether ShakeDrop's backward pass has the forward
        coefficients, as SAM's ascent pass wants it.

    Returns:
      [batch, num_classes], the dtype of the images.

    Raises:
      ValueError: if height or width is no multiple of 4.
    """
    layers.check_quarters('PyramidNet', images.shape)
    norm = self.batch_norm(train=train)
    block = layers.maybe_remat(_Bottleneck, self.remat)
    per_group = (self.depth - 2) // 9
    num_blocks = 3 * per_group
    keep, coefficients = self._shake_drop(
      num_blocks, len(images), train, true_gradient
    )
    x = layers.conv(_STEM_CHANNELS, name='init_conv')(images)
    x = norm(name='init_bn')(x)
    for i in range(num_blocks):
      x = block(
        round(_STEM_CHANNELS + self.alpha * (i + 1) / num_blocks),
        strides=2 if i in (per_group, 2 * per_group) else 1,
        norm=norm,
        keep_probability=keep[i],
        name=f'BottleneckShakeDrop_{i}',
      )(x, coefficients[i])
    x = nn.relu(norm(name='final_bn')(x)).mean((1, 2))
    # flax.nn counted this layer among its siblings, the blocks.
    return layers.classifier(self.num_classes, name=f'Dense_{num_blocks}')(x)

  def _shake_drop(
    self, num_blocks: int, batch_size: int, train: bool, true_gradient: bool
  ) -> tuple[list[float | None], list[shake.Coefficients | None]]:
    """Returns keep probability and coefficients of each block, or None."""
    none: list[shake.Coefficients | None] = [None] * num_blocks
    if not self.shake_drop:
      return [None] * num_blocks, none
    keep: list[float | None] = [
      1 - _LAST_DROP_PROBABILITY * (i + 1) / num_blocks
      for i in range(num_blocks)
    ]
    if not train:
      return keep, none
    drawn = shake.shake_drop_coefficients(
      self.make_rng('dropout'),
      jnp.array(keep),
      batch_size,
      true_gradient=true_gradient,
    )
    return keep, [drawn.of_block(i) for i in range(num_blocks)]
