"""Data sets of images and of text on the host, and the batches cut from them.

`create` gives images, in memory or encoded, `batches` the stream of them. What
is random about the images happens on the device (`sam_jax.augmentation`), but
for the crop of those that are decoded on the fly. `text.create` gives text, and
`windows` the stream of it.
"""

from sam_jax import extras

with extras.required():
  # Each of these modules registers its data sets.
  from sam_jax.datasets import (
    cifar as cifar,
    digits as digits,
    fake as fake,
    fashion_mnist as fashion_mnist,
    image_folder as image_folder,
    large as large,
    rotated_digits as rotated_digits,
    svhn as svhn,
    texts as texts,
    token_files as token_files,
  )
  from sam_jax.datasets.batches import (
    Batch,
    eval_batches,
    steps_per_epoch,
    train_batches,
  )
  from sam_jax.datasets.encoded import UndecodableError
  from sam_jax.datasets.registry import (
    Dataset,
    Examples,
    Source,
    create,
    load_source,
    names,
    options,
    register,
  )
  from sam_jax.datasets.text import TextDataset

__all__ = [
  'Batch',
  'Dataset',
  'Examples',
  'Source',
  'TextDataset',
  'UndecodableError',
  'create',
  'eval_batches',
  'load_source',
  'names',
  'options',
  'register',
  'steps_per_epoch',
  'train_batches',
]
