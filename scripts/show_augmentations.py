r"""Draws what the network sees: a labelled grid of augmented training images.

    python scripts/show_augmentations.py --config=cifar10 \
        --config.augmentation.name=autoaugment --out=grid.png

Each row is one example of a batch: first as it is stored (of image files, its
crop in that batch), then as the network sees it in this and the following
steps, if each step had this batch. The images are those of the run with that
config to the last bit, normalisation undone; where they are mixed, so are the
labels above them.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli, _config_flag, datasets
from sam_jax.drawing import sheet, words
from sam_jax.runs import (
  build as build_lib,
  config_files,
  files,
  workdir as workdir_lib,
)
from sam_jax.training import layout as layout_lib, train_step

flags = _cli.Flags()
_CONFIG = _config_flag.ConfigFlag(flags)
_OUT = flags.DEFINE_string('out', None, 'Picture to write.', required=True)
_ROWS = flags.DEFINE_integer('rows', 8, 'Examples.', lower_bound=1)
_COLUMNS = flags.DEFINE_integer(
  'columns', 8, 'Augmented images of each.', lower_bound=1
)
_STEP = flags.DEFINE_integer('step', 0, 'The first step.', lower_bound=0)


def main(argv: Sequence[str]) -> None:
  _cli.refuse_arguments(argv[1:])
  config = _CONFIG.load()
  config_files.load_plugins(config)
  config = build_lib.resolve(config, jax.device_count())
  experiment = build_lib.build(config)
  rows = min(_ROWS.value, config.batch_size)
  size = config.microbatch_size
  num_microbatches = -(-rows // size)
  batch = next(
    datasets.train_batches(
      experiment.dataset.train,
      config.batch_size,
      seed=config.seed,
      start_step=_STEP.value,
      shard=(0, num_microbatches * size),
    )
  )
  see = _compile(experiment, num_microbatches)
  columns = [(_stored(batch['image']), batch['label'])]
  for step in range(_STEP.value, _STEP.value + _COLUMNS.value):
    images, labels = see(batch, step)
    columns.append((_denormalized(images, experiment.dataset), labels))
  names = ('data.name', 'augmentation.name', 'mixing.name')
  flat = workdir_lib.flatten(config)
  said = words.fields({name: flat[name] for name in names})
  title = f'Training images as the network sees them: {said}'
  _draw([(images[:rows], labels[:rows]) for images, labels in columns], title)
  print(
    f'{_OUT.value}: {rows} examples of {experiment.dataset.name}, stored and '
    f'in steps {_STEP.value} to {_STEP.value + _COLUMNS.value - 1}'
  )


def _compile(experiment: build_lib.Experiment, num_microbatches: int):
  """Returns `(batch, step) -> (images, labels)` as the network gets them.

  What is done to an image follows from its place in the batch and, where images
  are mixed, from its microbatch; so the first of these are all it takes.
  """
  size = experiment.layout.microbatch_size
  layout = layout_lib.create(num_microbatches * size, 1, size, size)
  fns = dataclasses.replace(experiment.fns, layout=layout)

  @jax.jit
  def see(batch, step):
    groups = jax.tree.map(
      lambda x: x.reshape(num_microbatches, size, *x.shape[1:]), batch
    )
    seen = jax.vmap(functools.partial(train_step.prepare, fns=fns, step=step))(
      groups
    )
    # Groups, microbatches and their examples are the batch again.
    return tuple(
      x.reshape(layout.batch_size, *x.shape[3:])
      for x in (seen['image'], seen['label'])
    )

  return see


def _stored(images: np.ndarray) -> np.ndarray:
  """Scales pixels to [0, 1]."""
  return images / 255


def _denormalized(images: jax.Array, dataset: datasets.Dataset) -> np.ndarray:
  """Undoes the normalisation."""
  return np.clip(np.asarray(images) * dataset.std + dataset.mean, 0, 1)


def _draw(columns: Sequence[tuple[np.ndarray, np.ndarray]], title: str) -> None:
  """Writes the grid."""
  num_rows, num_columns = len(columns[0][0]), len(columns)
  size = (1.1 * num_columns, 0.5 + 1.25 * num_rows)
  with sheet.picture(
    files.user_path(_OUT.value),
    size,
    title,
    rows=num_rows,
    columns=num_columns,
  ) as (_, axes):
    for j, (images, labels) in enumerate(columns):
      for axis, image, label in zip(axes[:, j], images, labels, strict=True):
        axis.imshow(image.squeeze(), cmap='gray', vmin=0, vmax=1)
        axis.set_title(_title(label), fontsize=7, pad=2)
        axis.set(xticks=[], yticks=[])
      name = 'stored' if j == 0 else f'step {_STEP.value + j - 1}'
      axes[-1, j].set_xlabel(name)


def _title(label: np.ndarray) -> str:
  """Returns a class, or the classes of a mixed image with their weights."""
  label = np.asarray(label)
  if label.ndim == 0:
    return str(label)
  classes = np.argsort(-label)[: np.count_nonzero(label > 0.005)]
  if len(classes) == 1:
    return str(classes[0])
  return ', '.join(f'{c}: {label[c]:.2f}' for c in classes)


def cli() -> None:
  _cli.run(main, 'show_augmentations', flags)


if __name__ == '__main__':
  cli()
