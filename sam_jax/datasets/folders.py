"""What counts as a class, and as an image, in folders that people have.

Operating systems, network disks and archives leave folders and files of their
own beside the images; those are passed over in silence. Whatever else is left
out is named in one line. Names are compared in their composed Unicode form
(NFC): macOS writes an accent as a character of its own, Linux does not.
"""

import collections
import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from absl import logging

from sam_jax import extras
from sam_jax.datasets import encoded

# In lower case; hidden files and folders, with a dot in front, are not listed.
_LITTER = frozenset(
  (
    '#recycle',
    '#snapshot',
    '$recycle.bin',
    '@eadir',
    '@recently-snapshot',
    '@recycle',
    '@sharebin',
    '@snapshot',
    '@tmp',
    '__macosx',
    '__pycache__',
    'cvs',
    'desktop.ini',
    'ehthumbs.db',
    'found.000',
    'icon\r',
    'lost+found',
    'recycler',
    'system volume information',
    'thumbs.db',
  )
)

Classes = Mapping[str, Sequence[pathlib.Path]]
_Folder = tuple[int, int]  # device and inode


@dataclasses.dataclass
class _LeftOut:
  """Files that are not taken as images; the first of each kind by name."""

  suffixes: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  special: int = 0  # pipes, sockets, devices, links to nothing
  outside: int = 0  # images in no class
  examples: dict[str, str] = dataclasses.field(default_factory=dict)

  def describe(self) -> str:
    """Returns the kinds in words, '' if there are none."""
    kinds = []
    if self.suffixes:
      listed = ', '.join(f'{n} {s}' for s, n in self.suffixes.most_common(5))
      count, example = self.suffixes.total(), self.examples['suffix']
      kinds.append(
        f'{count} with a suffix that no image has ({listed}; such as '
        f'{example!r})'
      )
    if self.special:
      example = self.examples['special']
      kinds.append(f'{self.special} not regular (such as {example!r})')
    if self.outside:
      example = self.examples['outside']
      kinds.append(f'{self.outside} in no class folder (such as {example!r})')
    return ', '.join(kinds)


def classes(folder: pathlib.Path) -> Classes:
  """Returns the class folders in a folder, by name, sorted.

  Folders whose names differ only by Unicode normalisation are of one class.

  Raises:
    ValueError: there are none.
    OSError: the folder cannot be read.
  """
  found = collections.defaultdict(list)
  for entry in _entries(folder):
    if _is_folder(entry):
      found[_composed(entry.name)].append(pathlib.Path(entry.path))
  if not found:
    raise ValueError(
      f'{folder} has no folders; it must have one for each class, with its '
      'images'
    )
  return dict(sorted(found.items()))


def find(
  root: pathlib.Path,
  folder: pathlib.Path,
  expected: Sequence[str],
  source: pathlib.Path,
) -> tuple[encoded.Files, np.ndarray]:
  """Returns all images of a split and their labels, sorted by class and name.

  Args:
    root: of the data set, which the names of files are relative to.
    folder: of the split, in `root`, or of a domain in one.
    expected: names of the classes.
    source: folder that they are from.

  Raises:
    ValueError: there are other classes, or one without images.
    OSError: a folder cannot be read.
  """
  found = classes(folder)
  if list(found) != list(expected):
    odd = sorted(set(found) ^ set(expected))
    raise ValueError(
      f'{folder} does not have the classes of {source}: {odd[0]!r} is '
      f'in one of them only, {len(odd)} such in all'
    )
  left_out = _LeftOut()
  images: list[tuple[str, int]] = []
  counts = []
  for name, places in found.items():
    of_class = [
      image for place in places for image in _images(folder, place, left_out)
    ]
    if not of_class:
      raise ValueError(
        f'{places[0]} has no images; add some, or remove the folder {name!r} '
        'from every split; files are left out: '
        f'{left_out.describe() or "none"} ({_known()})'
      )
    images += sorted(of_class, key=lambda image: (_composed(image[0]), image))
    counts.append(len(of_class))
  _count_outside(folder, left_out)
  if text := left_out.describe():
    logging.warning('%s: files are left out: %s', folder, text)
  labels = np.repeat(np.arange(len(found)), counts).astype(np.int32)
  place = folder.relative_to(root).as_posix()
  names = [f'{place}/{name}' for name, _ in images]
  return encoded.Files(names, str(root), [size for _, size in images]), labels


