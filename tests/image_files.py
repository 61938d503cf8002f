"""Small image files, and folders of them, for the tests of decoding."""

import io

import numpy as np
import PIL.Image


def pixels(seed, height=24, width=32):
  """A smooth picture, which JPEG changes little."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (3, 4, 3), np.uint8)
  image = PIL.Image.fromarray(coarse).resize(
    (width, height), PIL.Image.Resampling.BICUBIC
  )
  return np.asarray(image)


def encode(image, kind='JPEG', **options):
  """The bytes of an array of pixels, or of a Pillow image."""
  if isinstance(image, np.ndarray):
    image = PIL.Image.fromarray(image)
  stream = io.BytesIO()
  if kind == 'JPEG':
    options = {'quality': 95} | options
  image.save(stream, kind, **options)
  return stream.getvalue()


def folder(root, sizes, *, height=24, width=32):
  """Writes root/SPLIT/CLASS/*.jpg; `sizes` is {split: images per class}.

  The classes are red, green, blue and grey, so that they can be learnt.
  """
  tints = {
    'blue': (0, 0, 1),
    'green': (0, 1, 0),
    'grey': (1, 1, 1),
    'red': (1, 0, 0),
  }
  seed = 0
  for split, size in sizes.items():
    for name, tint in tints.items():
      directory = root / split / name
      directory.mkdir(parents=True)
      for i in range(size):
        image = pixels(seed, height, width) * np.uint8(tint)
        (directory / f'{i:03}.jpg').write_bytes(encode(image))
        seed += 1
  return root
