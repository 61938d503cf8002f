"""Vision transformers (Dosovitskiy et al. 2021), as their authors name them.

Variables carry the names of the checkpoints that google-research/
vision_transformer publishes, such as 'Transformer/encoderblock_0/MlpBlock_3/
Dense_0/kernel', so that the name map to one of these is the identity: renaming
a variable breaks it. (The code that is published with them numbers the layers
of a block by kind, and renames the arrays of a checkpoint as it reads them.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sam_jax import lookup
from sam_jax.models import (
  attention as attention_lib,
  layers,
  patches,
  registry,
)

CLASSIFIERS = ('token', 'gap')
POSITIONS = ('learned', 'sincos2d')

_kernel_init = nn.initializers.xavier_uniform()
_bias_init = nn.initializers.normal(1e-6)
_position_init = nn.initializers.normal(0.02)
_TEMPERATURE = 10_000.0
_SIZES = (
  'patch',
  'width',
  'depth',
  'heads',
  'mlp_width',
  'representation_size',
  'resolution',
)


class _AddPositions(nn.Module):
  """Adds a learned vector to each token."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (1, *x.shape[1:])
    return x + self.param('pos_embedding', _position_init, shape)


class _Block(nn.Module):
  """Attention and an MLP, each after a LayerNorm and beside a shortcut."""

  heads: int
  mlp_width: int
  attention: str
  dropout_rate: float
  train: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = nn.LayerNorm(name='LayerNorm_0')(x)
    y = nn.MultiHeadDotProductAttention(
      self.heads,
      kernel_init=_kernel_init,
      attention_fn=functools.partial(
        attention_lib.attend, is_causal=False, kernel=self.attention
      ),
      name='MultiHeadDotProductAttention_1',
    )(y)
    x = x + nn.Dropout(self.dropout_rate, deterministic=not self.train)(y)
    y = nn.LayerNorm(name='LayerNorm_2')(x)
    return x + patches.Mlp(
      self.mlp_width,
      kernel_init=_kernel_init,
      bias_init=_bias_init,
      dropout_rate=self.dropout_rate,
      train=self.train,
      name='MlpBlock_3',
    )(y)


class _Encoder(nn.Module):
  """Positions, blocks, and a LayerNorm."""

  depth: int
  heads: int
  mlp_width: int
  learned_positions: bool
  attention: str
  dropout_rate: float
  train: bool
  remat: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.learned_positions:
      x = _AddPositions(name='posembed_input')(x)
    x = nn.Dropout(self.dropout_rate, deterministic=not self.train)(x)
    block = layers.maybe_remat(_Block, self.remat)
    for i in range(self.depth):
      x = block(
        self.heads,
        self.mlp_width,
        self.attention,
        self.dropout_rate,
        self.train,
        name=f'encoderblock_{i}',
      )(x)
    return nn.LayerNorm(name='encoder_norm')(x)