def images(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns all images in a folder and below it, sorted by name.

  Raises:
    ValueError: there are none.
    OSError: a folder cannot be read.
  """
  left_out = _LeftOut()
  names = [name for name, _ in _images(folder, folder, left_out)]
  if not names:
    raise ValueError(
      f'{folder} has no images; files are left out: '
      f'{left_out.describe() or "none"} ({_known()})'
    )
  if text := left_out.describe():
    logging.warning('%s: files are left out: %s', folder, text)
  return [folder / name for name in sorted(names, key=_composed)]


def num_folders(folder: pathlib.Path) -> int:
  """Returns how many folders there are in a folder that could be classes."""
  return sum(map(_is_folder, _entries(folder)))


def _known() -> str:
  """Returns the suffixes of images in words."""
  return f'known are {" ".join(sorted(_suffixes()))}'


def _suffixes() -> Collection[str]:
  """Returns those of image files."""
  # Imported here because only these data sets need its libraries.
  with extras.required():
    from sam_jax.datasets import decoding
  return decoding.suffixes()


def _images(
  folder: pathlib.Path, place: pathlib.Path, left_out: _LeftOut
) -> Iterator[tuple[str, int]]:
  """Yields name and size of the images below a place in a split's folder."""
  known, start = _suffixes(), len(f'{folder}{os.sep}')
  for entry in _files(place):
    name = entry.path[start:]
    suffix = os.path.splitext(entry.name)[1].lower()
    if not _is_regular(entry):
      left_out.special += 1
      left_out.examples.setdefault('special', name)
    elif suffix not in known:
      left_out.suffixes[suffix or 'without one'] += 1
      left_out.examples.setdefault('suffix', name)
    else:
      yield name, entry.stat().st_size


def _count_outside(folder: pathlib.Path, left_out: _LeftOut) -> None:
  """Takes note of the images that lie beside the class folders."""
  known = _suffixes()
  for entry in _entries(folder):
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in known and _is_regular(entry):
      left_out.outside += 1
      left_out.examples.setdefault('outside', entry.name)


def _files(place: pathlib.Path) -> Iterator[os.DirEntry[str]]:
  """Yields all files below a place, in an order that the names decide on.

  A folder that several links lead to is visited once, and a link to a folder
  that it lies in is not followed.
  """
  seen: set[_Folder] = set()
  pending = [(str(place), _parents(str(place)))]
  while pending:
    path, above = pending.pop()
    folder = _identify(path)
    if folder in seen or folder in above:
      continue
    seen.add(folder)
    deeper = []
    for entry in _entries(path):
      if not _is_folder(entry):
        yield entry
      elif entry.is_symlink():
        deeper.append((entry.path, above | {folder} | _parents(entry.path)))
      else:
        deeper.append((entry.path, above | {folder}))
    pending += reversed(deeper)


def _parents(path: str) -> frozenset[_Folder]:
  """Returns the folders that one lies in, wherever links to it are."""
  return frozenset(map(_identify, pathlib.Path(path).resolve().parents))


def _identify(path: str | pathlib.Path) -> _Folder:
  """Returns what is the same for all names of a folder."""
  status = os.stat(path)
  return status.st_dev, status.st_ino


def _entries(folder: str | pathlib.Path) -> list[os.DirEntry[str]]:
  """Returns what is in a folder, sorted by name, without litter."""
  with os.scandir(folder) as entries:
    kept = [entry for entry in entries if not _is_litter(entry.name)]
  return sorted(kept, key=lambda entry: (_composed(entry.name), entry.name))


def _is_litter(name: str) -> bool:
  """Whether a file or folder is nobody's on purpose."""
  return name.startswith('.') or name.lower() in _LITTER


def _composed(name: str) -> str:
  """Returns a name in the form in which names are compared."""
  return unicodedata.normalize('NFC', name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
  """Whether it is a folder, or a link to one."""
  try:
    return entry.is_dir()
  except OSError:  # a link to itself
    return False


def _is_regular(entry: os.DirEntry[str]) -> bool:
  """Whether it is a file that can be read to its end, or a link to one."""
  try:
    return entry.is_file()
  except OSError:  # a link to itself
    return False
