"""Sweep files: what a user's file may return, and what is one line."""

import math
import pathlib

import numpy as np
import pytest

from sam_jax import configs
from sam_jax.sweeps import cells as cells_lib, sweep_files

_HEADER = """
import math
from sam_jax.sweeps.cells import Like, Sweep, product
from sam_jax.sweeps.paper import Paper
C = {'config': 'digits'}
loop = Like({})
loop.changes['labels_from'] = loop
nested = []
nested.append(nested)
def numbers():
  yield C
  raise OSError('no numbers left')
class Odd:
  def __repr__(self):
    raise RuntimeError
"""


def _load(directory, text):
  path = directory / 'mine.py'
  path.write_text(text)
  return sweep_files.load(str(path), configs.find)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'get_sweep'),
    ('get_sweep = 3', 'not callable'),
    ('x = ', 'SyntaxError'),
    ('import nowhere', 'nowhere'),
    ('raise RuntimeError("no luck")', 'RuntimeError: no luck'),
    ('raise SystemExit(3)', 'SystemExit: 3'),
    ('def get_sweep(name): pass', 'name'),
    ('def get_sweep(): return get_sweep()', 'RecursionError'),
  ],
)
def test_a_file_that_is_no_sweep_file_is_refused(tmp_path, text, message):
  with pytest.raises(ValueError, match=message) as refusal:
    _load(tmp_path, text)
  assert str(tmp_path / 'mine.py') in str(refusal.value)


@pytest.mark.parametrize(
  ('sweep', 'message'),
  [
    ('None', 'get_sweep returned None; it must return'),
    ('[C]', 'it must return a sam_jax.sweeps.cells.Sweep'),
    ('Sweep', 'it must return'),
    ('Sweep(None)', 'cells is None; it must be a list'),
    ('Sweep(C)', 'it must be a list'),
    ('Sweep("abc")', 'it must be a list'),
    ('Sweep([])', 'the sweep has no cells'),
    ('Sweep(numbers())', 'OSError: no numbers left'),
    ('Sweep([C, 3])', 'cell 1 is 3; it must be a dict'),
    ('Sweep([C, C])', 'two cells have the name digits'),
    ('Sweep([{}])', "no 'config'"),
    ('Sweep([{"config": None}])', "cell 0: 'config' is None"),
    ('Sweep([{"config": "no/such.py"}])', "'no/such.py' does not exist"),
    ('Sweep([C | {3: 4}])', 'has the key 3'),
    ('Sweep([C | {"seed": Odd()}])', "'seed' is <Odd instance"),
    ('Sweep([C | {"seed": {1}}])', r"'seed' is \{1\}; values can be None"),
    ('Sweep([C | {"model": {"width": 1}}])', "'model' is {'width': 1}; values"),
    ('Sweep([C | {"model.features": nested}])', 'values can be'),
    ('Sweep([C | {"model.features": (loop,)}])', 'values can be'),
    ('Sweep([C | {"method.rho": math.nan}])', "'method.rho' is nan"),
    ('Sweep([C | {"init_from": "a\\0"}])', 'null character'),
    ('Sweep([C | {"labels_from": loop}])', 'needs itself'),
    ('Sweep([C | {"labels_from": Like(3)}])', "'labels_from' is 3"),
    ('Sweep([C | {"labels_from": Like({}, "ab")}])', 'must be a list'),
    ('Sweep([C | {"labels_from": Like({"seed": 1})}])', 'is not in the sweep'),
    ('Sweep([C], replicas="seed")', "replicas is 'seed'"),
    ('Sweep([C], replicas=[1])', 'replicas has 1'),
    ('Sweep([C], smoke=[1])', r'smoke is \[1\]'),
    ('Sweep([C], paper=[3])', 'paper has 3'),
    ('Sweep([C], paper=[Paper({}, "2.7")])', 'number and half_width numbers'),
  ],
)
def test_a_sweep_of_other_types_is_refused(tmp_path, sweep, message):
  with pytest.raises(ValueError, match=message) as refusal:
    _load(tmp_path, f'{_HEADER}\ndef get_sweep():\n  return {sweep}\n')
  assert str(refusal.value).startswith(f'{tmp_path}/mine.py: ')


def test_values_become_those_of_a_command_line(tmp_path):
  cell = {
    'config': 'digits',
    'seed': np.int64(3),
    'method.rho': np.float32(0.5),
    'method.p': math.inf,
    'model.features': (np.int32(4), 8),
    'init_from': pathlib.Path('/weights'),
  }
  sweep = sweep_files._checked(cells_lib.Sweep(iter([cell])))
  [checked] = sweep.cells
  assert [type(v) for v in checked.values()] == [str, int, float, float] + [
    tuple,
    str,
  ]
  assert cells_lib.description(checked) == (
    'digits,seed=3,method.rho=0.5,method.p=inf,model.features=_4,_8_,'
    'init_from=_weights'
  )


def test_a_sweep_file_names_configs_from_any_directory(tmp_path, monkeypatch):
  path = tmp_path / 'my_sweep.py'
  path.write_text(
    'from sam_jax.sweeps.cells import Like, Sweep\n'
    'first = {"config": "configs/digits.py:noisy"}\n'
    'def get_sweep():\n'
    '  other = Like({"config": "configs/digits.py:noisy"})\n'
    '  return Sweep([first, {"config": "mine.py", "labels_from": other}])\n'
  )
  mine = tmp_path / 'mine.py'
  mine.write_text('')
  monkeypatch.chdir(tmp_path)
  first, second = sweep_files.load(str(path), configs.find).cells
  assert first['config'] == configs.find('digits') + ':noisy'
  assert second['config'] == str(mine)
  assert cells_lib.needs(second) == [first]
  monkeypatch.chdir('/')
  with pytest.raises(
    ValueError, match="'mine.py' does not exist; .* names: cifar10, "
  ):
    sweep_files.load(str(path), configs.find)
