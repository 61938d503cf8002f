"""Data sets as uint8 arrays on the host, and the batches cut from them.

`create` gives the arrays, `batches` the stream of a run; what is random about
the images themselves happens on the device (`sam_jax.augmentation`).
"""

# Each of these modules registers its data sets.
from sam_jax.datasets import (
  cifar as cifar,
  digits as digits,
  fashion_mnist as fashion_mnist,
  svhn as svhn,
)
from sam_jax.datasets.batches import (
  eval_batches,
  steps_per_epoch,
  train_batches,
)
from sam_jax.datasets.registry import (
  Dataset,
  Examples,
  Source,
  create,
  names,
  register,
)

__all__ = [
  'Dataset',
  'Examples',
  'Source',
  'create',
  'eval_batches',
  'names',
  'register',
  'steps_per_epoch',
  'train_batches',
]
