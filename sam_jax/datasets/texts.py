"""Texts: the embedded one, files of the user, and the King James Bible."""

import os
import pathlib
import platform
import struct
import subprocess

from sam_jax.datasets import text

# Files of a directory that are text, by the end of their names.
SUFFIXES = ('.txt', '.text', '.md', '.rst', '.tex')

BIBLE = pathlib.Path('/usr/lib/bible.data')
_MAGIC = b'EC02Compressed Data File'
# Where it says how long a piece is unpacked, the last one aside, and how many
# there are; after that, where each of them begins.
_TABLE = 0x54
_HEADER = b'\x1f\x9d\x90'  # of `compress`, which is there once for all pieces


@text.register('python_manual')
def python_manual(directory: str | None, seed: int) -> text.Text:
  """Loads the reference manual that every Python contains, about 0.4 MB.

  It has the topics of `help()`, in alphabetical order. Many of them are also a
  part of a longer one: a paragraph that has been there is left out, so that
  what is evaluated has not been trained on.

  Args:
    directory: has to be None.
    seed: unused.

  Raises:
    ValueError: a directory is given.
  """
  del seed
  if directory is not None:
    raise ValueError(
      "data.name='python_manual' is a part of Python; leave out data.directory"
    )
  from pydoc_data import topics

  seen: set[str] = set()
  paragraphs = []
  for topic in sorted(topics.topics):
    for paragraph in topics.topics[topic].split('\n\n'):
      words = ' '.join(paragraph.split())
      if words and words not in seen:
        seen.add(words)
        paragraphs.append(paragraph.strip('\n') + '\n\n')
  version = platform.python_version()
  return text.Text(
    ''.join(paragraphs).encode('utf-8'), f'the manual of Python {version}'
  )


@text.register('text')
def load(directory: str | None, seed: int) -> text.Text:
  """Loads a file, or all text files of a directory and those below it.

  Args:
    directory: path of the file, whatever its name; or of the directory, of
      which files that end in one of `SUFFIXES` are joined, in the order of
      their paths. What is hidden is left out.
    seed: unused.

  Raises:
    ValueError: the directory has no text file.
    FileNotFoundError: no path is given, or there is neither.
  """
  del seed
  if directory is None:
    raise FileNotFoundError(
      "data.name='text' needs data.directory, the path of a file or of a "
      f'directory with files {_suffixes()}'
    )
  place = pathlib.Path(directory)
  if not place.exists():
    raise FileNotFoundError(
      f'data.directory is {place}, and there is no such file or directory'
    )
  paths = _files(place) if place.is_dir() else [place]
  if not paths:
    raise ValueError(
      f'{place} has no text: no file {_suffixes()} in it or below it'
    )
  return text.Text(
    b''.join(map(_with_newline, paths)), f'the text {place.name}'
  )


@text.register('bible')
def bible(directory: str | None, seed: int) -> text.Text:
  """Loads the King James Bible of Debian's `bible-kjv-text`, 4.4 MB.

  One line is one verse, such as 'Ge1:1 In the beginning ...'.

  Args:
    directory: holds `bible.data`; None is where Debian puts it.
    seed: unused.

  Raises:
    FileNotFoundError: it is not there; says how to get it.
    ValueError: the file is damaged, or there is no `gzip` to unpack it.
  """
  del seed
  path = BIBLE if directory is None else pathlib.Path(directory) / BIBLE.name
  if not path.is_file():
    raise FileNotFoundError(
      f'there is no {path}; get it with "apt-get install bible-kjv-text", or '
      'unpack that package and give the directory of its bible.data'
    )
  return text.Text(_unpack(path), 'the King James Bible')


def _suffixes() -> str:
  """Returns the ends of names for a message."""
  return ', '.join(f'*{suffix}' for suffix in SUFFIXES)


def _files(place: pathlib.Path) -> list[pathlib.Path]:
  """Returns the text files of a directory and those below it, in order."""
  found = []
  for directory, inner, names in os.walk(place):
    inner[:] = [name for name in inner if not name.startswith('.')]
    found += [
      pathlib.Path(directory, name)
      for name in names
      if name.lower().endswith(SUFFIXES) and not name.startswith('.')
    ]
  return sorted(found, key=lambda path: path.relative_to(place).as_posix())


def _with_newline(path: pathlib.Path) -> bytes:
  """Returns the content of a file, whose last line ends."""
  content = path.read_bytes()
  return content if content.endswith(b'\n') or not content else content + b'\n'


def _unpack(path: pathlib.Path) -> bytes:
  """Returns the text of a `bible.data`: pieces by `compress`, after a table."""
  data = path.read_bytes()
  try:
    if not data.startswith(_MAGIC):
      raise ValueError('it begins otherwise')
    size, count = struct.unpack_from('>2I', data, _TABLE)
    starts = struct.unpack_from(f'>{count}I', data, _TABLE + 8)
    ends = [*starts[1:], len(data)]
    packed = [data[i:j] for i, j in zip(starts, ends, strict=True)]
    pieces = [_uncompress(piece) for piece in packed]
    if any(len(piece) != size for piece in pieces[:-1]):
      raise ValueError('a piece has another length than it should have')
    return b''.join(pieces)
  except FileNotFoundError as error:
    raise ValueError(
      f'{path} is compressed, and there is no program gzip to unpack it'
    ) from error
  except (ValueError, struct.error, subprocess.CalledProcessError) as error:
    raise ValueError(
      f'{path} is no bible.data of Debian, or is damaged ({error}); install '
      'bible-kjv-text again'
    ) from error


def _uncompress(piece: bytes) -> bytes:
  """Returns what a piece holds; Python has nothing for LZW."""
  return subprocess.run(
    ['gzip', '-dc'], input=_HEADER + piece, capture_output=True, check=True
  ).stdout
