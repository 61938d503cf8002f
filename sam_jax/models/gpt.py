"""Decoder-only transformers for text, with the sizes of GPT-2."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from sam_jax import lookup
from sam_jax.models import attention, layers, registry

POSITIONS = ('learned', 'rotary')
ACTIVATIONS = ('gelu', 'swiglu')

_EPSILON = 1e-5
_STD = 0.02


class _Block(nn.Module):
  """Attention and an MLP, each after a LayerNorm and beside a shortcut."""

  heads: int
  mlp_width: int
  rotary: bool
  activation: str
  use_bias: bool
  attention: str
  residual_std: float
  dropout_rate: float
  train: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    y = _norm('attention_norm', self.use_bias)(x)
    y = self._dense('attention_out', width)(self._attend(y))
    x = x + self._dropout(y)
    y = _norm('mlp_norm', self.use_bias)(x)
    y = self._dense('mlp_out', width)(self._hidden(y))
    return x + self._dropout(y)

  def _attend(self, x: jax.Array) -> jax.Array:
    """Has every token look at itself and at those before it."""
    *leading, width = x.shape
    qkv = self._dense('qkv', 3 * width)(x)
    qkv = qkv.reshape(*leading, 3, self.heads, width // self.heads)
    query, key, value = (qkv[..., i, :, :] for i in range(3))
    if self.rotary:
      query, key = attention.rotate(query), attention.rotate(key)
    attended = attention.attend(
      query, key, value, is_causal=True, kernel=self.attention
    )
    return attended.reshape(x.shape)

  def _hidden(self, x: jax.Array) -> jax.Array:
    """Returns the hidden units of the MLP."""
    hidden = self._dense('mlp_in', self.mlp_width)(x)
    if self.activation == 'gelu':
      return nn.gelu(hidden, approximate=True)
    return nn.silu(self._dense('mlp_gate', self.mlp_width)(x)) * hidden

  def _dense(self, name: str, features: int) -> nn.Dense:
    is_residual = name.endswith('_out')
    std = self.residual_std if is_residual else _STD
    kernel_init = nn.initializers.normal(std)
    return nn.Dense(
      features, use_bias=self.use_bias, kernel_init=kernel_init, name=name
    )

  def _dropout(self, x: jax.Array) -> jax.Array:
    return nn.Dropout(self.dropout_rate, deterministic=not self.train)(x)


@registry.register('gpt')
@registry.register('gpt-tiny', width=128, depth=5, heads=4)
@registry.register('gpt-mini', width=384, depth=6, heads=6)
@registry.register('gpt2', width=768, depth=12, heads=12)
@registry.register('gpt2-medium', width=1024, depth=24, heads=16)
@registry.register('gpt2-large', width=1280, depth=36, heads=20)
@registry.register('gpt2-xl', width=1600, depth=48, heads=25)
class Gpt(nn.Module, kw_only=True):
  """Predicts every next token from those before it; pre-norm, as GPT-2.

  Registered as 'gpt', with width, depth and heads as arguments; under GPT-2's
  names; as 'gpt-mini', nanoGPT's for characters (10.7 M parameters); and as
  'gpt-tiny' (1 M).

  Attributes:
    num_classes: number of tokens in the vocabulary.
    width: of the residual stream.
    depth: number of blocks.
    heads: of the attention; they divide the width.
    context_length: number of learned positions, hence the longest window.
      Rotary positions have no table: with them it is the window that text is
      generated from, and longer ones are taken too.
    mlp_width: hidden units of an MLP; None is 4 * width for 'gelu', and two
      thirds of it for 'swiglu', whose third matrix makes up for that.
    positions: 'learned', added to the tokens (GPT-2), or 'rotary', by which
      queries and keys are rotated (RoFormer).
    activation: 'gelu', in its tanh form (GPT-2), or 'swiglu' (Shazeer 2020).
    tied: whether the logits are products with the tokens' embeddings (GPT-2)
      or have a matrix of their own.
    use_bias: whether dense layers and LayerNorms have biases (GPT-2).
    dropout_rate: of the embeddings and of what each branch adds. Attention
      weights are not dropped: no fused kernel does it.
    remat: whether to recompute the blocks in the backward pass.
    attention: which kernel computes it, see `attention.attend`.

  Source: Radford et al. 2019 and the code that came with it; the initialisation
  of the positions, 0.02 and not 0.01, is that of nanoGPT.

  Example:
    >>> import jax
    >>> from sam_jax import models
    >>> model = models.create('gpt2', num_classes=50257, context_length=1024)
    >>> tokens = jax.ShapeDtypeStruct((1, 1024), 'int32')
    >>> init = lambda key, tokens: model.init(key, tokens, train=False)
    >>> variables = jax.eval_shape(init, jax.random.key(0), tokens)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    124439808
  """

  num_classes: int
  width: int
  depth: int
  heads: int
  context_length: int | None = None
  mlp_width: int | None = None
  positions: str = 'learned'
  activation: str = 'gelu'
  tied: bool = True
  use_bias: bool = True
  dropout_rate: float = 0.0
  remat: bool = False
  attention: str = 'auto'

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    lookup.check('positions', self.positions, POSITIONS)
    lookup.check('activation', self.activation, ACTIVATIONS)
    lookup.check('attention', self.attention, attention.KERNELS)
    layers.check_dropout_rate(self.dropout_rate)
    for field in ('width', 'depth', 'heads', 'context_length', 'mlp_width'):
      value = getattr(self, field)
      if value is not None and value < 1:
        raise ValueError(f'{field} must be at least 1, got {value}')
    if self.width % self.heads:
      raise ValueError(
        f'heads must divide the width, got {self.heads} heads and width '
        f'{self.width}'
      )
    if self.positions == 'learned' and self.context_length is None:
      raise ValueError(
        "positions='learned' needs context_length, the number of positions"
      )
    if self.positions == 'rotary' and self.width // self.heads % 2:
      raise ValueError(
        "positions='rotary' needs heads of an even width, got "
        f'{self.width // self.heads} (width {self.width}, {self.heads} heads)'
      )

  @nn.compact
  def __call__(
    self, tokens: jax.Array, *, train: bool, true_gradient: bool = False
  ) -> jax.Array:
    """Returns logits.

    Args:
      tokens: [rows, length], integers in [0, num_classes).
      train: whether to drop out.
      true_gradient: unused; for models whose two passes differ.

    Returns:
      [rows, length, num_classes]: at each token, the logits of the next one.

    Raises:
      ValueError: if there are more tokens than positions.
    """
    del true_gradient
    self._check_length(tokens.shape)
    embed = self._embed(self.num_classes, 'token_embedding')
    x = embed(tokens)
    if self.positions == 'learned':
      embed_place = self._embed(self.context_length or 0, 'position_embedding')
      x = x + embed_place(jnp.arange(tokens.shape[1])[None])
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    for i in range(self.depth):
      x = self._block(i, train)(x)
    x = _norm('final_norm', self.use_bias)(x)
    if self.tied:
      return embed.attend(x)
    init = nn.initializers.normal(_STD)
    head = nn.Dense(
      self.num_classes, use_bias=False, kernel_init=init, name='head'
    )
    return head(x)

  def _embed(self, count: int, name: str) -> nn.Embed:
    init = nn.initializers.normal(_STD)
    return nn.Embed(count, self.width, embedding_init=init, name=name)

  def _block(self, index: int, train: bool) -> nn.Module:
    """Returns a block; all are alike."""
    default = 4 * self.width
    if self.activation == 'swiglu':
      default = 8 * -(-self.width // 3)
    return layers.maybe_remat(_Block, self.remat)(
      heads=self.heads,
      mlp_width=self.mlp_width or default,
      rotary=self.positions == 'rotary',
      activation=self.activation,
      use_bias=self.use_bias,
      attention=self.attention,
      # Two branches in each block add up to the residual stream.
      residual_std=_STD * (2 * self.depth) ** -0.5,
      dropout_rate=self.dropout_rate,
      train=train,
      name=f'block_{index}',
    )

  def _check_length(self, shape: tuple[int, ...]) -> None:
    """Refuses more tokens than there are positions."""
    if len(shape) != 2:
      raise ValueError(f'tokens must be [rows, length], got {list(shape)}')
    if self.positions == 'learned' and shape[1] > (self.context_length or 0):
      raise ValueError(
        f'the window has {shape[1]} tokens, and the model has positions for '
        f'context_length={self.context_length}; give shorter windows, or '
        "positions='rotary'"
      )


def _norm(name: str, use_bias: bool) -> nn.LayerNorm:
  """Returns a LayerNorm with GPT-2's epsilon."""
  return nn.LayerNorm(_EPSILON, use_bias=use_bias, name=name)
