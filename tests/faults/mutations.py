"""Damaged inputs: what disks, networks, editors and cameras leave of a file."""

import struct

import numpy as np

# Values at which code that trusts a length or a number fails.
_NUMBERS = (b'-1', b'0', b'1e999', b'NaN', b'9' * 40, b'null', b'[]', b'""')
_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_MAX_CHANGES = 3


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
  """Returns a content with one to three damages of any kind."""
  for _ in range(rng.integers(1, _MAX_CHANGES + 1)):
    content = _KINDS[rng.integers(len(_KINDS))](content, rng)
  return content


def _place(content, rng):
  """A place in the content; the header is hit as often as all the rest."""
  end = min(len(content), 64) if rng.random() < 0.5 else len(content)
  return int(rng.integers(end + 1))


def _span(content, rng):
  """A short or a long part of the content."""
  start = _place(content, rng)
  longest = 8 if rng.random() < 0.5 else max(len(content), 1)
  return start, start + int(rng.integers(1, longest + 1))


def _flip_a_bit(content, rng):
  changed = bytearray(content)
  if changed:
    place = min(_place(content, rng), len(changed) - 1)
    changed[place] ^= 1 << int(rng.integers(8))
  return bytes(changed)


def _truncate(content, rng):
  return content[: _place(content, rng)]


def _remove(content, rng):
  start, end = _span(content, rng)
  return content[:start] + content[end:]


def _repeat(content, rng):
  start, end = _span(content, rng)
  return content[:end] + content[start:end] + content[end:]


def _blank(content, rng):
  """A hole, as a file system leaves it after a power cut."""
  start, end = _span(content, rng)
  hole = content[start:end]
  return content[:start] + bytes(len(hole)) + content[end:]


def _scramble(content, rng):
  start, end = _span(content, rng)
  return content[:start] + rng.bytes(len(content[start:end])) + content[end:]


def _append(content, rng):
  return content + rng.bytes(int(rng.integers(1, 64)))


def _claim(content, rng):
  """An extreme number in place of a length or a size."""
  value = _EXTREMES[rng.integers(len(_EXTREMES))]
  form = ('<I', '>I', '<H', '>H', 'B')[rng.integers(5)]
  size = struct.calcsize(form)
  packed = struct.pack(form, value & (1 << 8 * size) - 1)
  start = _place(content, rng)
  return content[:start] + packed + content[start + size :]


def _write_a_number(content, rng):
  """An extreme number as text."""
  start, end = _span(content, rng)
  number = _NUMBERS[rng.integers(len(_NUMBERS))]
  return content[:start] + number + content[end:]


_KINDS = (
  _flip_a_bit,
  _truncate,
  _remove,
  _repeat,
  _blank,
  _scramble,
  _append,
  _claim,
  _write_a_number,
)
