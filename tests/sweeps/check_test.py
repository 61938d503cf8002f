"""Whether cells can be run, found before one is."""

import os

import pytest

from sam_jax import configs, datasets
from sam_jax.datasets import registry
from sam_jax.sweeps import cells as cells_lib, check
from tests import tiny


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


def test_each_reason_is_said_once(tmp_path):
  cells = [
    {'config': configs.find('digits'), 'seed': seed} | fields
    for fields in (
      {},
      {'method.roh': 0.1},
      {'method.rho': -1.0},
      {'data.directory': '/nowhere'},
      {'init_from': '/gone'},
      {'init_from': cells_lib.Like({})},
      {'batch_size': 7},
    )
    for seed in (0, 1)
  ]
  cells += [cells[0] | {'seed': -1}]
  found = check.problems(cells, tmp_path)
  assert len(found) == 6
  for message in (
    "2 of 15 cells cannot be run: the config has no field 'method.roh'",
    '1 of 15 cells cannot be run: seed is -1',
    "2 of 15 cells cannot be run: init_from is '/gone', which does not exist",
    '2 of 15 cells cannot be run: digits come with scikit-learn',
    '(first: digits.py,seed=0,method.rho=-1.0)',
    'm 25 does not divide batch_size 7',
  ):
    assert sum(message in line for line in found) == 1, (message, found)
  fields = check.of_fields(cells, tmp_path)
  assert len(fields) == 1 and 'method.roh' in fields[0]


def test_data_are_read_once_and_models_are_traced_once(tmp_path, monkeypatch):
  loaded = []
  original = registry._LOADERS['digits']

  def load(directory, seed, *, train_size=1000):
    loaded.append(train_size)
    return original(directory, seed, train_size=train_size)

  monkeypatch.setitem(registry._LOADERS, 'digits', load)
  path = str(tiny.config_file(tmp_path, **tiny.PLAIN))
  cells = cells_lib.product(
    {'config': [path], 'method.rho': [0.1, 0.2]},
    {'data.train_size': [80, 160], 'seed': range(50)},
  )
  built = list(check.experiments(cells, tmp_path))
  assert sorted(loaded) == [80, 160]
  assert [len(alike) for alike, _ in built] == [50] * 4
  assert len({id(b.experiment.variables) for _, b in built}) == 1
  for alike, made in built:
    experiment = made.experiment
    count = experiment.task.count(experiment.dataset.train)
    assert {cell['data.train_size'] for cell in alike} == {count}


def test_a_plug_in_of_the_user_that_raises_is_a_line(tmp_path, monkeypatch):
  def load(directory, seed):
    raise KeyError('no such split')

  monkeypatch.setitem(registry._LOADERS, 'mine', load)
  assert 'mine' in datasets.names()
  cell = {'config': configs.find('digits'), 'data.name': 'mine'}
  odd = tmp_path / 'odd.py'
  odd.write_text(
    'import ml_collections\n'
    'def get_config():\n  return ml_collections.ConfigDict({"seed": "a"})\n'
  )
  problems = check.problems([cell, {'config': str(odd)}], tmp_path)
  assert len(problems) == 2
  assert "KeyError: 'no such split'" in problems[1]
  assert problems[0].endswith('(first: odd.py)')


@pytest.mark.slow
def test_cells_are_checked_in_a_process_of_their_own(tmp_path):
  """It has the variables that it is given; what it prints is no answer."""
  good = {'config': configs.find('digits')}
  (tmp_path / 'my_plugin.py').write_text(
    'import os\n'
    'print("hello")\n'
    'os.system("echo hello")\n'
    'raise OSError(os.environ["XLA_FLAGS"])\n'
  )
  cells = [good | {'plugins': ('my_plugin',)}, good]
  flags = '--xla_force_host_platform_device_count=1'
  environment = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(tmp_path)}
  [problem] = check.in_process(cells, tmp_path, environment)
  assert '1 of 2 cells' in problem and flags in problem


def test_a_check_that_is_killed_is_a_line(tmp_path):
  (tmp_path / 'sitecustomize.py').write_text(
    'import os\nprint("here")\nos.kill(os.getpid(), 9)\n'
  )
  environment = os.environ | {'PYTHONPATH': str(tmp_path)}
  problems = check.in_process([], tmp_path, environment)
  assert problems == [
    'the check of the cells failed: killed by SIGKILL (out of memory?)'
  ]
