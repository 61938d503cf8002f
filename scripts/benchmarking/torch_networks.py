"""Our networks in PyTorch, under our names, for comparisons of speed.

They have the parameters, shapes and paddings of sam_jax/models, and compute the
same from the same parameters (tests/commands/benchmark_torch_test.py); only how
the parameters are drawn is not ours. Where XLA's 'SAME' pads a strided layer
below and to the right, PyTorch pads above and to the left, at no cost. So the
networks with strides are ours in a mirror: they give for an image what ours
give for the image turned by 180 degrees, with kernels that are turned too.
"""

import re

import torch
from torch import nn
from torch.nn import functional as F

_GROUP_CHANNELS = (16, 32, 64)
_STAGES = {
  'Resnet50': (3, 4, 6, 3),
  'Resnet101': (3, 4, 23, 3),
  'Resnet152': (3, 8, 36, 3),
}
_EXPANSION = 4
# Width, blocks and heads.
_VITS = {
  'Ti': (192, 12, 3),
  'S': (384, 12, 6),
  'B': (768, 12, 12),
  'L': (1024, 24, 16),
}
_GPTS = {
  'gpt-tiny': (128, 5, 4),
  'gpt-mini': (384, 6, 6),
  'gpt2': (768, 12, 12),
  'gpt2-medium': (1024, 24, 16),
  'gpt2-large': (1280, 36, 20),
  'gpt2-xl': (1600, 48, 25),
}
_STD = 0.02  # of embeddings


def create(
  name: str, *, num_classes: int, image_size: int = 32, context_length: int = 0
) -> nn.Module:
  """Returns a network by the name that it has in `sam_jax.models`.

  Args:
    name: such as 'WideResnet28x10', 'Resnet50', 'ViT-S/16' or 'gpt2'.
    num_classes: number of logits; of a GPT, tokens in the vocabulary.
    image_size: height and width of the images, which have 3 channels.
    context_length: tokens of a window, of a GPT.

  Raises:
    ValueError: the name is unknown, or the size does not fit the network.
  """
  if found := re.fullmatch(r'WideResnet(\d+)x(\d+)', name):
    _check_multiple(name, 'image_size', image_size, 4)
    depth, width = map(int, found.groups())
    return WideResnet(num_classes, depth=depth, width=width)
  if name in _STAGES:
    _check_multiple(name, 'image_size', image_size, 32)
    return ResNet(num_classes, stage_sizes=_STAGES[name])
  found = re.fullmatch(r'ViT-(\w+)/(\d+)', name)
  if found and found[1] in _VITS:
    patch = int(found[2])
    _check_multiple(name, 'image_size', image_size, patch)
    patches = (image_size // patch) ** 2
    return VisionTransformer(num_classes, patch, patches, *_VITS[found[1]])
  if is_text(name):
    _check_multiple(name, 'context_length', context_length, 1)
    return Gpt(num_classes, context_length, *_GPTS[name])
  raise ValueError(
    f'unknown network {name!r}; use WideResnet{{depth}}x{{width}}, '
    f'{", ".join(_STAGES)}, ViT-{{{",".join(_VITS)}}}/{{patch}}, '
    f'{", ".join(_GPTS)}'
  )


def is_text(name: str) -> bool:
  """Whether a network takes tokens."""
  return name in _GPTS


def _check_multiple(name: str, what: str, value: int, factor: int) -> None:
  if factor < 1 or value < 1 or value % factor:
    raise ValueError(
      f'{name} needs a {what} that is a positive multiple of {factor}, got '
      f'{value}'
    )


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
  return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class _WideBlock(nn.Module):
  """Two pre-activation convolutions and a shortcut without parameters."""

  def __init__(
    self, inputs: int, outputs: int, stride: int, activates_shortcut: bool
  ):
    super().__init__()
    self.norm1 = nn.BatchNorm2d(inputs)
    self.conv1 = _conv(inputs, outputs, 3, stride)
    self.norm2 = nn.BatchNorm2d(outputs)
    self.conv2 = _conv(outputs, outputs, 3)
    self.stride = stride
    self.missing = outputs - inputs
    self.activates_shortcut = activates_shortcut

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(self.norm1(x), inplace=True)
    shortcut = y if self.activates_shortcut else x
    y = self.conv2(F.relu(self.norm2(self.conv1(y)), inplace=True))
    if self.stride > 1:
      shortcut = F.avg_pool2d(shortcut, self.stride)
    if self.missing:
      shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.missing))
    return y + shortcut


