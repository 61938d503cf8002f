"""Image files become pixels: the official ones, from any format."""

import functools
import io
import itertools
import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest
import simplejpeg

from sam_jax.datasets import decoding, image_folder
from tests import image_files, reference


def _official_jpeg():
  arrays = reference.load('data_ops.npz')
  return arrays, arrays['imagenet/jpeg_bytes'].tobytes()


def test_jpeg_gives_the_official_pixels():
  arrays, data = _official_jpeg()
  decoded = decoding.decode(data)
  np.testing.assert_array_equal(decoded, arrays['imagenet/decoded'])
  assert decoding.dimensions(data) == decoded.shape[:2]


@pytest.mark.parametrize('size', [32, 64])
def test_the_crop_of_evaluation_is_the_official_one(size):
  arrays, data = _official_jpeg()
  normalized = arrays[f'imagenet/eval{size}']
  official = 255 * (normalized * image_folder.STD + image_folder.MEAN)
  crop = decoding.center_crop(data, size)
  assert crop.dtype == np.uint8
  # Cut off where the official one leaves [0, 255], and rounded.
  difference = np.abs(crop - np.clip(official, 0, 255))
  assert difference[:, :-3].max() < 0.501
  # It decodes the crop alone, and has no colours from beyond its right end; of
  # this photograph, see `center_crop`.
  assert difference[:, -3:].max() < 3


def _files():
  """The same picture in many formats, with what may differ by."""
  image = image_files.pixels(1)
  pillow = PIL.Image.fromarray(image)
  grey = pillow.convert('L')
  opaque = pillow.convert('RGBA')
  opaque.putalpha(90)
  deep = PIL.Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
  yield 'jpeg', image_files.encode(image), image, 24
  yield 'jpeg 420', image_files.encode(image, subsampling=2), image, 60
  yield 'progressive', image_files.encode(image, progressive=True), image, 24
  yield 'grey jpeg', image_files.encode(grey), grey, 12
  yield 'inks', image_files.encode(pillow.convert('CMYK')), image, 24
  yield 'png', image_files.encode(image, 'PNG'), image, 0
  yield 'transparent', image_files.encode(opaque, 'PNG'), image, 0
  yield 'grey png', image_files.encode(grey, 'PNG'), grey, 0
  yield '16 bits', image_files.encode(deep, 'PNG'), grey, 0
  palette = pillow.quantize(64)
  yield 'gif', image_files.encode(palette, 'GIF'), palette.convert('RGB'), 0
  yield 'bilevel', image_files.encode(grey.convert('1'), 'PNG'), grey, 255
  yield 'bmp', image_files.encode(image, 'BMP'), image, 0
  yield 'webp', image_files.encode(image, 'WEBP', lossless=True), image, 0


@pytest.mark.parametrize(
  ('data', 'expected', 'tolerance'),
  [pytest.param(*rest, id=name) for name, *rest in _files()],
)
def test_every_format_becomes_red_green_and_blue(data, expected, tolerance):
  decoded = decoding.decode(data)
  assert decoded.dtype == np.uint8
  assert decoded.shape == (24, 32, 3)
  assert decoding.dimensions(data) == (24, 32)
  expected = np.asarray(expected).astype(int)
  if expected.ndim == 2:
    expected = np.repeat(expected[..., None], 3, axis=-1)
    assert np.ptp(decoded, axis=-1).max() == 0
  assert np.abs(decoded - expected).max() <= tolerance
  for crop in (decoding.center_crop, _random_crop):
    assert crop(data, 16).shape == (16, 16, 3)


# Less than eight more are read into a buffer and never missed.
def _with_bytes_too_many(jpeg):
  return jpeg[:-2] + b'\0\1\2\3' * 5 + jpeg[-2:]


def _with_odd_parameters(jpeg):
  at = jpeg.index(b'\xff\xda')  # the start of the scan
  last = at + 2 + jpeg[at + 3] - 2
  return jpeg[:last] + b'\0' + jpeg[last + 1 :]


def _with_an_odd_version(jpeg):
  at = jpeg.index(b'JFIF\0') + 5
  return jpeg[:at] + b'\0\0' + jpeg[at + 2 :]


# As reported of Oxford-IIIT Pets and cats_vs_dogs, where TensorFlow decodes
# them, and of cameras.
@pytest.mark.parametrize(
  'change', [_with_bytes_too_many, _with_an_odd_version, _with_odd_parameters]
)
def test_a_warning_that_costs_no_pixel_is_no_error(change):
  jpeg = image_files.encode(image_files.pixels(1))
  changed = change(jpeg)
  assert changed != jpeg
  assert decoding.dimensions(changed) == (24, 32)
  for read in (
    decoding.decode,
    functools.partial(decoding.center_crop, size=8),
    functools.partial(_random_crop, size=8),
  ):
    np.testing.assert_array_equal(read(changed), read(jpeg))


