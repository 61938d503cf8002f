"""Images and their classes, and what any task on images shares."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import augmentation as augmentation_lib, lookup
from sam_jax.augmentation import mixing as mixing_lib
from sam_jax.tasks import base, losses, registry

_TOP_K = 5
_LOSSES = {
  'softmax': losses.cross_entropy,
  'sigmoid': losses.sigmoid_cross_entropy,
}


class ImageTask(base.Task):
  """A task on uint8 images `[height, width, channels]` with one label each.

  Batches have `image` and `label`. Subclasses say what is lost and measured.
  """

  examples: ClassVar[str] = 'images'

  def __init__(
    self,
    model: flax.linen.Module,
    info: Mapping[str, Any],
    *,
    augmentation: Mapping[str, Any] | None = None,
  ) -> None:
    """Takes the model, and what is known of the data set.

    Args:
      model: takes normalised images, and may say by `resolution` to which side
        they are to be resized.
      info: num_classes, image_shape, and mean and std of each channel.
      augmentation: of `augmentation.create`; None augments nothing.

    Raises:
      ValueError: the augmentation is unknown, or a number of it out of range.
    """
    super().__init__(model, info)
    self._augment = augmentation_lib.create(
      mean=info['mean'],
      std=info['std'],
      **(augmentation or {'name': 'none'}),
    )

  @property
  def offers(self) -> dict[str, Any]:
    """The number of domains, if the data set has any."""
    domains = self.info.get('domains')
    return {'domains': len(domains)} if domains else {}

  @property
  def _resolution(self) -> int | None:
    return getattr(self.model, 'resolution', None)

  @property
  def input_shape(self) -> tuple[int, ...]:
    """Height, width and channels of what the model takes."""
    height, width, channels = self.info['image_shape']
    side = self._resolution
    return (side or height, side or width, channels)

  def batch_shapes(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch."""
    numbers = ['label', 'position', 'example']
    numbers += ['domain'] * ('domains' in self.offers)
    images = jax.ShapeDtypeStruct((rows, *self.info['image_shape']), jnp.uint8)
    return {
      'image': images,
      **{name: jax.ShapeDtypeStruct((rows,), jnp.int32) for name in numbers},
    }

  def init_inputs(self) -> np.ndarray:
    """Returns an input of one example, for the model's `init`."""
    return np.zeros((1, *self.input_shape), np.float32)

  def preprocess(self, batch: base.Batch) -> base.Batch:
    """Returns the batch with normalised images."""
    images = augmentation_lib.normalize(
      batch['image'], self.info['mean'], self.info['std']
    )
    return {**batch, 'image': images}

  def augment(self, key: jax.Array, batch: base.Batch) -> base.Batch:
    """Returns the batch with augmented and normalised images."""
    images = self._augment(key, batch['image'], batch['position'])
    return {**batch, 'image': images}

  def inputs(self, batch: base.Batch) -> jax.Array:
    """Returns the images."""
    return batch['image']

  def apply(self, variables: Any, inputs: jax.Array, **options: Any) -> Any:
    """Returns the model's outputs for images of any size.

    Those of a microbatch are resized, not all that a device has.
    """
    images = augmentation_lib.resize(inputs, self._resolution)
    return self.model.apply(variables, images, **options)


