"""Seals: checksums by which damage of a run's files is noticed.

A JSON file of a run holds its content and, under `seal`, the id of the run and
a checksum of the content. The checksums (XXH3, at the rate of memory) find
damage, not forgery.
"""

import concurrent.futures
import errno
import json
import os
import pathlib
import stat
from collections.abc import Mapping
from typing import Any

from sam_jax import extras
from sam_jax.runs import files

_KEY = 'seal'
# What the system says of a file that is not there, or whose disk is broken.
_LASTING = {
  errno.EIO,
  errno.EISDIR,
  errno.ELOOP,
  errno.ENOENT,
  errno.ENOTDIR,
  errno.ENXIO,
}
# Of a large file, two threads read and sum parts: that takes two thirds of the
# time of one, and more than two are no faster.
_THREADS = 2
_PART_BYTES = 1 << 25
_BUFFER_BYTES = 1 << 21

# Of each file of a directory, by relative path: its size and checksum.
Inventory = dict[str, list[int]]


class Damaged(ValueError):  # noqa: N818  (named after what it says)
  """A file is not what was written; the message names it and says why."""


def checksum(content: Any, start: int = 0) -> int:
  """Returns the checksum of what can be written as JSON.

  Args:
    content: the order of keys does not matter.
    start: checksum of what precedes the content.
  """
  text = json.dumps(content, sort_keys=True)
  return _xxhash().xxh3_64_intdigest(text.encode('utf-8'), start)


def write(
  path: pathlib.Path,
  content: Mapping[str, Any],
  run_id: str,
  of: Any = None,
) -> None:
  """Writes a JSON file with its seal, see `files.write_atomically`.

  Args:
    path: of the file.
    content: a JSON object.
    run_id: of the run that it belongs to.
    of: what the checksum is of, if not of all content.
  """
  content = json.loads(json.dumps(content))  # as it will be read
  seal = {
    'run_id': run_id,
    'checksum': _checksum(path, run_id, content if of is None else of),
  }
  files.write_json(path, {**content, _KEY: seal})


def read(path: pathlib.Path) -> tuple[dict[str, Any], Any]:
  """Returns the content of a JSON file and its seal, None if it has none.

  Raises:
    FileNotFoundError: there is no such file.
    Damaged: it is no JSON object.
  """
  try:
    if path.exists() and not path.is_file():  # a pipe would be waited for
      raise Damaged(f'{path} is not a file')
    content = json.loads(path.read_text('utf-8'))
  except Damaged:
    raise
  except (FileNotFoundError, NotADirectoryError):
    raise FileNotFoundError(f'{path} is missing') from None
  except OSError as error:
    raise _damage(path, error) from error
  except (ValueError, RecursionError) as error:
    raise Damaged(f'{path} is not JSON: {error}') from error
  if not isinstance(content, dict):
    raise Damaged(f'{path} is not a JSON object')
  return content, content.pop(_KEY, None)


def open_sealed(
  path: pathlib.Path, run_id: str | None = None
) -> tuple[dict[str, Any], str]:
  """Returns the content of a sealed JSON file and the id of its run.

  Args:
    path: of the file.
    run_id: of the run that it has to belong to, None for any.

  Raises:
    FileNotFoundError: there is no such file.
    Damaged: it is not what was written, or is of another run.
  """
  content, seal = read(path)
  return content, check(path, seal, content, run_id)


def check(
  path: pathlib.Path, seal: Any, of: Any, run_id: str | None = None
) -> str:
  """Checks a seal, and returns the id of the run.

  Args:
    path: of the file, for the message.
    seal: see `read`.
    of: what the checksum is of.
    run_id: see `open_sealed`.

  Raises:
    Damaged: see `open_sealed`.
  """
  if not isinstance(seal, dict) or seal.keys() != {'run_id', 'checksum'}:
    raise Damaged(f'{path} is damaged: it has no seal of a run')
  if seal['checksum'] != _checksum(path, seal['run_id'], of):
    raise Damaged(f'{path} is damaged: its checksum does not fit')
  if run_id is not None and seal['run_id'] != run_id:
    raise Damaged(f'{path} belongs to another run')
  return seal['run_id']


def _checksum(path: pathlib.Path, run_id: str, of: Any) -> int:
  """Returns the checksum in a seal; no file can stand in for another one."""
  return checksum([path.name, run_id, of])