@registry.register('vit')
@registry.register(
  'ViT-Ti/{patch}', width=192, depth=12, heads=3, mlp_width=768
)
@registry.register(
  'ViT-S/{patch}', width=384, depth=12, heads=6, mlp_width=1536
)
@registry.register(
  'ViT-B/{patch}', width=768, depth=12, heads=12, mlp_width=3072
)
@registry.register(
  'ViT-L/{patch}', width=1024, depth=24, heads=16, mlp_width=4096
)
class VisionTransformer(nn.Module):
  """A transformer over the patches of an image.

  Registered under the names of the literature, with any patch: 'ViT-B/16' for
  ImageNet, 'ViT-Ti/4' for images of 32 or 28 pixels; and as 'vit' with all
  sizes as arguments. A model has no BatchNorm, hence no `norm`.

  Attributes:
    num_classes: number of logits.
    patch: height and width of a patch in pixels; it divides the images.
    width: features of a token.
    depth: number of blocks.
    heads: of the attention; they divide the width.
    mlp_width: hidden units of a block's MLP; None is four times the width.
    classifier: what the logits are made of: 'token', an extra token, or 'gap',
      the mean over all patches (global average pooling).
    positions: 'learned', or 'sincos2d', sines and cosines of row and column.
    representation_size: units of a dense layer with a tanh before the
      classifier, as the checkpoints of ImageNet-21k have it; None is no layer.
    head_bias: of the classifier at the start. With the sigmoid loss, -10 lets
      training begin with small losses (big_vision).
    dropout_rate: of the tokens, and of what each branch adds; the MLP's hidden
      units too. Attention weights are not dropped, as in all published models.
    resolution: side of the images, to which all are resized; None leaves them.
    remat: whether to recompute the blocks in the backward pass.
    attention: 'xla'; 'cudnn', the fused kernel, for bfloat16 on NVIDIA GPUs;
      'auto' is the fused kernel wherever there is one. It has no second
      derivative: a method with Hessian-vector products needs 'xla'.

  Source: google-research/vision_transformer, models_vit.py, and for 'sincos2d'
  google-research/big_vision, models/vit.py. Differs from the latter: learned
  positions are added after the extra token, which has one too.

  Example:
    >>> import jax
    >>> from sam_jax import models
    >>> model = models.create('ViT-S/16', num_classes=1000)
    >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), 'float32')
    >>> init = lambda key, images: model.init(key, images, train=False)
    >>> variables = jax.eval_shape(init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    22050664
  """

  num_classes: int
  patch: int
  width: int
  depth: int
  heads: int
  mlp_width: int | None = None
  classifier: str = 'token'
  positions: str = 'learned'
  representation_size: int | None = None
  head_bias: float = 0.0
  dropout_rate: float = 0.0
  resolution: int | None = None
  remat: bool = False
  attention: str = 'auto'

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    lookup.check('classifier', self.classifier, CLASSIFIERS)
    lookup.check('positions', self.positions, POSITIONS)
    lookup.check('attention', self.attention, attention_lib.KERNELS)
    layers.check_dropout_rate(self.dropout_rate)
    patches.check_sizes(self, _SIZES)
    if self.width % self.heads:
      raise ValueError(
        f'{self.heads} heads do not divide a width of {self.width}; choose '
        'another width, or number of heads'
      )
    if self.positions == 'sincos2d' and (self.width % 4 or self.width < 8):
      raise ValueError(
        "positions='sincos2d' needs a width that is a multiple of 4 and at "
        f'least 8, got {self.width}'
      )

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, true_gradient: bool = False
  ) -> jax.Array:
    """Returns logits.

    Args:
      images: [batch, height, width, channels], float32, normalised.
      train: whether to drop out.
      true_gradient: unused; for models whose two passes differ.

    Returns:
      [batch, num_classes], the dtype of the images.

    Raises:
      ValueError: the patches do not divide the images.
    """
    del true_gradient
    x = self._tokens(images)
    x = _Encoder(
      self.depth,
      self.heads,
      self.mlp_width or 4 * self.width,
      self.positions == 'learned',
      self.attention,
      self.dropout_rate,
      train,
      self.remat,
      name='Transformer',
    )(x)
    x = x[:, 0] if self.classifier == 'token' else x.mean(axis=1)
    if self.representation_size is not None:
      x = jnp.tanh(nn.Dense(self.representation_size, name='pre_logits')(x))
    return patches.classifier(self.num_classes, self.head_bias)(x)

  def _tokens(self, images: jax.Array) -> jax.Array:
    """Returns the patches' vectors, and the extra token before them."""
    x = patches.embed(
      images, patch=self.patch, features=self.width, name='embedding'
    )
    if self.positions == 'sincos2d':
      rows, columns = (side // self.patch for side in images.shape[1:3])
      x = x + jnp.asarray(sincos_2d(rows, columns, self.width), x.dtype)
    if self.classifier == 'gap':
      return x
    token = self.param('cls', nn.initializers.zeros, (1, 1, self.width))
    token = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
    return jnp.concatenate([token.astype(x.dtype), x], axis=1)


def sincos_2d(rows: int, columns: int, width: int) -> np.ndarray:
  """Returns fixed positions: sines and cosines of column and row.

  Args:
    rows: of the grid.
    columns: of the grid.
    width: a multiple of 4, at least 8: a quarter each for the sine and the
      cosine of the column, then of the row.

  Returns:
    [1, rows * columns, width].

  Source: big_vision, models/vit.py, after MoCo v3.
  """
  y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1)
  exponents = np.linspace(0, 1, width // 4)
  angles = [place * _TEMPERATURE**-exponents for place in (x, y)]
  waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
  return np.concatenate(waves, axis=-1)[None]
