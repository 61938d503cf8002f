"""SVHN (cropped digits), from TensorFlow Datasets."""

from sam_jax.datasets import registry, tfds_arrays

# The release validates on train[65929:] of 73,257.
_VALIDATION_SHARE = 7328 / 73257


@registry.register('svhn_cropped')
def load(directory: str | None, seed: int) -> registry.Source:
  """Loads 73,257 training, 531,131 extra and 26,032 test images, 32x32x3.

  All of them take 1.9 GB; decoding takes a few minutes.

  Args:
    directory: of TensorFlow Datasets; None for its default.
    seed: unused, the split is official.

  Raises:
    FileNotFoundError: not prepared; says how to.

  Source: constants and boundary from the official
  sam_jax/datasets/dataset_source.py (`SVHN`). Differs from the official
  release: there the shuffle buffer holds 50,000 of the 604,388 examples.
  """
  del seed
  train, extra, test = tfds_arrays.load(
    'svhn_cropped', ('train', 'extra', 'test'), directory
  )
  return registry.Source(
    train=train,
    test=test,
    num_classes=10,
    mean=(0.43090966, 0.4302428, 0.44634357),
    std=(0.19759192, 0.20029082, 0.19811132),
    num_validation=round(len(train.labels) * _VALIDATION_SHARE),
    extra=extra,
    classes=tuple('0123456789'),
  )