def test_a_palette_with_transparency_is_decoded_without_a_warning():
  palette = PIL.Image.fromarray(image_files.pixels(1)).quantize(16)
  data = image_files.encode(palette, 'PNG', transparency=bytes(range(16)))
  np.testing.assert_array_equal(
    decoding.decode(data), np.asarray(palette.convert('RGB'))
  )


def test_a_grey_image_of_16_bits_is_scaled_in_every_format():
  deep = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80
  expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=-1)
  for kind in ('PNG', 'TIFF', 'PPM'):
    data = image_files.encode(PIL.Image.fromarray(deep), kind)
    np.testing.assert_array_equal(decoding.decode(data), expected)


# Cut off at 0 and 255, or shifted, they would be black.
@pytest.mark.parametrize('dtype', [np.float32, np.int32])
def test_values_of_unknown_range_are_refused(dtype):
  image = np.ones((4, 5), dtype)
  data = image_files.encode(PIL.Image.fromarray(image), 'TIFF')
  with pytest.raises(decoding.UndecodableError, match='32 bits and no known'):
    decoding.decode(data)


def _deep(bits, kind, channels):
  """A file of 16 bits, of whose values so many are used."""
  ramp = np.linspace(0, 2**bits - 1, 64).round().astype(np.uint16)
  image = np.tile(ramp[None, :, None], (64, 1, channels))
  if kind == '.ppm' and channels == 1:
    kind = '.pgm'
  if channels == 4:
    image[..., 3] = 65535
  lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
  options = lossless if kind == '.jp2' else []
  return cv2.imencode(kind, image.squeeze(), options)[1].tobytes()


