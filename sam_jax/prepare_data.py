"""Prepares a data set for training, or checks one that is there.

    python -m sam_jax.prepare_data oxford_flowers102
    python -m sam_jax.prepare_data imagenet2012 --manual_dir=DOWNLOADS
    python -m sam_jax.prepare_data image_folder --directory=DIR --check
    python -m sam_jax.prepare_data --list

A data set that tensorflow-datasets has is downloaded and written as
array_record files. Only this needs TensorFlow, so it happens in an environment
of its own, ~/.cache/sam_jax/prepare-env (1.5 GB), which is made the first time.
Files that you have already are taken from --manual_dir (the archives of
ImageNet have to be there) or from the download folder of tensorflow-datasets. A
data set in folders is yours to put there: the command says how, and checks it.
So is a text. What is built in, such as the digits, needs no preparation and is
only checked. --list has all data sets, and says which of them are there.

At the end, and with --check only this: the number of examples of each split is
compared with the known number, every image is decoded, and those that cannot be
decoded are listed. A text is read, and cut into its splits. Exit status: 0 if
all is well, 1 if not, 2 if nothing could be done.
"""

import concurrent.futures
import os
import subprocess
import venv
from collections.abc import Iterator, Sequence

import numpy as np

from sam_jax import _cli, datasets, lookup
from sam_jax.datasets import decoding, encoded, facts, large, text
from sam_jax.runs import files

flags = _cli.Flags()
_DIRECTORY = flags.DEFINE_string(
  'directory',
  None,
  'Where the data are, or go; for tensorflow-datasets, its own place if none.',
)
_MANUAL_DIR = flags.DEFINE_string(
  'manual_dir', None, 'Where files are that have been downloaded by hand.'
)
_CHECK = flags.DEFINE_bool('check', False, 'Only check what is there.')
_LIST = flags.DEFINE_bool(
  'list',
  False,
  'List all data sets, and which of them are there (in --directory, if given).',
)

_ENVIRONMENT = '~/.cache/sam_jax/prepare-env'  # the one with TensorFlow
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
_MAX_LISTED = 20


def main(argv: Sequence[str]) -> int:
  """Does what the flags say; returns the exit status."""
  if _LIST.value:
    _cli.refuse_arguments(argv[1:])
    _print_list()
    return 0
  if len(argv) != 2:
    raise ValueError(
      f'give the name of one data set: {", ".join(facts.names())}; --list says '
      'what they are'
    )
  name = argv[1]
  lookup.check('data set', name, facts.names())
  if name in text.names():
    _read_text(name)
    return 0
  try:
    if not _CHECK.value and facts.find(name).is_prepared:
      _prepare(name)
    return 0 if _verify(name) else 1
  except (ValueError, OSError, subprocess.CalledProcessError) as error:
    raise ValueError(f'{error}{_hint(name)}') from error


def _read_text(name: str) -> None:
  """Reads a text as a run would, as bytes; prints how long its splits are."""
  # Files of tokens do not say their vocabulary, which has 16 bits at most.
  dataset = text.create(
    name,
    directory=_path(_DIRECTORY.value),
    split='validation',
    vocabulary_size=2**16,
  )
  unit = 'tokens' if dataset.tokenizer is None else 'bytes'
  for part, windows in dataset.splits.items():
    print(f'{part}: {len(windows.tokens):,} {unit}')
  print(f'{name}: all is well')


def _is_folder(name: str) -> bool:
  """Whether a set is read from folders of images."""
  return name == 'image_folder' or (
    name in large.BY_NAME and large.BY_NAME[name].is_folder
  )


def _hint(name: str) -> str:
  """Returns how the files of a set in folders are expected."""
  if not _is_folder(name):
    return ''
  known = large.BY_NAME.get(name)
  if known is None:
    return (
      '; expected: DIRECTORY/train/CLASS/*.jpg and DIRECTORY/test/CLASS/*.jpg '
      '(or val/CLASS/)'
    )
  sizes = f'{sum(known.train.values()):,} and {sum(known.test.values()):,}'
  return (
    f'; expected: --directory with train/CLASS/*.jpg and test/CLASS/*.jpg, '
    f'{known.num_classes} classes, {sizes} images ({known.home}; by its own '
    'lists, validation images counted as training ones)'
  )


def _print_list() -> None:
  """Prints a table of all data sets."""
  directory = _path(_DIRECTORY.value)
  print(
    f'{"name":18}{"there":7}{"classes":>7}{"train":>11}{"test":>8}  what it '
    'is; where it comes from'
  )
  for name in facts.names():
    known, is_there = facts.find(name), facts.is_present(name, directory)
    there = {None: '-', True: 'yes', False: 'no'}[is_there]
    sizes = (known.num_classes, known.train, known.test)
    classes, train, test = ('' if n is None else f'{n:,}' for n in sizes)
    about = f'{known.what}; {known.home}' if known.what else known.home
    print(f'{name:18}{there:7}{classes:>7}{train:>11}{test:>8}  {about}')
  print(
    'there: - is a set of your own files; give their --directory to look there'
  )


def _prepare(name: str) -> None:
  """Runs tensorflow-datasets' own preparation in its environment."""
  environment = files.user_path(_ENVIRONMENT)
  python = environment / 'bin' / 'python'
  if not python.exists():
    print(f'making {environment} with {", ".join(_PACKAGES)}', flush=True)
    venv.create(environment, with_pip=True)
  subprocess.run(
    [python, '-m', 'pip', 'install', '--quiet', *_PACKAGES], check=True
  )
  arguments = (
    name,
    _path(_DIRECTORY.value) or '',
    _path(_MANUAL_DIR.value) or '',
  )
  done = subprocess.run([python, '-c', _PROGRAM, *arguments], check=False)
  if done.returncode:
    raise ValueError(
      f'tensorflow-datasets could not prepare {name}, see above; files that '
      'have been downloaded by hand are taken from --manual_dir'
    )


def _path(text: str | None) -> str | None:
  """Returns the absolute path that a flag names, if it names one."""
  return None if text is None else str(files.user_path(text))


def _verify(name: str) -> bool:
  """Compares counts with what is known, and decodes everything."""
  directory = _path(_DIRECTORY.value)
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
        is_good &= _decode_all(part, e.images)
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
  known = facts.find(name)
  sizes = {'train': known.train, 'test': known.test}
  return {part: size for part, size in sizes.items() if size is not None}


def _decode_all(part: str, images: encoded.EncodedImages) -> bool:
  """Decodes every image; lists those that cannot be."""
  damaged = list(_damaged(part, images))
  for line in damaged[:_MAX_LISTED]:
    print(f'  {line}')
  if len(damaged) > _MAX_LISTED:
    print(f'  and {len(damaged) - _MAX_LISTED:,} more')
  return not damaged


def _damaged(part: str, images: encoded.EncodedImages) -> Iterator[str]:
  """Yields what is wrong with each image that cannot be decoded."""
  import tqdm

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


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'prepare_data', flags)


if __name__ == '__main__':
  cli()
