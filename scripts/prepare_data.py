"""Prepares a data set for training, or checks one that is there.

    python scripts/prepare_data.py oxford_flowers102
    python scripts/prepare_data.py imagenet2012 --manual_dir=DOWNLOADS
    python scripts/prepare_data.py image_folder --directory=DIR --check
    python scripts/prepare_data.py --list

What tensorflow-datasets has is downloaded and written as array_record files, in
an environment of its own, as only this needs TensorFlow: ~/.cache/sam_jax/
prepare-env, 1.5 GB, made the first time. Files that are there already are taken
from --manual_dir (ImageNet's archives have to be), or from the downloads folder
of tensorflow-datasets. Data sets in folders are yours to put there: this says
how, and verifies them.

In the end, and with --check only this: the number of examples of each split is
compared with what is known, every image is decoded, and those that cannot be
are listed. Exit status 0 if all is well, 1 if not, 2 if nothing could be done.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence

import numpy as np
import tqdm
from absl import app, flags, logging

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import datasets
from sam_jax.datasets import decoding, large

_DIRECTORY = flags.DEFINE_string(
  'directory',
  None,
  'Where the data are, or go; for tensorflow-datasets, its own place if none.',
)
_MANUAL_DIR = flags.DEFINE_string(
  'manual_dir', None, 'Where files are that have been downloaded by hand.'
)
_CHECK = flags.DEFINE_bool('check', False, 'Only check what is there.')
_LIST = flags.DEFINE_bool('list', False, 'Print what is known of each set.')

_ENVIRONMENT = pathlib.Path.home() / '.cache' / 'sam_jax' / 'prepare-env'
_PACKAGES = (
  'tensorflow-cpu>=2.18',
  'tensorflow-datasets>=4.9.9',
  # What it needs to write, and to read some archives, without listing it.
  'array_record>=0.8.1',
  'importlib_resources>=6.4',
  'scipy>=1.14',
)
# What runs there; tensorflow-datasets' own command wants Apache Beam.
_PROGRAM = """
import sys
import tensorflow_datasets as tfds
name, directory, manual = sys.argv[1:]
builder = tfds.builder(
  name, data_dir=directory or None, file_format='array_record'
)
config = tfds.download.DownloadConfig(manual_dir=manual or None)
builder.download_and_prepare(download_config=config)
"""
# Small sets that are read into memory when they are trained on, and how many
# examples they have to train on and to test.
_IN_MEMORY = {
  'cifar10': (50_000, 10_000),
  'cifar100': (50_000, 10_000),
  'fashion_mnist': (60_000, 10_000),
  'svhn_cropped': (604_388, 26_032),
}
_MAX_LISTED = 20


def main(argv: Sequence[str]) -> None:
  if not logging.get_verbosity():  # the libraries' chatter, unless asked for
    logging.set_verbosity(logging.WARNING)
  if _LIST.value:
    return _print_facts()
  known = sorted({*_IN_MEMORY, *large.BY_NAME, 'image_folder'})
  if len(argv) != 2 or argv[1] not in known:
    _exit(2, f'give the name of one data set: {", ".join(known)}')
  name = argv[1]
  try:
    if not _CHECK.value and not _is_folder(name):
      _prepare(name)
    is_good = _verify(name)
  except (ValueError, OSError, subprocess.CalledProcessError) as error:
    _exit(2, f'{error}{_hint(name)}')
  sys.exit(0 if is_good else 1)


def _exit(status: int, message: str) -> None:
  """Ends the program with one line."""
  print(f'prepare_data: {message}', file=sys.stderr)
  sys.exit(status)


def _is_folder(name: str) -> bool:
  """Whether a set is read from folders of images."""
  return name == 'image_folder' or (
    name in large.BY_NAME and large.BY_NAME[name].is_folder
  )


def _hint(name: str) -> str:
  """Returns how the files of a set in folders are expected."""
  if not _is_folder(name):
    return ''
  facts = large.BY_NAME.get(name)
  if facts is None:
    return (
      '; expected: DIRECTORY/train/CLASS/*.jpg and DIRECTORY/test/CLASS/*.jpg '
      '(or val/CLASS/)'
    )
  sizes = f'{sum(facts.train.values()):,} and {sum(facts.test.values()):,}'
  return (
    f'; expected: --directory with train/CLASS/*.jpg and test/CLASS/*.jpg, '
    f'{facts.num_classes} classes, {sizes} images ({facts.home}; by its own '
    'lists, validation images counted as training ones)'
  )


def _print_facts() -> None:
  """Prints the table of the large sets."""
  print(f'{"name":20}{"classes":>8}{"train":>11}{"test":>9}  source')
  for name, facts in large.BY_NAME.items():
    source = 'folders' if facts.is_folder else 'tensorflow-datasets'
    train, test = (sum(s.values()) for s in (facts.train, facts.test))
    print(
      f'{name:20}{facts.num_classes:>8}{train:>11,}{test:>9,}  {source}, '
      f'{facts.home}'
    )


def _prepare(name: str) -> None:
  """Runs tensorflow-datasets' own preparation in its environment."""
  python = _ENVIRONMENT / 'bin' / 'python'
  if not python.exists():
    print(f'making {_ENVIRONMENT} with {", ".join(_PACKAGES)}', flush=True)
    venv.create(_ENVIRONMENT, with_pip=True)
  subprocess.run(
    [python, '-m', 'pip', 'install', '--quiet', *_PACKAGES], check=True
  )
  arguments = (name, _DIRECTORY.value or '', _MANUAL_DIR.value or '')
  done = subprocess.run([python, '-c', _PROGRAM, *arguments], check=False)
  if done.returncode:
    raise ValueError(
      f'tensorflow-datasets could not prepare {name}, see above; files that '
      'have been downloaded by hand are taken from --manual_dir'
    )


