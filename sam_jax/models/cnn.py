"""A small plain CNN for 8x8 and 28x28 images: digits, Fashion-MNIST."""

from typing import ClassVar

import jax
from flax import linen as nn

from sam_jax import lookup
from sam_jax.models import layers, registry

# Half of He et al.'s variance: seen to stand a larger perturbation (digits with
# label noise, SAM at rho 0.2, one seed: 94.0 against 89.1 % test accuracy).
_kernel_init = jax.nn.initializers.lecun_normal()


@registry.register('cnn')
class Cnn(layers.Classifier):
  """3x3 convolutions with 2x2 average pooling, then one hidden dense layer.

  With a smooth activation the whole network is smooth, as tests that compare
  to float rounding need.

  Attributes:
    num_classes: number of logits.
    features: channels of each convolution; each halves height and width.
    hidden: units of the hidden dense layer.
    activation: one of `layers.ACTIVATIONS`.
    norm: 'none', or see `layers.Classifier` for BatchNorm after each
      convolution.
    norm_axes: see `layers.Classifier`.
    dropout_rate: of the hidden units.

  Example:
    >>> from sam_jax import models
    >>> models.create('cnn', num_classes=10, activation='tanh').features
    (32, 64)
  """

  features: tuple[int, ...] = (32, 64)
  hidden: int = 128
  activation: str = 'relu'
  norm: str = 'none'
  dropout_rate: float = 0.0

  norms: ClassVar[tuple[str, ...]] = layers.NORMS

  def __post_init__(self) -> None:
    """Checks the fields."""
    super().__post_init__()
    lookup.check('activation', self.activation, layers.ACTIVATIONS)
    layers.check_dropout_rate(self.dropout_rate)
    for size in (*self.features, self.hidden):
      if size < 1:
        raise ValueError(f'features and hidden must be at least 1, got {size}')

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool, true_gradient: bool = False
  ) -> jax.Array:
    """Returns logits.

    Args:
      images: [batch, height, width, channels], float32, normalised; height
        and width are at least 2 ** len(features).
      train: whether to normalise by this batch, update 'batch_stats' and drop
        out.
      true_gradient: unused; for models whose two passes differ.

    Returns:
      [batch, num_classes], the dtype of the images.

    Raises:
      ValueError: if the images are too small for the poolings.
    """
    del true_gradient
    self._check_size(images.shape)
    activation = layers.ACTIVATIONS[self.activation]
    x = images
    for features in self.features:
      x = activation(self._convolve(x, features, train=train))
      x = nn.avg_pool(x, (2, 2), strides=(2, 2))
    x = x.reshape(x.shape[0], -1)
    x = activation(nn.Dense(self.hidden, kernel_init=_kernel_init)(x))
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    return nn.Dense(self.num_classes, kernel_init=_kernel_init)(x)

  def _convolve(self, x: jax.Array, features: int, *, train: bool) -> jax.Array:
    """A convolution, with BatchNorm in place of its bias if asked for."""
    use_bias = self.norm == 'none'
    x = layers.conv(features, use_bias=use_bias, kernel_init=_kernel_init)(x)
    return x if use_bias else self.batch_norm(train=train)()(x)

  def _check_size(self, shape: tuple[int, ...]) -> None:
    """Refuses images that the poolings would shrink to nothing."""
    least = 2 ** len(self.features)
    if min(shape[1:3]) < least:
      raise ValueError(
        f'cnn with {len(self.features)} poolings needs images of at least '
        f'{least}x{least}, got {shape[1]}x{shape[2]}; give fewer features'
      )