class WideResnet(nn.Module):
  """sam_jax/models/wide_resnet.py, in a mirror."""

  def __init__(self, num_classes: int, depth: int, width: int):
    """Takes the number of layers, 6n + 4, and the factor of the channels."""
    if depth < 10 or depth % 6 != 4 or width < 1:
      raise ValueError(
        'WideResnet needs a depth of 6n + 4 (10, 16, 22, 28, ...) and a width '
        f'of at least 1, got {depth}x{width}'
      )
    super().__init__()
    self.stem = _conv(3, 16, 3)
    blocks, channels = [], 16
    for group, base in enumerate(_GROUP_CHANNELS):
      for i in range((depth - 4) // 6):
        stride = 2 if group > 0 and i == 0 else 1
        activates = group == i == 0
        blocks.append(_WideBlock(channels, base * width, stride, activates))
        channels = base * width
    self.blocks = nn.Sequential(*blocks)
    self.norm = nn.BatchNorm2d(channels)
    self.head = nn.Linear(channels, num_classes)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Returns logits, [batch, num_classes]."""
    x = self.blocks(self.stem(images))
    return self.head(F.relu(self.norm(x), inplace=True).mean((2, 3)))


class _Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions and a shortcut around them."""

  def __init__(self, inputs: int, channels: int, stride: int):
    super().__init__()
    outputs = channels * _EXPANSION
    self.conv1 = _conv(inputs, channels, 1)
    self.norm1 = nn.BatchNorm2d(channels)
    self.conv2 = _conv(channels, channels, 3, stride)
    self.norm2 = nn.BatchNorm2d(channels)
    self.conv3 = _conv(channels, outputs, 1)
    self.norm3 = nn.BatchNorm2d(outputs)
    self.stride = stride
    self.projection = None
    if stride > 1 or inputs != outputs:
      self.projection = nn.Sequential(
        _conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)
      )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(self.norm1(self.conv1(x)), inplace=True)
    y = F.relu(self.norm2(self.conv2(y)), inplace=True)
    y = self.norm3(self.conv3(y))
    if self.projection is not None:
      if self.stride > 1:  # in the mirror, the first pixel of two is the second
        x = x[:, :, 1 :: self.stride, 1 :: self.stride]
      x = self.projection(x)
    return F.relu(x + y, inplace=True)


class ResNet(nn.Module):
  """sam_jax/models/resnet.py, in a mirror."""

  def __init__(
    self, num_classes: int, stage_sizes: tuple[int, ...], width: int = 64
  ):
    """Takes the blocks of each stage, and the channels of the first."""
    super().__init__()
    self.stem = nn.Conv2d(3, width, 7, 2, bias=False)
    self.stem_norm = nn.BatchNorm2d(width)
    blocks, channels = [], width
    for stage, size in enumerate(stage_sizes):
      for i in range(size):
        stride = 2 if stage > 0 and i == 0 else 1
        blocks.append(_Bottleneck(channels, width * 2**stage, stride))
        channels = width * 2**stage * _EXPANSION
    self.blocks = nn.Sequential(*blocks)
    self.head = nn.Linear(channels, num_classes)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Returns logits, [batch, num_classes]."""
    # Ours pads by 3 and has no use for the last row and column, here the first.
    x = self.stem_norm(self.stem(F.pad(images, (2, 3, 2, 3))))
    x = F.max_pool2d(x, 3, stride=2, padding=1)  # without a ReLU, as in ours
    return self.head(self.blocks(x).mean((2, 3)))


class _TransformerBlock(nn.Module):
  """Attention and an MLP, each after a LayerNorm and beside a shortcut."""

  def __init__(self, width: int, heads: int, is_causal: bool, epsilon: float):
    super().__init__()
    self.norm1 = nn.LayerNorm(width, epsilon)
    self.qkv = nn.Linear(width, 3 * width)
    self.out = nn.Linear(width, width)
    self.norm2 = nn.LayerNorm(width, epsilon)
    self.mlp_in = nn.Linear(width, 4 * width)
    self.mlp_out = nn.Linear(4 * width, width)
    self.heads = heads
    self.is_causal = is_causal

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = x + self.out(self._attend(self.norm1(x)))
    hidden = F.gelu(self.mlp_in(self.norm2(x)), approximate='tanh')
    return x + self.mlp_out(hidden)

  def _attend(self, x: torch.Tensor) -> torch.Tensor:
    qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
    y = F.scaled_dot_product_attention(
      query, key, value, is_causal=self.is_causal
    )
    return y.transpose(1, 2).flatten(2)


class VisionTransformer(nn.Module):
  """sam_jax/models/vit.py, with an extra token and learned positions."""

  def __init__(
    self,
    num_classes: int,
    patch: int,
    patches: int,
    width: int,
    depth: int,
    heads: int,
  ):
    """Takes the side of a patch, how many there are, and the sizes."""
    super().__init__()
    self.embedding = nn.Conv2d(3, width, patch, patch)
    self.token = nn.Parameter(torch.zeros(1, 1, width))
    self.positions = nn.Parameter(torch.zeros(1, patches + 1, width))
    nn.init.normal_(self.positions, std=_STD)
    self.blocks = nn.Sequential(
      *(_TransformerBlock(width, heads, False, 1e-6) for _ in range(depth))
    )
    self.norm = nn.LayerNorm(width, 1e-6)
    self.head = nn.Linear(width, num_classes)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Returns logits, [batch, num_classes]."""
    x = self.embedding(images).flatten(2).transpose(1, 2)
    token = self.token.expand(len(x), -1, -1).to(x.dtype)
    x = torch.cat([token, x], dim=1) + self.positions
    return self.head(self.norm(self.blocks(x))[:, 0])


class Gpt(nn.Module):
  """sam_jax/models/gpt.py, with the sizes and options of GPT-2."""

  def __init__(
    self,
    num_classes: int,
    context_length: int,
    width: int,
    depth: int,
    heads: int,
  ):
    """Takes the vocabulary's size, the number of positions, and the sizes."""
    super().__init__()
    self.tokens = nn.Embedding(num_classes, width)
    self.positions = nn.Embedding(context_length, width)
    for embedding in (self.tokens, self.positions):
      nn.init.normal_(embedding.weight, std=_STD)
    self.blocks = nn.Sequential(
      *(_TransformerBlock(width, heads, True, 1e-5) for _ in range(depth))
    )
    self.norm = nn.LayerNorm(width, 1e-5)

  def forward(self, tokens: torch.Tensor) -> torch.Tensor:
    """Returns the logits of each next token."""
    x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
    return F.linear(self.norm(self.blocks(x)), self.tokens.weight)