def _verify(name: str) -> bool:
  """Compares counts with what is known, and decodes everything."""
  directory = _DIRECTORY.value
  if directory is None and _is_folder(name):
    raise ValueError('--directory is missing')
  source = datasets.load_source(name, directory=directory)
  is_good = True
  for part, examples in _parts(source).items():
    count = sum(len(e.labels) for e in examples)
    line = f'{part}: {count:,} images of {source.num_classes} classes'
    expected = _expected(name).get(part, count)
    if count != expected:
      is_good = False
      line += f'; expected {expected:,}'
    print(line, flush=True)
    for e in examples:
      # Those in memory are decoded.
      if not isinstance(e.images, np.ndarray):
        is_good &= _decode_all(part, e)
  print(f'{name}: {"all is well" if is_good else "not all is well"}')
  return is_good


def _parts(source: datasets.Source) -> dict[str, list[datasets.Examples]]:
  """Returns the examples of each split that there is."""
  is_test = source.test is not source.validation  # else one serves as both
  parts = {
    'train': [source.train, source.extra],
    'test': [source.test if is_test else None],
    'validation': [source.validation],
  }
  there = {part: [e for e in es if e is not None] for part, es in parts.items()}
  return {part: examples for part, examples in there.items() if examples}


def _expected(name: str) -> dict[str, int]:
  """Returns how many examples the splits of a set have, where it is known."""
  if name in large.BY_NAME:
    facts = large.BY_NAME[name]
    return {p: sum(getattr(facts, p).values()) for p in ('train', 'test')}
  return dict(zip(('train', 'test'), _IN_MEMORY.get(name, ()), strict=False))


def _decode_all(part: str, examples: datasets.Examples) -> bool:
  """Decodes every image; lists those that cannot be."""
  damaged = list(_damaged(part, examples))
  for line in damaged[:_MAX_LISTED]:
    print(f'  {line}')
  if len(damaged) > _MAX_LISTED:
    print(f'  and {len(damaged) - _MAX_LISTED:,} more')
  return not damaged


def _damaged(part: str, examples: datasets.Examples) -> Iterator[str]:
  """Yields what is wrong with each image that cannot be decoded."""
  images = examples.images

  def problem(index: int) -> str | None:
    try:
      decoding.decode(images.read(index))
    except (decoding.UndecodableError, OSError) as error:
      return f'{images.name(index)}: {error}'
    return None

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    found = tqdm.tqdm(
      pool.map(problem, range(len(images)), chunksize=64),
      total=len(images),
      desc=f'decoding {part}',
      unit='image',
      disable=None,
    )
    yield from filter(None, found)


if __name__ == '__main__':
  app.run(main)
