"""Trained runs that come with the package, and can be given by name.

`digits_cnn_sgd` and `digits_cnn_sam` are two runs of the demo: a CNN on
scikit-learn's digits, 40 % of whose training labels are wrong, trained with SGD
and with SAM (seed 0). On clean test images SGD is wrong about 37.26 %, SAM
about 4.14 %. A name stands wherever a run that exists can be given: in
`sam_jax.load`, in --workdir of the commands evaluate and analyze, in predict,
and in config.init_from.

    python -m sam_jax.evaluate --workdir=digits_cnn_sam

A run is unpacked into the user's cache when it is first used, so that results
of an analysis and predictions can be written beside it. scripts/ship_runs.py
has trained and packed them.
"""

import hashlib
import os
import pathlib
import secrets
import shutil
import zipfile

from sam_jax.runs import files

DIRECTORY = pathlib.Path(__file__).parent / 'shipped_runs'
_ARCHIVE = '.zip'


def names() -> list[str]:
  """Returns the names of the runs, sorted."""
  return sorted(path.stem for path in DIRECTORY.glob(f'*{_ARCHIVE}'))


def find(text: str | pathlib.Path) -> pathlib.Path:
  """Returns the absolute path of a run that a user means.

  Args:
    text: path; or the name of a shipped run, if no such path exists.

  Raises:
    ValueError: see `files.user_path`, or the run cannot be unpacked.
  """
  path = files.user_path(text)
  if path.exists() or str(text) not in names():
    return path
  return _unpacked(DIRECTORY / f'{text}{_ARCHIVE}')


def _unpacked(archive: pathlib.Path) -> pathlib.Path:
  """Returns where the run in an archive is, after unpacking it if need be."""
  # Another version of the package may have another run of this name.
  digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:8]
  cache = files.user_path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
  place = cache / 'sam_jax' / 'runs' / digest / archive.stem
  if place.exists():
    return place
  partial = place.with_name(
    f'{place.name}.{secrets.token_hex(4)}{files.PARTIAL}'
  )
  try:
    with zipfile.ZipFile(archive) as packed:
      packed.extractall(partial)
    try:
      partial.rename(place)
    except OSError:
      if not place.exists():  # else another process was faster
        raise
  except OSError as error:
    raise ValueError(
      f'the run {archive.stem} cannot be unpacked into {place}: '
      f'{error.strerror or error}; set XDG_CACHE_HOME to a directory that can '
      'be written to'
    ) from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return place
