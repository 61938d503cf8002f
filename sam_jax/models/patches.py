"""What ViT and MLP-Mixer share: patches, the MLP of a block, the classifier."""

import jax
from flax import linen as nn

from sam_jax.models import layers


class Mlp(nn.Module):
  """Two dense layers with a GELU between them.

  Attributes:
    width: units of the hidden layer.
    kernel_init: of both layers.
    bias_init: of both layers.
    dropout_rate: after each layer.
    train: whether to drop out.
  """

  width: int
  kernel_init: layers.Initializer = nn.initializers.lecun_normal()
  bias_init: layers.Initializer = nn.initializers.zeros
  dropout_rate: float = 0.0
  train: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns what has the shape of the input, [..., features]."""
    # The tanh form, with which the official checkpoints were trained.
    hidden = nn.gelu(self._dense(self.width, 'Dense_0')(x), approximate=True)
    y = self._dense(x.shape[-1], 'Dense_1')(self._dropout(hidden))
    return self._dropout(y)

  def _dense(self, features: int, name: str) -> nn.Dense:
    return nn.Dense(
      features,
      kernel_init=self.kernel_init,
      bias_init=self.bias_init,
      name=name,
    )

  def _dropout(self, x: jax.Array) -> jax.Array:
    return nn.Dropout(self.dropout_rate, deterministic=not self.train)(x)


def embed(
  images: jax.Array, *, patch: int, features: int, name: str
) -> jax.Array:
  """Returns a vector for each patch of the images, row by row.

  Must be called by a module inside `nn.compact`, whose submodule it makes.

  Args:
    images: [batch, height, width, channels].
    patch: side of a patch, in pixels.
    features: of a vector.
    name: of the convolution.

  Returns:
    [batch, patches, features].

  Raises:
    ValueError: the patches do not divide the images.
  """
  height, width = images.shape[1:3]
  if height % patch or width % patch:
    raise ValueError(
      f'patches of {patch}x{patch} pixels do not divide images of '
      f'{height}x{width}; choose another patch, or by `resolution` a size of '
      f'the images that is a multiple of {patch}'
    )
  size = (patch, patch)
  convolution = nn.Conv(features, size, strides=size, padding=0, name=name)
  x = convolution(images)
  return x.reshape(x.shape[0], -1, features)


def classifier(num_classes: int, bias: float) -> nn.Dense:
  """Returns the last layer: a kernel of zeros, and biases of one value."""
  return nn.Dense(
    num_classes,
    kernel_init=nn.initializers.zeros,
    bias_init=nn.initializers.constant(bias),
    name='head',
  )


def check_sizes(model: nn.Module, names: tuple[str, ...]) -> None:
  """Raises ValueError if a size is less than 1.

  Args:
    model: whose fields they are.
    names: of the fields; None in one of them is no size.
  """
  for name in names:
    size = getattr(model, name)
    if size is not None and size < 1:
      raise ValueError(f'{name} must be at least 1, got {size}')
