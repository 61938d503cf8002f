"""A task of a user's own: which digit an image shows, as a number."""

import jax.numpy as jnp

from sam_jax import models, tasks


@tasks.register('digit_regression')
class DigitRegression(tasks.ImageTask):
  """Half the squared error of the digit, as a share of the largest one."""

  score = tasks.Score('squared_error', 'squared error')

  def __init__(self, model, info, *, augmentation=None, largest=9.0):
    super().__init__(model, info, augmentation=augmentation)
    self._largest = largest

  @classmethod
  def create_model(cls, info, **options):
    del info
    return models.create(num_classes=1, **options)

  def _squared_errors(self, outputs, batch):
    targets = batch['label'].astype(jnp.float32) / self._largest
    return jnp.square(outputs[:, 0] - targets)

  def example_losses(self, outputs, batch):
    return 0.5 * self._squared_errors(outputs, batch)

  def example_metrics(self, outputs, batch):
    errors = self._squared_errors(outputs, batch)
    return {'loss': 0.5 * errors, 'squared_error': errors}