@pytest.mark.parametrize('kind', ['.png', '.tiff', '.ppm', '.jp2'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_16_bits_never_become_black_without_a_word(kind, channels):
  if channels == 4 and kind in ('.ppm', '.jp2'):
    pytest.skip('has no transparency here')
  full = decoding.decode(_deep(16, kind, channels))
  assert full.max() > 250
  assert len(np.unique(full)) > 50
  for bits in (8, 10, 12):
    with pytest.raises(decoding.UndecodableError, match='nearly black'):
      decoding.decode(_deep(bits, kind, channels))
  with pytest.warns(UserWarning, match='14 bits.*come out dark'):
    dark = decoding.decode(_deep(14, kind, channels))
  assert dark.max() in (63, 64)


def _bmp_of_16_bits_for_all_channels(value):
  """4 x 1 pixels of 5, 6 and 5 bits."""
  masks = struct.pack('<III', 0xF800, 0x07E0, 0x001F)
  info = struct.pack('<IiiHHIIiiII', 40, 4, 1, 1, 16, 3, 8, 0, 0, 0, 0)
  pixels = struct.pack('<H', value) * 4
  size = 14 + len(info + masks + pixels)
  header = struct.pack('<2sIII', b'BM', size, 0, 14 + len(info + masks))
  return header + info + masks + pixels


def test_16_bits_for_all_channels_are_no_deep_image():
  dark = decoding.decode(_bmp_of_16_bits_for_all_channels(0x0821))
  assert dark.shape == (1, 4, 3)
  assert 0 < dark.max() < 16


def test_what_is_dark_in_8_bits_or_black_in_16_is_as_it_is():
  dark = np.full((9, 9, 3), 7, np.uint8)
  for kind in ('PNG', 'BMP', 'TIFF', 'JPEG2000', 'PPM'):
    decoded = decoding.decode(image_files.encode(dark, kind))
    np.testing.assert_array_equal(decoded, dark)
  black = image_files.encode(np.zeros((9, 9), np.uint16), 'PNG')
  assert not decoding.decode(black).any()


def _sampled(luminance, *others):
  """A JPEG of 32 x 32 pixels with other sampling factors of Y, Cb and Cr.

  As many blocks as in 4:2:0 make a unit, so its data are those of such a JPEG.
  """
  jpeg = bytearray(
    image_files.encode(image_files.pixels(3, 32, 32), subsampling=2)
  )
  at = jpeg.index(b'\xff\xc0') + 11
  assert jpeg[at] == 0x22
  jpeg[at : at + 9 : 3] = bytes([luminance, *(others or (0x11, 0x11))])
  return bytes(jpeg)


@pytest.mark.parametrize('factors', [(0x14,), (0x41,), (0x22,)])
def test_unusual_sampling_is_decoded(factors):
  """0x14 is 4:4:1, for which simplejpeg has no name."""
  data = _sampled(*factors)
  assert decoding.dimensions(data) == (32, 32)
  expected = np.asarray(PIL.Image.open(io.BytesIO(data)).convert('RGB'))
  difference = np.abs(decoding.decode(data) - expected.astype(int))
  assert difference.mean() < 3  # the fast transform
  assert _random_crop(data, 8).shape == (8, 8, 3)
  with pytest.raises(decoding.UndecodableError):
    decoding.decode(data[: len(data) // 2] + data[-2:])


@pytest.mark.parametrize(
  'factors', [(0x22, 0x21, 0x11), (0x21, 0x12, 0x11), (0x31,), (0x13,)]
)
def test_sampling_that_libjpeg_turbo_refuses_is_left_to_pillow(factors):
  """Of other blocks than there are, so some are missing; not a header's end."""
  data = _sampled(*factors)
  assert decoding.dimensions(data) == (32, 32)
  assert decoding.decode(data).shape == (32, 32, 3)


def _claim_jpeg(height, width, **options):
  jpeg = bytearray(image_files.encode(image_files.pixels(1), **options))
  at = jpeg.index(b'\xff\xc2' if options else b'\xff\xc0') + 5
  jpeg[at : at + 4] = struct.pack('>HH', height, width)
  return bytes(jpeg)


def _claim_png(height, width):
  png = bytearray(image_files.encode(image_files.pixels(1), 'PNG'))
  png[16:24] = struct.pack('>II', width, height)
  png[29:33] = struct.pack('>I', zlib.crc32(png[12:29]))
  return bytes(png)


def _claim_bmp(height, width):
  bmp = bytearray(image_files.encode(image_files.pixels(1), 'BMP'))
  bmp[18:26] = struct.pack('<ii', width, height)
  return bytes(bmp)


def _claim_gif(height, width):
  grey = PIL.Image.fromarray(image_files.pixels(1)).convert('L')
  gif = bytearray(image_files.encode(grey, 'GIF'))
  gif[6:10] = struct.pack('<HH', width, height)
  return bytes(gif)


@pytest.mark.parametrize(
  'claim',
  [
    _claim_jpeg,
    functools.partial(_claim_jpeg, progressive=True),
    _claim_png,
    _claim_bmp,
    _claim_gif,
  ],
)
def test_a_header_that_claims_too_much_is_refused_at_once(claim, monkeypatch):
  data = claim(30_000, 30_000)
  for module, name in ((simplejpeg, 'decode_jpeg'), (PIL.Image.Image, 'load')):
    monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail('decodes'))
  for read in (
    decoding.dimensions,
    decoding.decode,
    functools.partial(decoding.center_crop, size=8),
    functools.partial(_random_crop, size=8),
  ):
    with pytest.raises(decoding.UndecodableError, match='more than 89,478,485'):
      read(data)


def _random_crop(data, size, seed=0):
  return decoding.random_crop(data, size, np.random.default_rng(seed))


@pytest.mark.parametrize('reduction', [1, 2, 4, 8])
def test_a_reduced_jpeg_is_the_mean_of_its_pixels(reduction):
  image = image_files.pixels(2, 64, 96)
  reduced = decoding.decode(image_files.encode(image, subsampling=0), reduction)
  height, width = 64 // reduction, 96 // reduction
  means = image.reshape(height, reduction, width, reduction, 3).mean((1, 3))
  assert reduced.shape == means.shape
  assert np.abs(reduced - means).max() < 12


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (3, 2)])
def test_tiny_images_are_enlarged(size):
  data = image_files.encode(np.full((*size, 3), 77, np.uint8), 'PNG')
  for crop in (decoding.center_crop, _random_crop):
    np.testing.assert_array_equal(crop(data, 8), np.full((8, 8, 3), 77))


def test_a_random_crop_is_what_its_box_says(monkeypatch):
  image = image_files.pixels(3, 40, 60)
  data = image_files.encode(image, 'PNG')
  box = decoding.Box(5, 20, 16, 16)
  monkeypatch.setattr(decoding, 'sample_box', lambda *args: box)
  np.testing.assert_array_equal(_random_crop(data, 16), image[5:21, 20:36])


@pytest.mark.parametrize('reduction', [1, 2, 4])
def test_a_large_crop_is_decoded_at_a_reduced_scale(monkeypatch, reduction):
  image = image_files.pixels(4, 160, 240)
  data = image_files.encode(image, subsampling=0)
  side = 16 * reduction
  box = decoding.Box(32, 48, side, side)
  monkeypatch.setattr(decoding, 'sample_box', lambda *args: box)
  asked = []
  decode = decoding.decode
  monkeypatch.setattr(
    decoding, 'decode', lambda data, r=1: asked.append(r) or decode(data, r)
  )
  crop = _random_crop(data, 16)
  assert asked == [reduction]
  part = image[32 : 32 + side, 48 : 48 + side]
  means = part.reshape(16, reduction, 16, reduction, 3).mean((1, 3))
  assert np.abs(crop - means).max() < 12


def test_boxes_are_those_of_tensorflow():
  """Areas, ratios and places lie in their bounds, and reach them."""
  height, width = 300, 400
  rng = np.random.default_rng(0)
  boxes = np.array(
    [decoding.sample_box(rng, height, width) for _ in range(4000)]
  )
  top, left, h, w = boxes.T
  assert (top >= 0).all()
  assert (left >= 0).all()
  assert (top + h <= height).all()
  assert (left + w <= width).all()
  share, ratio = h * w / (height * width), w / h
  assert 0.1 <= share.min() < 0.105
  assert 0.97 < share.max() <= 1
  assert 0.74 < ratio.min() < 0.76
  assert 1.32 < ratio.max() < 1.345
  # The height is uniform between bounds that the ratio sets: of a square,
  # between sqrt(.08 * area) = 98 and 300, but areas below .1 (110) are drawn
  # anew. Standard deviation of the mean of 950 of them: 1.8; four of them.
  square = h[np.abs(ratio - 1) < 0.07]
  assert len(square) > 500
  assert abs(square.mean() - (110 + 300) / 2) < 8
  # Places: the mean of what is left over on either side is the same.
  assert abs((top - (height - h - top)).mean()) < 4


def test_a_box_that_cannot_be_is_the_crop_of_evaluation():
  image = image_files.pixels(5, 4, 400)
  data = image_files.encode(image, 'PNG')
  assert decoding.sample_box(np.random.default_rng(0), 4, 400) is None
  np.testing.assert_array_equal(
    _random_crop(data, 8), decoding.center_crop(data, 8)
  )


def test_the_crop_follows_from_the_generator():
  data = image_files.encode(image_files.pixels(6))
  crops = [_random_crop(data, 16, seed) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(crops[0], crops[1])
  assert (crops[0] != crops[2]).any()


def _damaged_jpegs():
  """Files whose end is there: libjpeg makes up pixels, and only warns."""
  # Of noise: of a smooth picture next to nothing is coded.
  rng = np.random.default_rng(0)
  image = PIL.Image.fromarray(rng.integers(0, 256, (64, 96, 3), np.uint8))
  garbage = rng.integers(0, 256, 500, np.uint8).tobytes()
  for name, mode, options in (
    ('jpeg', 'RGB', {}),
    ('progressive jpeg', 'RGB', {'progressive': True}),
    ('grey jpeg', 'L', {}),
    ('jpeg of inks', 'CMYK', {}),
    ('jpeg with restarts', 'RGB', {'restart_marker_blocks': 4}),
  ):
    jpeg = image_files.encode(image.convert(mode), **options)
    start = jpeg.rindex(b'\xff\xda') + 20  # within the last scan
    middle = (start + len(jpeg)) // 2
    yield f'{name} ended early', jpeg[:middle] + jpeg[-2:]
    yield f'{name} blank', jpeg[:start] + bytes(len(jpeg) - start) + jpeg[-2:]
    yield f'{name} of garbage', jpeg[:middle] + garbage + jpeg[middle + 500 :]
  odd = _with_an_odd_version(image_files.encode(image))
  yield 'odd version ended early', odd[: len(odd) // 2] + odd[-2:]
  yield 'restarts patched', jpeg[:middle] + bytes(100) + jpeg[middle + 100 :]


def _damaged():
  image = image_files.pixels(7, 64, 64)
  jpeg, png = image_files.encode(image), image_files.encode(image, 'PNG')
  yield 'empty', b''
  yield 'text', b'<html>not found</html>'
  yield 'jpeg cut off', jpeg[: len(jpeg) // 2]
  yield 'jpeg header only', jpeg[:20]
  yield 'png cut off', png[: len(png) // 2]
  yield from _damaged_jpegs()


@pytest.mark.parametrize(
  ('data', 'crop'),
  [
    pytest.param(data, crop, id=f'{name}-{crop.__name__}')
    for (name, data), crop in itertools.product(
      _damaged(), (decoding.center_crop, _random_crop)
    )
  ],
)
def test_what_cannot_be_decoded_is_one_kind_of_error(data, crop):
  with pytest.raises(decoding.UndecodableError):
    crop(data, 16)
