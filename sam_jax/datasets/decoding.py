"""From the bytes of an image file to a square of pixels.

JPEG goes through libjpeg-turbo (simplejpeg), with the same fast transform as in
TensorFlow, whose pixels it gives; everything else through Pillow. OpenCV
resizes. Orientation by EXIF is not applied, as in the official release.

libjpeg makes up the pixels that it cannot read, and only warns. A JPEG that
lacks its end or a part is refused here. What some cameras and programs write
and all viewers show is not: bytes left over after the picture, as reported of
two photographs of the Oxford Pets (tensorflow/models, issue 2194), and odd
versions or parameters in a header. Pillow decodes a JPEG whose sampling
libjpeg-turbo has no name for; of these it notices a missing end, but not damage
in the middle.

An image of more than `MAX_PIXELS` is refused before it is decoded, whatever its
header claims. Of 16 bits the upper 8 are kept; an image that fills so few of
the 16 that hardly anything would be left is refused, never made black.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
import PIL.ImageFile
import simplejpeg

from sam_jax.datasets.encoded import UndecodableError

# An evaluation crop is size / (size + 32) of the shorter side; official.
CROP_PADDING = 32

# Pixels that an image may have: of larger ones Pillow says that they might be
# made to exhaust the memory. Decoding takes up to 24 bytes of each.
MAX_PIXELS = 89_478_485

# Official bounds of a random crop, and how often one is tried.
_MIN_AREA, _MAX_AREA = 0.08, 1.0
_MIN_COVERED = 0.1
_MIN_RATIO, _MAX_RATIO = 3 / 4, 4 / 3
_ATTEMPTS = 10
# libjpeg-turbo is fast where it leaves out every second pixel, or more.
_REDUCTIONS = (8, 4, 2)

# Colours of a JPEG that go straight to red, green and blue; and of print.
_PLAIN = ('YCbCr', 'Gray')
_INKS = ('CMYK', 'YCCK')

# Warnings that cost no pixel. Bytes are left over at the end of the picture,
# not before a marker within; where they are a large part of the file, garbage
# was read instead of them.
_LEFT_OVER = re.compile(r'(\d+) extraneous bytes before marker 0xd9')
_MAX_LEFT_OVER = 0.25
_ODD_PARAMETERS = 'Invalid SOS parameters for sequential JPEG'

# Of these Pillow knows only the header, or has another program decode them.
_NOT_DECODED = frozenset(
  ('BUFR', 'EPS', 'GRIB', 'HDF5', 'IPTC', 'MPEG', 'PDF', 'WMF')
)
# Begins the header of the stream, and from there the bits of a channel, less 1.
_JPEG_2000_START, _JPEG_2000_DEPTH = b'\xff\x4f\xff\x51', 42
# Values below these leave at most 16, or 64, of the 256 levels of 8 bits.
_NEARLY_BLACK, _DARK = 2**12, 2**14

# What it warns of is refused here.
warnings.filterwarnings('ignore', category=PIL.Image.DecompressionBombWarning)

# Grain has its own threads and processes.
cv2.setNumThreads(0)


class Box(NamedTuple):
  """A part of an image, in pixels."""

  top: int
  left: int
  height: int
  width: int


def random_crop(data: bytes, size: int, rng: np.random.Generator) -> np.ndarray:
  """Decodes, crops at random and resizes: a training image.

  Args:
    data: of an image file.
    size: height and width wanted.
    rng: draws the crop, see `sample_box`.

  Returns:
    uint8 [size, size, 3].

  Raises:
    UndecodableError: see `decode`.

  Source: official sam_jax/datasets/dataset_source_imagenet.py. Differs from the
  official release, for speed: interpolation is bicubic with aligned centres of
  pixels, not corners; crops of at least twice the size are decoded at a reduced
  scale; and values are rounded to whole numbers.
  """
  height, width = dimensions(data)
  box = sample_box(rng, height, width)
  if box is None:
    return center_crop(data, size)
  reduction = next(
    (r for r in _REDUCTIONS if min(box.height, box.width) >= r * size), 1
  )
  image = decode(data, reduction)
  # What came out may be smaller by a pixel than what was asked for.
  scale = image.shape[0] / height, image.shape[1] / width
  top, left = round(box.top * scale[0]), round(box.left * scale[1])
  bottom = max(round((box.top + box.height) * scale[0]), top + 1)
  right = max(round((box.left + box.width) * scale[1]), left + 1)
  crop = image[top:bottom, left:right]
  return cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)


def center_crop(data: bytes, size: int) -> np.ndarray:
  """Decodes, crops the middle and resizes: an evaluation image.

  Args:
    data: of an image file.
    size: height and width wanted.

  Returns:
    uint8 [size, size, 3].

  Raises:
    UndecodableError: see `decode`.

  Source: official sam_jax/datasets/dataset_source_imagenet.py, with its bicubic
  interpolation (`augmentation.resize` says which). Differs from the official
  release: values are rounded to whole numbers in [0, 255], which it exceeds by
  a few where contrast is high. And it decodes the crop alone, so that the
  colours of a subsampled JPEG are not interpolated beyond the crop's right end.
  There, in the last three columns of a photograph that is made smaller, they
  differ by a quarter of the step from one colour sample to the next: by up to
  4.5 levels where it was measured, and by up to 113 of 255 at an edge between
  saturated colours. No package for Python offers the call that decodes a crop
  alone (`jpeg_crop_scanline` of libjpeg-turbo).
  """
  image = decode(data)
  height, width, _ = image.shape
  # In float32, as the release computes it; of a tiny image one pixel is left.
  share = np.float32(size / (size + CROP_PADDING))
  side = max(int(share * np.float32(min(height, width))), 1)
  top, left = (height - side + 1) // 2, (width - side + 1) // 2
  crop = image[top : top + side, left : left + side]
  scale = side / size
  return cv2.warpAffine(
    crop,
    np.array([[scale, 0, 0], [0, scale, 0]]),
    (size, size),
    flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_REPLICATE,
  )


def sample_box(rng: np.random.Generator, height: int, width: int) -> Box | None:
  """Draws a crop: width / height in [3/4, 4/3], then the height, then a place.

  Args:
    rng: of the draws.
    height: of the image.
    width: likewise.

  Returns:
    A box of a tenth of the image to all of it; None if ten draws gave none,
    where the official release takes the crop of the evaluation.

  Source: TensorFlow's `sample_distorted_bounding_box` with the official
  arguments. The smallest area is 0.08 by one and 0.1 by another of these.
  """
  area = height * width
  for _ in range(_ATTEMPTS):
    ratio = rng.uniform(_MIN_RATIO, _MAX_RATIO)
    low = round((_MIN_AREA * area / ratio) ** 0.5)
    high = round((_MAX_AREA * area / ratio) ** 0.5)
    high = min(high, height, int((width + 0.5) / ratio))
    crop_height = int(rng.integers(min(low, high), high + 1))
    crop_width = round(crop_height * ratio)
    # The last place is never drawn, but where there is only one.
    top, left = (
      int(rng.integers(max(whole - part, 1)))
      for whole, part in ((height, crop_height), (width, crop_width))
    )
    if (
      _MIN_COVERED * area <= crop_height * crop_width <= _MAX_AREA * area
      and 0 < crop_width <= width
    ):
      return Box(top, left, crop_height, crop_width)
  return None


@functools.cache
def suffixes() -> frozenset[str]:
  """Returns the suffixes of the files that can be decoded, in lower case."""
  by_suffix = PIL.Image.registered_extensions()
  known = _formats()
  return frozenset(
    suffix for suffix, kind in by_suffix.items() if kind in {*known, 'MPO'}
  )


def dimensions(data: bytes) -> tuple[int, int]:
  """Returns height and width without decoding.

  Raises:
    UndecodableError: the bytes are not of an image, or of one that is too
      large.
  """
  header = _jpeg_header(data)
  if header is not None and header.space in _PLAIN:
    return _checked_size(header.height, header.width)
  return _size(_guard(lambda: _open(data)))


def decode(data: bytes, reduction: int = 1) -> np.ndarray:
  """Decodes an image of any kind to red, green and blue.

  Args:
    data: of an image file: JPEG, PNG, WebP, GIF (the first picture), BMP, ...
    reduction: 1, 2, 4 or 8; of a JPEG, every so manieth pixel will do.

  Returns:
    uint8 [height, width, 3]. Grey images have three equal channels, CMYK and
    palettes are converted, transparency is dropped, 16 bits become 8.

  Raises:
    UndecodableError: the bytes are not of an image, or some are missing; it has
      more than `MAX_PIXELS`; or its numbers would become black: they have 32
      bits and no known range, or fill only 12 bits of 16.
  """
  data = _with_known_version(data)
  header = _jpeg_header(data)
  try:
    if header is not None and header.space in _PLAIN:
      return _decode_jpeg(data, header, 'RGB', reduction)
    if header is not None:  # Pillow would not tell of damage
      space = 'CMYK' if header.space in _INKS else 'RGB'
      _decode_jpeg(data, header, space, max(_REDUCTIONS))
  except UndecodableError:
    raise
  except ValueError:
    pass  # it warns of a header as if that were an error; let Pillow see
  return _guard(lambda: _decode_other(data))


def _with_known_version(data: bytes) -> bytes:
  """Returns a JPEG with a version that libjpeg does not warn of."""
  if data[6:11] == b'JFIF\0' and data[11:12] not in (b'\1', b'\2'):
    return data[:11] + b'\1\1' + data[13:]
  return data


class _Header(NamedTuple):
  """What the header of a JPEG says; `space` are its colours."""

  height: int
  width: int
  space: str


def _jpeg_header(data: bytes) -> _Header | None:
  """Returns the header of a JPEG; None of a rare one, or what is not one."""
  if not simplejpeg.is_jpeg(data):
    return None
  try:
    return _Header(*simplejpeg.decode_jpeg_header(data, strict=False)[:3])
  except KeyError:  # 4:4:1, which is decoded but has no name there
    image = _guard(lambda: _open(data))
    space = {'L': 'Gray', 'RGB': 'YCbCr'}.get(image.mode, 'CMYK')
    return _Header(*_size(image), space)
  except ValueError:
    return None  # another rare form of sampling, say; let Pillow see


def _decode_jpeg(
  data: bytes, header: _Header, space: str, reduction: int
) -> np.ndarray:
  """Decodes a JPEG to red, green and blue, or to inks.

  Raises:
    UndecodableError: pixels are missing, or too many.
    ValueError: something else is odd.
  """
  height, width = _checked_size(header.height, header.width)
  call = functools.partial(
    simplejpeg.decode_jpeg,
    data,
    space,
    fastdct=True,
    min_height=-(-height // reduction),
    min_width=-(-width // reduction),
  )
  try:
    return call(strict=True)
  except ValueError as error:
    warning = f'{error}'
  image = call(strict=False)
  if not _is_harmless(warning, len(data)):
    raise UndecodableError(warning)
  return image


def _is_harmless(warning: str, size: int) -> bool:
  """Whether libjpeg read all pixels of a file of `size` bytes."""
  left_over = _LEFT_OVER.search(warning)
  if left_over is not None:
    return int(left_over[1]) < _MAX_LEFT_OVER * size
  return _ODD_PARAMETERS in warning


def _decode_other(data: bytes) -> np.ndarray:
  """Decodes what is not a plain JPEG."""
  image = _open(data)
  _size(image)
  if image.mode == 'F' or (image.mode == 'I' and image.format != 'PPM'):
    # Whatever the scale, nothing may become black without a word.
    raise UndecodableError(
      'its values have 32 bits and no known range; save it with 8 or 16'
    )
  if image.mode.startswith('I'):  # 16 bits, which Pillow would cut off
    values = np.asarray(image)
    _check_range(int(values.max(initial=0)))
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)
  is_deep = _has_16_bits(image, data)  # Pillow forgets it on decoding
  # Pillow warns of a palette with transparency that loses it.
  has_both = isinstance(image.info.get('transparency'), bytes)
  plain = image.convert('RGBA') if has_both else image
  pixels = np.asarray(plain.convert('RGB'))
  if is_deep:
    # Some decoders round up, 4,095 to 16. Where all is 0, it may have been 255.
    _check_range(max(int(pixels.max(initial=0)) * 256 - 1, 255))
  return pixels


def _has_16_bits(image: PIL.ImageFile.ImageFile, data: bytes) -> bool:
  """Whether 16 bits of each channel become 8; asked before decoding."""
  if image.format == 'JPEG2000':  # Pillow does not say; the stream's header
    at = data.find(_JPEG_2000_START) + _JPEG_2000_DEPTH
    return any(byte & 127 > 7 for byte in data[at : at + 1])
  how = [str(tile.args) for tile in image.tile]
  if image.format == 'PPM':
    return any(int(n) > 255 for text in how for n in re.findall(r'\d+', text))
  return any(';16' in text and 'BGR;16' not in text for text in how)


def _check_range(largest: int) -> None:
  """Refuses values of 16 bits that would become black, warns of dark ones."""
  if 0 < largest < _NEARLY_BLACK:
    raise UndecodableError(
      f'its values reach {largest:,} of 65,535, as if 12 bits or fewer were '
      'stored in 16, and it would be nearly black; multiply them to fill 16 '
      'bits, or save it with 8'
    )
  if 0 < largest < _DARK:
    warnings.warn(
      'images of 16 bits have values below 16,384 of 65,535, as if 14 bits '
      'were stored in 16; they come out dark unless they are multiplied',
      stacklevel=1,
    )


def _open(data: bytes) -> PIL.ImageFile.ImageFile:
  """Reads the header of any image."""
  try:
    return PIL.Image.open(io.BytesIO(data), formats=_formats())
  except PIL.UnidentifiedImageError as error:
    raise UndecodableError('it is no image that can be decoded') from error
  except PIL.Image.DecompressionBombError as error:
    raise UndecodableError(
      f'it claims to have more than {MAX_PIXELS:,} pixels; make it smaller'
    ) from error


@functools.cache
def _formats() -> tuple[str, ...]:
  """Returns the formats that Pillow is asked for."""
  PIL.Image.init()
  return tuple(sorted(PIL.Image.OPEN.keys() - _NOT_DECODED))


def _size(image: PIL.Image.Image) -> tuple[int, int]:
  """Returns height and width; refuses too many pixels."""
  return _checked_size(image.height, image.width)


def _checked_size(height: int, width: int) -> tuple[int, int]:
  """Returns height and width; refuses too many pixels."""
  if height * width > MAX_PIXELS:
    raise UndecodableError(
      f'it claims to be {width:,} x {height:,} pixels, and more than '
      f'{MAX_PIXELS:,} are not decoded; make it smaller'
    )
  return height, width


def _guard(call: Callable[[], Any]) -> Any:
  """Calls a decoder; whatever it raises is one kind of error."""
  try:
    return call()
  except UndecodableError:
    raise
  except Exception as error:  # decoders raise OSError, SyntaxError, ...
    raise UndecodableError(f'{error}') from error