@registry.register('image_classification')
class ImageClassification(ImageTask):
  """One class for each image; the loss is a cross entropy."""

  score = base.Score('error_rate', 'error', '%', 100.0)

  def __init__(
    self,
    model: flax.linen.Module,
    info: Mapping[str, Any],
    *,
    augmentation: Mapping[str, Any] | None = None,
    mixing: Mapping[str, Any] | None = None,
    label_smoothing: float = 0.0,
    loss: str = 'softmax',
  ) -> None:
    """Takes the model, and what is known of the data set.

    Args:
      model: see `ImageTask`; its outputs are logits.
      info: see `ImageTask`.
      augmentation: see `ImageTask`.
      mixing: of `mixing.create`; None mixes nothing.
      label_smoothing: see `losses.cross_entropy`; of training alone.
      loss: 'softmax', the cross entropy, or 'sigmoid', see
        `losses.sigmoid_cross_entropy`.

    Raises:
      ValueError: a name is unknown, a number out of range, or there is one
        class only.
    """
    super().__init__(model, info, augmentation=augmentation)
    if info['num_classes'] < 2:
      raise ValueError(
        f'the data have {info["num_classes"]} class, and there is nothing to '
        'learn; usually there is one folder level too many'
      )
    mixing = mixing or {'name': 'none', 'alpha': 1.0, 'probability': 1.0}
    self._is_mixed = mixing['name'] != 'none'
    self._mix = mixing_lib.create(num_classes=info['num_classes'], **mixing)
    self._label_smoothing = label_smoothing
    lookup.check('loss', loss, _LOSSES)
    self._is_softmax = loss == 'softmax'
    self._loss = _LOSSES[loss]

  def mix(self, key: jax.Array, batch: base.Batch) -> base.Batch:
    """Returns the microbatch with mixed images and labels, if they are."""
    images, labels = self._mix(key, batch['image'], batch['label'])
    return {**batch, 'image': images, 'label': labels}

  def example_losses(self, outputs: jax.Array, batch: base.Batch) -> jax.Array:
    """Returns the smoothed loss of each example, in nats."""
    return self._loss(outputs, batch['label'], self._label_smoothing)

  @property
  def offers(self) -> dict[str, Any]:
    """Logits, classes and examples if they were counted, and domains.

    Methods that need logits take their softmax.
    """
    offers = super().offers
    if self._is_softmax:
      offers['logits'] = self.info['num_classes']
    counts = self.info.get('class_counts')
    if counts is not None:
      offers['classes'] = counts
      if not self._is_mixed:
        offers['examples'] = sum(counts)
    return offers

  def class_values(self, values: jax.Array, batch: base.Batch) -> jax.Array:
    """Returns the value of each image's class; of a mixed one, the mean."""
    labels = batch['label']
    return values[labels] if labels.ndim == 1 else labels @ values

  def train_metrics(
    self, outputs: jax.Array, batch: base.Batch
  ) -> dict[str, jax.Array]:
    """Returns the error rate; of a mixed image, against its largest class."""
    labels = batch['label']
    classes = labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1)
    return {'error_rate': jnp.mean(jnp.argmax(outputs, axis=-1) != classes)}

  def example_metrics(
    self, outputs: jax.Array, batch: base.Batch
  ) -> dict[str, jax.Array]:
    """Returns the metrics of each example.

    Args:
      outputs: logits, `[rows, num_classes]`.
      batch: with the integer labels, `[rows]`.

    Returns:
      Float arrays `[rows]`: loss (in nats, no smoothing),
      error_rate (1 where the largest logit is another class), and for more than
      five classes top5_error_rate (1 where five classes have a larger logit).

    Differs from the official release: its top-k error broadcasts `[n, 1]`
    against `[n]` and can be negative; its evaluation loss is smoothed like the
    training loss.
    """
    labels = batch['label']
    own = jnp.take_along_axis(outputs, labels[:, None], axis=-1)
    # A NaN compares as neither larger nor smaller: count it as an error.
    is_finite = jnp.isfinite(own[:, 0])
    is_right = (jnp.argmax(outputs, axis=-1) == labels) & is_finite
    metrics = {
      'loss': self._loss(outputs, labels),
      'error_rate': 1 - is_right.astype(jnp.float32),
    }
    if outputs.shape[-1] > _TOP_K:
      is_near = (jnp.sum(outputs > own, axis=-1) < _TOP_K) & is_finite
      metrics['top5_error_rate'] = 1 - is_near.astype(jnp.float32)
    return metrics

  def predicted_labels(self, outputs: np.ndarray) -> np.ndarray:
    """Returns the class of the largest logit."""
    return np.argmax(outputs, axis=-1)

  def probabilities(self, outputs: np.ndarray) -> np.ndarray:
    """Returns the probability of each class; with 'sigmoid', of each alone."""
    from scipy import special  # takes a moment: no training asks for it

    if self._is_softmax:
      return special.softmax(outputs, axis=-1)
    return special.expit(outputs)

  def predictions(
    self, outputs: np.ndarray, batch: base.Batch
  ) -> dict[str, np.ndarray]:
    """Returns label, prediction, and the prediction's probability.

    Where the classes have names, those of label and prediction are there too.
    """
    names = np.array(self.info.get('classes') or ())
    columns = {}
    for key, values in (
      ('label', batch['label']),
      ('prediction', self.predicted_labels(outputs)),
    ):
      columns[key] = values
      if names.size:
        columns[f'{key}_name'] = names[values]
    probability = np.max(self.probabilities(outputs), axis=-1)
    return columns | {'probability': probability}