def take_inventory(directory: pathlib.Path) -> Inventory:
  """Returns what a directory holds, once it is safe from a power cut.

  Names that begin with a dot are not looked at.
  """
  sizes = _sizes(directory)
  for name in sizes:
    files.sync(directory / name)
  for parent, _, _ in os.walk(directory, topdown=False):
    files.sync(pathlib.Path(parent))
  checksums = _checksums(directory, sizes)
  return {name: [size, checksums[name]] for name, size in sizes.items()}


def check_inventory(directory: pathlib.Path, expected: Inventory) -> None:
  """Checks that a directory holds what it did when it was sealed.

  Args:
    directory: to look at.
    expected: by `take_inventory`.

  Raises:
    Damaged: it does not; the message names the first difference.
  """
  try:
    sizes = _sizes(directory)
    _compare(directory, sizes, {k: v[0] for k, v in expected.items()})
    found = _checksums(directory, sizes)
  except OSError as error:
    raise _damage(error.filename or directory, error) from error
  for name, (_, expected_checksum) in expected.items():
    if found[name] != expected_checksum:
      path = directory / name
      raise Damaged(f'{path} is damaged: its checksum does not fit')


def _damage(path: Any, error: OSError) -> OSError | Damaged:
  """Returns the error for a file that cannot be read.

  Only what will be so for ever is damage. What may pass, such as too many open
  files, or a network disk that does not answer, says nothing of the file.
  """
  if error.errno not in _LASTING:
    return error
  return Damaged(f'{path} cannot be read: {error.strerror}')


def _compare(
  directory: pathlib.Path,
  sizes: Mapping[str, int],
  expected: Mapping[str, int],
) -> None:
  """Refuses other files, or files of other sizes."""
  for name in sorted(sizes.keys() | expected.keys()):
    path, size = directory / name, sizes.get(name)
    if size is None:
      raise Damaged(f'{path} is missing')
    if name not in expected:
      raise Damaged(f'{path} does not belong there')
    if size != expected[name]:
      raise Damaged(f'{path} has {size} bytes in place of {expected[name]}')


def _sizes(directory: pathlib.Path) -> dict[str, int]:
  """Returns the size of each file below a directory, by relative path."""
  sizes = {}
  for parent, directories, names in os.walk(directory, onerror=_raise):
    directories[:] = sorted(d for d in directories if not d.startswith('.'))
    for name in sorted(n for n in names if not n.startswith('.')):
      path = pathlib.Path(parent, name)
      status = path.stat()
      # Whoever opens a pipe waits for its other end.
      size = status.st_size if stat.S_ISREG(status.st_mode) else -1
      sizes[path.relative_to(directory).as_posix()] = size
  return sizes


def _raise(error: OSError) -> None:
  """Makes a directory that cannot be read an error, not an empty one."""
  raise error


def _checksums(
  directory: pathlib.Path, sizes: Mapping[str, int]
) -> dict[str, int]:
  """Returns the checksum of each file: that of the checksums of its parts."""
  parts = [
    (directory / name, start, min(size - start, _PART_BYTES))
    for name, size in sizes.items()
    for start in range(0, max(size, 1), _PART_BYTES)
  ]
  with concurrent.futures.ThreadPoolExecutor(_THREADS, 'seal') as pool:
    digests = list(pool.map(_digest, *zip(*parts, strict=True)))
  of_files = {directory / name: _xxhash().xxh3_64() for name in sizes}
  for (path, *_), digest in zip(parts, digests, strict=True):
    of_files[path].update(digest)
  return {name: of_files[directory / name].intdigest() for name in sizes}


def _digest(path: pathlib.Path, start: int, size: int) -> bytes:
  """Returns the checksum of so many bytes of a file, from `start` on."""
  state = _xxhash().xxh3_64()
  buffer = memoryview(bytearray(min(size, _BUFFER_BYTES)))
  with path.open('rb', buffering=0) as stream:
    stream.seek(start)
    while size and (count := stream.readinto(buffer[:size])):
      state.update(buffer[:count])
      size -= count
  return state.digest()


def _xxhash() -> Any:
  """Returns the library of the checksums.

  Imported here because only the files of a run need it: a step is built and
  timed without it.
  """
  with extras.required():
    import xxhash
  return xxhash
