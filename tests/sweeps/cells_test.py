"""Cells: what they are called, what they need, their command and config."""

import math

import pytest

from sam_jax import configs
from sam_jax.sweeps import (
  cells as cells_lib,
  paper as paper_lib,
)


def _cell(**fields):
  return {'config': configs.find('digits'), **fields}


def test_a_product_has_every_combination_in_order():
  cells = cells_lib.product(
    {'config': ['a.py', 'b.py'], 'x': (1, 2)},
    [{'method.name': 'sgd'}, {'method.name': 'sam', 'x': 9}],
  )
  # Of equal names the last axis counts.
  assert cells == [
    {'config': config, 'x': x if method == 'sgd' else 9, 'method.name': method}
    for config in ('a.py', 'b.py')
    for x in (1, 2)
    for method in ('sgd', 'sam')
  ]


def test_names_can_be_directories_and_tell_cells_apart():
  cells = [
    _cell(),
    _cell(seed=1),
    _cell(**{'method.rho': 0.1}),
    _cell(**{'method.rho': None}),
    {'config': 'configs/digits.py:noisy'},
    _cell(init_from='/some where/else'),
  ]
  names = [cells_lib.cell_name(cell) for cell in cells]
  assert len(set(names)) == len(cells)
  assert all('/' not in name and ' ' not in name for name in names)
  # Where the data are makes no other run.
  moved = _cell(**{'data.directory': '/some where/else'})
  assert cells_lib.cell_name(moved) == names[0]


@pytest.mark.parametrize(
  'fields',
  [
    {'init_from': 'x' * 5000},
    {'init_from': '模型/é\n', 'model.name': 'ü' * 70},
    {'init_from': '\udcff/'},
    {'init_from': '..', 'model.name': '-rf *'},
    {f'model.field_{i}': i for i in range(50)},
    {'config': '/' + 'long' * 60 + '.py:' + 'argument' * 30},
    {'labels_from': cells_lib.Like({'method.name': 'sgd' * 40}), 'seed': 3},
  ],
)
def test_a_name_is_short_and_safe_whatever_the_values(fields):
  cell = _cell(**{'seed': 1} | fields)
  name = cells_lib.cell_name(cell)
  assert len(name) <= 80 and name.isascii()
  assert not set(name) & set('/ \n*\'"') and name[0] not in '.-'
  # Another value in any place is another name, also of what is cut off.
  for key, value in cell.items():
    other = cell | {key: f'{value}é'}
    assert cells_lib.cell_name(other) != name


def test_a_long_name_has_what_comes_last():
  constants = {f'model.field_{i}': i for i in range(50)}
  cell = _cell(**constants, **{'method.rho': 0.1, 'seed': 3})
  name = cells_lib.cell_name(cell)
  assert name.startswith('digits.py,...,') and 'method.rho=0.1,seed=3,~' in name
  # It is for ever: the directories of an earlier version are found.
  assert name.endswith(',~77f981401f')
  assert cells_lib.only([cell], 'field_0=0,.*field_1=1,') == [cell]


def test_arguments_are_those_of_the_command_line(tmp_path):
  cell = {'config': 'digits.py', 'method.rho': None, 'seed': 3}
  assert cells_lib.arguments(cell, tmp_path) == [
    '--config=digits.py',
    '--config.method.rho=None',
    '--config.seed=3',
    f'--workdir={tmp_path}/digits.py,method.rho=None,seed=3',
  ]


@pytest.mark.parametrize(
  ('cells', 'message'),
  [
    ([], 'no cells'),
    ([{'seed': 1}], "no 'config'"),
    ([_cell(seed=1), _cell(seed=1)], r'two cells have the name .*seed=1'),
    (
      [_cell(seed=0, labels_from=cells_lib.Like({'seed': 1}))],
      'needs digits.py,seed=1, which is not in the sweep',
    ),
  ],
)
def test_a_sweep_that_cannot_be_run_is_refused(cells, message):
  with pytest.raises(ValueError, match=message):
    cells_lib.check(cells_lib.Sweep(cells))


def test_a_cell_comes_behind_those_that_it_needs():
  first = {'config': 'a.py', 'seed': 0, 'method.rho': None}
  second = first | {'labels_from': cells_lib.Like({})}
  other = first | {'labels_from': cells_lib.Like({'seed': 1})}
  third = {'config': 'a.py', 'labels_from': cells_lib.Like(first)}
  assert cells_lib.needs(first) == []
  assert cells_lib.needs(second) == cells_lib.needs(third) == [first]
  seedless = first | {'labels_from': cells_lib.Like({}, without=('seed',))}
  assert cells_lib.needs(seedless) == [{'config': 'a.py', 'method.rho': None}]
  root = first | {'seed': 1}
  chains = cells_lib.chains([second, other, third, first, root])
  assert chains == [[root, other], [first, second, third]]


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'method.roh': 0.1}, r"no field 'method.roh' .did you mean 'method.rho'"),
    ({'num_epochs': 2.5}, "Could not override field 'num_epochs'"),
  ],
)
def test_a_field_that_no_config_has_is_refused(tmp_path, fields, message):
  with pytest.raises(ValueError, match=message):
    cells_lib.config(_cell(**fields), tmp_path)


def test_the_config_of_a_cell_is_what_the_command_line_makes(tmp_path):
  first = {
    'config': configs.find('digits:noisy'),
    'method.rho': 1,
    'method.p': math.inf,
  }
  cell = first | {'labels_from': cells_lib.Like({})}
  config = cells_lib.config(cell, tmp_path)
  assert (config.data.label_noise, config.method.rho) == (0.4, 1.0)
  assert config.method.p == math.inf
  assert config.labels_from == str(tmp_path / cells_lib.cell_name(first))
  # The config sets rho, and the cell unsets it.
  sgd = first | {'method.name': 'sgd', 'method.rho': None}
  assert cells_lib.config(sgd, tmp_path).method.rho is None


def test_a_pattern_takes_what_its_cells_need_too():
  first = [_cell(seed=seed) for seed in (0, 1)]
  second = [cell | {'labels_from': cells_lib.Like({})} for cell in first]
  third = [_cell(seed=7), _cell(seed=8)]
  cells = [*second, *first, *third]
  assert cells_lib.only(cells, '') == cells
  assert cells_lib.only(cells, r'seed=1,labels_from=same') == [
    second[1],
    first[1],
  ]
  with pytest.raises(ValueError, match="'rho' matches none of 6 cells"):
    cells_lib.only(cells, 'rho')
  with pytest.raises(ValueError, match='nothing to repeat'):
    cells_lib.only(cells, '*')


def test_a_number_of_the_paper_fits_runs_by_values_and_by_functions():
  paper = paper_lib.Paper({'labels_from': bool, 'method.rho': 0.1}, 4.6)
  assert paper.fits({'labels_from': 'runs/a', 'method.rho': 0.1, 'seed': 3})
  assert not paper.fits({'labels_from': '', 'method.rho': 0.1})
  assert not paper.fits({'labels_from': 'runs/a', 'method.rho': 0.2})
  assert not paper.fits({})


def test_a_function_of_the_paper_that_fails_is_a_line():
  paper = paper_lib.Paper({'method.rho': lambda rho: rho > 0}, 4.6)
  with pytest.raises(ValueError, match='for method.rho fails for None: TypeEr'):
    paper.fits({})
