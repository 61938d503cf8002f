r"""Prints what a trained model sees in images: classes and probabilities.

    python -m sam_jax.predict digits_cnn_sam digit.png
    python -m sam_jax.predict runs/a photo.jpg
    python -m sam_jax.predict runs/a photos/ --top_k=3 --format=csv > table.csv

The first argument is a run directory, or the name of a run that comes with the
package, such as digits_cnn_sam. The others are image files and folders, of
which all images are taken, those in deeper folders too. Images are prepared as
in an evaluation of the run. A run whose images are decoded to a chosen size,
such as those of image_folder and imagenet2012, crops the middle of images of
any size. A run of digits, Fashion-MNIST or CIFAR takes images of its size: 8 x
8, 28 x 28 or 32 x 32 pixels. For runs of grey images, colours become grey;
digits and clothes are light on a dark ground there.

Each image is a line: its path, and the most probable classes, the best one
first. --format=json has an object a line, --format=csv a table with a row for
each image and class.

Exit status: 0 done, 1 some of the images cannot be predicted, which are named,
2 the run, the checkpoint or every image is not usable.
"""

import contextlib
import csv
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sam_jax import _cli

if TYPE_CHECKING:
  from sam_jax.runs import loading, prediction

flags = _cli.Flags()
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'last', "'last', 'best', or a step."
)
_TOP_K = flags.DEFINE_integer(
  'top_k', 5, 'How many classes to print of each image.', lower_bound=1
)
_FORMAT = flags.DEFINE_enum(
  'format', 'text', ['text', 'json', 'csv'], 'What is printed.'
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size',
  256,
  'Images at once; the result does not depend on it.',
  lower_bound=1,
)
_NO_PLUGINS = _cli.define_no_plugins(flags)

Ranked = list[tuple[str, float]]  # classes and probabilities, the best first


def main(argv: Sequence[str]) -> int:
  """Does what the flags say; returns the exit status."""
  from sam_jax.runs import files, loading, prediction

  if len(argv) < 3:
    raise ValueError(
      'give a run directory, and then image files or folders: '
      'sam-predict RUN IMAGE_OR_FOLDER...'
    )
  paths = prediction.find([files.user_path(text) for text in argv[2:]])
  restored = loading.restore(
    argv[1],
    _cli.checkpoint(_CHECKPOINT.value),
    plugins=not _NO_PLUGINS.value,
  )
  _cli.cache_compilations()
  found = prediction.predict(restored, paths, _BATCH_SIZE.value)
  problems = _print(found, restored, len(paths))
  if len(problems) == len(paths):
    more = f' ({len(paths)} images in all)' if len(paths) > 1 else ''
    raise ValueError(f'{problems[0]}{more}')
  for problem in problems:
    _cli.say('predict', problem)
  return 1 if problems else 0


def _print(
  found: Iterable['prediction.Prediction'],
  restored: 'loading.Restored',
  total: int,
) -> list[str]:
  """Prints predictions as they come; returns what is wrong with the others."""
  import tqdm

  write, problems = _writer(), []
  # Lines on a terminal say how far it is themselves.
  is_shown = None if not sys.stdout.isatty() else True
  for each in tqdm.tqdm(found, total=total, unit=' images', disable=is_shown):
    if each.probabilities is None:
      problems.append(f'{each.path}: {each.problem}')
    else:
      write(each.path, _ranked(each.probabilities, restored.task.info))
  return problems


def _ranked(probabilities: np.ndarray, info: Any) -> Ranked:
  """Returns the most probable classes by name, or by number."""
  names = info.get('classes') or [str(i) for i in range(len(probabilities))]
  order = np.argsort(-probabilities, kind='stable')[: _TOP_K.value]
  return [(names[i], float(probabilities[i])) for i in order]


def _writer() -> Callable[[pathlib.Path, Ranked], None]:
  """Returns what prints an image in the format of the flag."""
  # A name of a file may have bytes that are no text.
  with contextlib.suppress(AttributeError):
    sys.stdout.reconfigure(errors='surrogateescape')  # type: ignore[union-attr]
  if _FORMAT.value == 'json':
    return _write_json
  if _FORMAT.value == 'text':
    return _write_text
  writer = csv.writer(sys.stdout, lineterminator='\n')
  writer.writerow(['file', 'rank', 'class', 'probability'])
  return lambda path, ranked: writer.writerows(
    [path, rank, name, f'{probability:.6f}']
    for rank, (name, probability) in enumerate(ranked, 1)
  )


def _write_text(path: pathlib.Path, ranked: Ranked) -> None:
  """Prints an image as people read it."""
  listed = (f'{name} {100 * probability:.1f} %' for name, probability in ranked)
  print(f'{path}: {", ".join(listed)}')


def _write_json(path: pathlib.Path, ranked: Ranked) -> None:
  """Prints an image as an object."""
  classes = [
    {'class': name, 'probability': round(probability, 6)}
    for name, probability in ranked
  ]
  print(json.dumps({'file': str(path), 'classes': classes}))


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'predict', flags)


if __name__ == '__main__':
  cli()
