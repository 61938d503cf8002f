"""MLP-Mixer (Tolstikhin et al. 2021), as its authors name it.

Variables carry the names of the checkpoints that google-research/
vision_transformer publishes, such as 'MixerBlock_0/token_mixing/Dense_0/
kernel', so that the name map to one of these is the identity: renaming a
variable breaks it.
"""

import jax
from flax import linen as nn

from sam_jax.models import layers, patches, registry

_SIZES = (
  'patch',
  'width',
  'depth',
  'tokens_mlp_width',
  'channels_mlp_width',
  'resolution',
)


class _Block(nn.Module):
  """An MLP over the patches and one over the features, beside shortcuts."""

  tokens_mlp_width: int
  channels_mlp_width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = nn.LayerNorm(name='LayerNorm_0')(x).swapaxes(1, 2)
    y = patches.Mlp(self.tokens_mlp_width, name='token_mixing')(y)
    x = x + y.swapaxes(1, 2)
    y = nn.LayerNorm(name='LayerNorm_1')(x)
    return x + patches.Mlp(self.channels_mlp_width, name='channel_mixing')(y)


@registry.register('mixer')
@registry.register(
  'Mixer-S/{patch}',
  width=512,
  depth=8,
  tokens_mlp_width=256,
  channels_mlp_width=2048,
)
@registry.register(
  'Mixer-B/{patch}',
  width=768,
  depth=12,
  tokens_mlp_width=384,
  channels_mlp_width=3072,
)
class Mixer(nn.Module):
  """MLPs over the patches of an image and over their features, in turn.

  Registered under the names of the literature, with any patch: 'Mixer-B/16'
  for ImageNet, 'Mixer-S/4' for small images; and as 'mixer' with all sizes as
  arguments. The number of patches belongs to the parameters: a model that is
  trained at one size of the images takes no other. It has no BatchNorm, hence
  no `norm`.

  Attributes:
    num_classes: number of logits.
    patch: height and width of a patch in pixels; it divides the images.
    width: features of a patch.
    depth: number of blocks.
    tokens_mlp_width: hidden units of the MLP over the patches; None is half
      the width.
    channels_mlp_width: hidden units of the MLP over the features; None is four
      times the width.
    head_bias: of the classifier at the start, see `vit.VisionTransformer`.
    resolution: side of the images, to which all are resized; None leaves them.
    remat: whether to recompute the blocks in the backward pass.

  Source: google-research/vision_transformer, models_mixer.py.

  Example:
    >>> from sam_jax import models
    >>> models.create('Mixer-B/16', num_classes=1000).tokens_mlp_width
    384
  """

  num_classes: int
  patch: int
  width: int
  depth: int
  tokens_mlp_width: int | None = None
  channels_mlp_width: int | None = None
  head_bias: float = 0.0
  resolution: int | None = None
  remat: bool = False

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    patches.check_sizes(self, _SIZES)

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, true_gradient: bool = False
  ) -> jax.Array:
    """Returns logits.

    Args:
      images: [batch, height, width, channels], float32, normalised.
      train: unused; nothing is dropped.
      true_gradient: unused; for models whose two passes differ.

    Returns:
      [batch, num_classes], the dtype of the images.

    Raises:
      ValueError: the patches do not divide the images.
    """
    del train, true_gradient
    x = patches.embed(
      images, patch=self.patch, features=self.width, name='stem'
    )
    block = layers.maybe_remat(_Block, self.remat)
    for i in range(self.depth):
      x = block(
        self.tokens_mlp_width or -(-self.width // 2),
        self.channels_mlp_width or 4 * self.width,
        name=f'MixerBlock_{i}',
      )(x)
    x = nn.LayerNorm(name='pre_head_layer_norm')(x).mean(axis=1)
    return patches.classifier(self.num_classes, self.head_bias)(x)
