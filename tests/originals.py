"""Small data sets in the files of their authors."""

import gzip

import numpy as np

from sam_jax import datasets


def examples(num, size=4, channels=1, num_classes=10, seed=0):
  """Random images, of all classes in turn."""
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (num, size, size, channels), np.uint8)
  labels = np.arange(num, dtype=np.int32) % num_classes
  return datasets.Examples(images, labels)


def idx(array):
  """The bytes of an IDX file."""
  header = bytes([0, 0, 8, array.ndim])
  return header + np.array(array.shape, '>u4').tobytes() + array.tobytes()


def write_fashion(directory, compressed=False, sizes=(30, 10)):
  """Writes the four files; returns the training and test examples."""
  directory.mkdir(parents=True, exist_ok=True)
  written = []
  for prefix, num in zip(('train', 't10k'), sizes, strict=True):
    part = examples(num, size=28, seed=num)
    files = {
      f'{prefix}-images-idx3-ubyte': part.images[..., 0],
      f'{prefix}-labels-idx1-ubyte': part.labels.astype(np.uint8),
    }
    for name, array in files.items():
      data, path = idx(array), directory / name
      if compressed:
        data, path = gzip.compress(data), directory / f'{name}.gz'
      path.write_bytes(data)
    written.append(part)
  return written


def write_cifar(directory, name, size=4):
  """Writes `size` records per file; returns the training and test examples."""
  directory.mkdir(parents=True, exist_ok=True)
  num_classes = 10 if name == 'cifar10' else 100
  files = {
    'cifar10': [f'data_batch_{i}.bin' for i in range(1, 6)]
    + ['test_batch.bin'],
    'cifar100': ['train.bin', 'test.bin'],
  }[name]
  parts = []
  for seed, file in enumerate(files):
    images = examples(size, size=32, channels=3, seed=seed).images
    labels = np.random.default_rng(seed).integers(num_classes, size=size)
    labels = labels.astype(np.uint8)
    columns = [labels[:, None], images.transpose(0, 3, 1, 2).reshape(size, -1)]
    if name == 'cifar100':  # the coarse label comes first
      columns.insert(0, 100 + labels[:, None])
    (directory / file).write_bytes(np.hstack(columns).tobytes())
    parts.append(datasets.Examples(images, labels.astype(np.int32)))
  train = datasets.Examples(
    np.concatenate([part.images for part in parts[:-1]]),
    np.concatenate([part.labels for part in parts[:-1]]),
  )
  return train, parts[-1]
