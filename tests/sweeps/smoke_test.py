"""Smoke scale: small, and still the same kind of run."""

import itertools
import re

import pytest

from sam_jax import configs, datasets
from sam_jax.datasets import large
from sam_jax.sweeps import cells as cells_lib, smoke
from sam_jax.training import layout
from tests import tiny


# Two microbatches per group, or one; one group, or several.
@pytest.mark.parametrize(
  ('sizes', 'cut'),
  [
    ((256, 32, 32), (16, 8, 8)),
    ((256, 256, 256), (16, 16, 16)),
    ((256, 256, 32), (16, 16, 8)),
    ((256, 1, 1), (2, 1, 1)),
    ((256, 32, 8), (16, 8, 4)),
    ((4096, 128, 128), (16, 8, 8)),
    ((25, 25, 25), (16, 16, 16)),
    ((4, 4, 4), (4, 4, 4)),
    ((256, None, None), (16, 16, 16)),
    ((256, 64, None), (16, 8, 8)),
  ],
)
def test_a_batch_is_cut_down_into_as_many_kinds_of_parts(sizes, cut):
  names = ('batch_size', 'm', 'microbatch_size')
  config = tiny.config(**dict(zip(names, sizes, strict=True)))
  fields = smoke.fields(config)
  assert tuple(fields[name] for name in names) == cut


def test_whatever_the_sizes_the_cut_fits():
  for groups, pieces, b in itertools.product((1, 2, 3, 8, 128), repeat=3):
    batch_size = groups * pieces * b
    cut = smoke._cut(batch_size, pieces * b, b)
    small = layout.create(cut[0], 1, *cut[1:])
    assert small.batch_size <= min(batch_size, 16)
    assert (small.num_groups > 1) == (groups > 1)
    assert (small.device_microbatches > 1) == (pieces > 1)
    assert (small.microbatch_size > 1) == (b > 1)


def test_one_replica_of_each_kind_of_cell_is_left():
  axes = ({'config': [configs.find('cifar10')]}, {'method.rho': [0.1, 0.2]})
  cells = cells_lib.product(*axes, {'seed': [4, 5]})
  sweep = cells_lib.Sweep(cells, smoke={'num_steps': 1})
  found = smoke.cells(sweep, cells[1:])
  assert [(c['method.rho'], c['seed']) for c in found] == [(0.1, 5), (0.2, 4)]
  assert {c['model.name'] for c in found} == {'WideResnet10x1'}
  assert {c['num_steps'] for c in found} == {1}
  assert all('data.image_size' not in cell for cell in found)


def test_images_that_are_decoded_are_small():
  cell = {'config': configs.find('imagenet:101')}
  fields = smoke.fields(cells_lib.config(cell, tiny.ROOT))
  assert fields['data.image_size'] == 64
  assert (fields['model.name'], fields['model.width']) == ('Resnet50', 4)


@pytest.mark.parametrize(
  ('model', 'small'), [('ViT-B/32', 'vit'), ('Mixer-S/8', 'mixer')]
)
def test_a_transformer_of_the_kind_is_left(model, small):
  config = configs.find(f'imagenet_vit:gsam,{model}')
  fields = smoke.fields(cells_lib.config({'config': config}, tiny.ROOT))
  assert (fields['model.name'], fields['model.depth']) == (small, 2)
  assert fields['data.image_size'] % fields['model.patch'] == 0


def test_an_unknown_model_or_data_set_is_left_as_it_is():
  fields = smoke.fields(
    tiny.config(**{'model.name': 'mine', 'data.name': 'mine'})
  )
  assert not [name for name in fields if re.match('model|data', name)]


def test_synthetic_images_stand_in_for_data_that_are_missing(monkeypatch):
  asked = []

  def load_source(name, directory=None):
    asked.append((name, directory))
    if name == 'cifar100':
      raise PermissionError(name)  # which the check will say
    if directory != 'here':
      raise FileNotFoundError(name)

  monkeypatch.setattr(datasets, 'load_source', load_source)
  cifar, imagenet = (
    {'config': configs.find(name), 'seed': 1}
    for name in ('cifar10', 'imagenet')
  )
  there = cifar | {'data.directory': 'here', 'num_steps': 2}
  elsewhere = imagenet | {'data.directory': 'elsewhere'}
  cells = [
    *(cifar, cifar | {'method.rho': 0.5}, there, elsewhere),
    {'config': configs.find('cifar100')},
    {'config': configs.find('digits')},
  ]
  found, lines = smoke.stand_ins(cells)
  chosen = [cells_lib.config(cell, tiny.ROOT).data for cell in found]
  assert [data.name for data in chosen] == (
    ['fake_cifar10'] * 2 + ['cifar10', 'fake_imagenet', 'cifar100', 'digits']
  )
  assert [data.directory for data in chosen] == [None, None, 'here'] + [
    None
  ] * 3
  assert [data.train_size for data in chosen[:4]] == [1000, 1000, None, 1000]
  assert lines == [
    f'{name} is not on this machine; the cells have {other} in its place, '
    'synthetic images of the same kind'
    for name, other in (
      ('cifar10', 'fake_cifar10'),
      ('imagenet2012', 'fake_imagenet'),
    )
  ]
  assert len(set(asked)) == len(asked)  # a data set takes long to read


def test_every_stand_in_has_as_many_classes_as_what_it_stands_for():
  classes = {'fake_cifar10': 10, 'fake_cifar100': 100, 'fake_imagenet': 1000}
  needed = {'cifar10': 10, 'cifar100': 100, 'svhn_cropped': 10}
  needed |= {name: facts.num_classes for name, facts in large.BY_NAME.items()}
  assert needed.keys() == smoke.STAND_INS.keys()
  for name, other in smoke.STAND_INS.items():
    assert classes[other] >= needed[name]


def test_cells_that_are_alike_with_synthetic_images_are_one(monkeypatch):
  monkeypatch.setattr(smoke, '_is_missing', lambda name, directory: True)
  cells = [
    {'config': configs.find('cifar10'), 'data.name': name}
    for name in ('cifar10', 'svhn_cropped')
  ]
  found, lines = smoke.stand_ins(cells)
  assert len(found) == 1 and len(lines) == 2
