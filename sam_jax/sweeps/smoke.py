"""Cells cut down until a CPU takes a few steps of them in seconds.

That shows whether a sweep would run: its fields are taken, and its data are
there; synthetic images stand in for some that are not. It does not show what
the sweep would find.
"""

import functools
import pathlib
import re
from collections.abc import Iterable

import ml_collections

from sam_jax import datasets
from sam_jax.datasets import large
from sam_jax.sweeps import cells as cells_lib, overrides

_LENGTH: cells_lib.Fields = {
  'num_steps': 3,
  'schedule.warmup_epochs': 0.0,
  'eval_batch_size': 64,
}
_MAX_BATCH_SIZE = 16
_MAX_GROUPS, _MAX_PER_GROUP = 2, 2
_IMAGE_SIZE = 64
_FAKE: cells_lib.Fields = {'data.train_size': 1000}

# Synthetic images of the same kind, of as many classes or more.
STAND_INS = {
  'cifar10': 'fake_cifar10',
  'cifar100': 'fake_cifar100',
  'svhn_cropped': 'fake_cifar10',
  **dict.fromkeys(large.BY_NAME, 'fake_imagenet'),
}

# A small model of the same kind, by a pattern of the model's name.
_MODELS: dict[str, cells_lib.Fields] = {
  r'WideResnet\d+x\d+': {'model.name': 'WideResnet10x1'},
  r'ShakeShake\d+_2x\d+d': {'model.name': 'ShakeShake8_2x4d'},
  r'PyramidNet\d+': {'model.name': 'PyramidNet11', 'model.alpha': 12},
  r'Pyramid_ShakeDrop': {
    'model.name': 'Pyramid_ShakeDrop_mini',
    'model.alpha': 12,
  },
  r'Resnet\d+': {'model.name': 'Resnet50', 'model.width': 4},
  r'CifarResnet\d+': {'model.name': 'CifarResnet8'},
  r'PreactResnet32_wide': {'model.name': 'PreactResnet18'},
  r'efficientnet-.*': {
    'model.name': 'efficientnet-b0',
    'model.resolution': 32,
  },
  r'ViT-.*': {
    'model.name': 'vit',
    'model.patch': 16,
    'model.width': 8,
    'model.depth': 2,
    'model.heads': 2,
  },
  r'Mixer-.*': {
    'model.name': 'mixer',
    'model.patch': 16,
    'model.width': 8,
    'model.depth': 2,
  },
}


def cells(
  sweep: cells_lib.Sweep, chosen: Iterable[cells_lib.Fields]
) -> list[cells_lib.Fields]:
  """Returns the first replica of each kind of cell, cut down.

  Of cells that are equal when they are cut down, such as those of several
  values of m, one is left.

  Args:
    sweep: the sweep of the cells.
    chosen: some of its cells.
  """
  first: dict[str, cells_lib.Fields] = {}
  for cell in chosen:
    kind = {k: v for k, v in cell.items() if k not in sweep.replicas}
    first.setdefault(cells_lib.cell_name(kind), cell)
  nowhere = pathlib.Path()  # the directory of the runs does not matter here
  small = [
    overrides.with_fields(
      cell, fields(cells_lib.config(cell, nowhere)) | sweep.smoke
    )
    for cell in first.values()
  ]
  return list({cells_lib.cell_name(cell): cell for cell in small}.values())


def stand_ins(
  chosen: Iterable[cells_lib.Fields],
) -> tuple[list[cells_lib.Fields], list[str]]:
  """Returns cells with synthetic images in place of data that are missing.

  Args:
    chosen: cells at smoke scale.

  Returns:
    The cells, and a line for each data set that is replaced.
  """
  is_missing = functools.cache(_is_missing)
  replaced, lines = {}, {}
  for cell in chosen:
    data = cells_lib.config(cell, pathlib.Path()).data
    other = STAND_INS.get(data.name)
    if other is not None and is_missing(data.name, data.directory):
      changes = {'data.name': other, 'data.directory': None}
      cell = overrides.with_fields(cell, changes | _FAKE)
      lines[data.name] = (
        f'{data.name} is not on this machine; the cells have {other} in its '
        'place, synthetic images of the same kind'
      )
    replaced[cells_lib.cell_name(cell)] = cell  # two may be alike now
  return list(replaced.values()), list(lines.values())


def _is_missing(name: str, directory: str | None) -> bool:
  """Returns whether there are no files of a data set."""
  try:
    datasets.load_source(name, directory=directory)
  except FileNotFoundError:
    return True
  except (OSError, ValueError):  # the check of the cells says what is wrong
    return False
  return False


def fields(config: ml_collections.ConfigDict) -> cells_lib.Fields:
  """Returns the fields that cut a run down: length, batch, model, images."""
  batch_size = config.batch_size
  m = config.m or batch_size
  b = config.microbatch_size or m
  sizes = ('batch_size', 'm', 'microbatch_size')
  cut = _cut(batch_size, m, b)
  result: cells_lib.Fields = _LENGTH | dict(zip(sizes, cut, strict=True))
  for pattern, changes in _MODELS.items():
    if re.fullmatch(pattern, config.model.name):
      result |= changes
  name = config.data.name
  if name in datasets.names() and 'image_size' in (
    datasets.options(name) or ()
  ):
    result['data.image_size'] = _IMAGE_SIZE
  return result


def _cut(batch_size: int, m: int, b: int) -> tuple[int, int, int]:
  """Returns a small B, m and b.

  Where there was one group, one microbatch or one example there is one, and
  where there were several there are several.
  """
  groups = min(batch_size // m, _MAX_GROUPS)
  per_group = min(m // b, _MAX_PER_GROUP)
  b = min(b, _MAX_BATCH_SIZE // (groups * per_group))
  return groups * per_group * b, per_group * b, b
