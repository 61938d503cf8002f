"""What --dry_run says that a sweep costs."""

import re

import pytest

from sam_jax.sweeps import cells as cells_lib, cost
from tests import tiny
from tests.sweeps import made_up


def _describe(monkeypatch, cells, directory, time_steps=0):
  """Returns the rows of the cells, in columns, and the last line."""
  tiny.use_devices(monkeypatch, 1)
  found = cost.Estimates(cells, directory, time_steps)
  lines = list(found.lines())
  rows = [line.split(maxsplit=4) for line in lines[1:-1]]
  return rows, lines[-1], found.problems()


@pytest.mark.slow
def test_a_dry_run_tells_the_cost_and_writes_nothing(tmp_path, monkeypatch):
  config = str(tiny.config_file(tmp_path, num_steps=7, **tiny.PLAIN))
  cells = cells_lib.product(
    {'config': [config]},
    [{'method.name': 'sgd'}, {'method.name': 'sam'}, {'data.name': 'nowhere'}],
  )
  runs = tmp_path / 'runs'
  rows, total, problems = _describe(monkeypatch, cells, runs, time_steps=1)
  assert [row[0] for row in rows] == ['7', '14', '?']
  [problem] = problems
  assert problem.startswith("1 of 3 cells cannot be run: unknown data set 'now")
  assert re.search(
    r'3 cells; left to do: 21 gradient evaluations .*, \d+\.\d\d hours on 1 x',
    total,
  )
  assert not runs.exists()


def test_what_cells_cost_is_known_without_their_data(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  tiny.use_devices(monkeypatch, 1)
  fields = tiny.PLAIN | {'data.train_size': None, 'num_epochs': 1}
  config = str(tiny.config_file(tmp_path, **fields))
  cells = cells_lib.product(
    {'config': [config], 'data.name': ['cifar10', 'birdsnap']},
    {'data.directory': [str(tmp_path)]},
  )
  found = cost.Estimates(cells, tmp_path / 'runs', 0)
  assert [found.costs[n].gradients for n in found.costs] == [
    2 * (47_386 // 16),
    2 * (50_000 // 16),
  ]
  assert found.problems() == []
  assert sorted(found.missing) == ['birdsnap', 'cifar10']


def test_cells_of_one_program_are_timed_once(tmp_path, monkeypatch):
  config = str(tiny.config_file(tmp_path, num_epochs=1, **tiny.PLAIN))
  cells = cells_lib.product(
    {'config': [config], 'seed': [0, 1], 'num_epochs': [1, 2]},
    {'learning_rate': [0.1, 0.2], 'data.split': ['test', 'validation']},
    {'method.rho': [0.0, 0.1, 0.2]},
  )
  timed = []

  def seconds_per_step(experiment, count):
    timed.append(experiment.fns.method.gradient_evaluations)
    return 360.0

  monkeypatch.setattr(cost, '_seconds_per_step', seconds_per_step)
  rows, total, _ = _describe(monkeypatch, cells, tmp_path / 'runs', 3)
  assert sorted(timed) == [1, 2]  # without a perturbation, and with one
  assert {row[1] for row in rows} == {'0.400', '0.500', '0.800', '1.000'}
  assert 'hours on 1 x' in total


def test_steps_are_timed_all_over_the_run(tmp_path, monkeypatch):
  """A method that perturbs in the last steps alone is not timed in the first.

  And one that perturbs in other steps is timed by itself.
  """
  config = str(tiny.config_file(tmp_path, num_steps=40, **tiny.PLAIN))
  cells = cells_lib.product(
    {'config': [config], 'method.name': ['late_sam']},
    [{'method.start': 0.5}, {'method.start': 0.8}],
  )
  timed = []

  def seconds_per_step(experiment, count):
    places = cost._places(experiment.num_steps, count)
    assert sorted(set(places)) == places and 0 <= places[0]
    timed.append(sum(place >= 0.5 * 40 for place in places) / count)
    return 0.0

  monkeypatch.setattr(cost, '_seconds_per_step', seconds_per_step)
  rows, _, _ = _describe(monkeypatch, cells, tmp_path / 'runs', 10)
  assert timed == [0.5, 0.5]
  assert sorted(row[0] for row in rows) == ['48', '60']


def test_without_data_a_dry_run_tells_the_rest(tmp_path, monkeypatch):
  config = str(tiny.config_file(tmp_path, num_steps=4, **tiny.PLAIN))
  cells = cells_lib.product(
    {'config': [config], 'seed': [0, 1, 2], 'data.directory': ['/nowhere']}
  )
  name = cells_lib.cell_name(cells[1])
  made_up.write_run(tmp_path, name, [0.5], num_steps=10, finished=False)
  rows, total, problems = _describe(monkeypatch, cells, tmp_path)
  assert [row[:4] for row in rows] == [
    ['?', '?', made, 'made'] for made in ('0%', '50%', '0%')
  ]
  assert total == '3 cells; what they cost cannot be told'
  [problem] = problems
  assert problem.startswith('3 of 3 cells cannot be run: digits come with')
  made_up.write_run(tmp_path, name, [0.5], num_steps=5)
  rows, _, [problem] = _describe(monkeypatch, cells, tmp_path)
  assert rows[1][2] == 'finished' and problem.startswith('2 of 3 cells')


def test_a_dry_run_counts_what_the_cost_depends_on(tmp_path, monkeypatch):
  """A rho of 0 is one pass; the validation split is not trained on."""
  # 80 examples, of which 8 are for validation; batches of 16.
  expected = {(0.0, 'test'): 5, (0.0, 'validation'): 4}
  expected |= {(0.1, 'test'): 10, (0.1, 'validation'): 8}
  config = str(tiny.config_file(tmp_path, num_epochs=1, **tiny.PLAIN))
  cells = [
    {'config': config, 'method.rho': rho, 'data.split': split, 'seed': seed}
    for rho, split in expected
    for seed in (0, 1)
  ]
  # Half of one is made.
  name = cells_lib.cell_name(cells[4])
  made_up.write_run(tmp_path, name, [0.5], finished=False, num_epochs=2)
  rows, total, problems = _describe(monkeypatch, cells, tmp_path)
  assert problems == []
  assert [int(row[0]) for row in rows] == [
    e for e in expected.values() for _ in (0, 1)
  ]
  assert [row[2] for row in rows] == ['0%'] * 4 + ['50%'] + ['0%'] * 3
  assert 'left to do: 49 gradient evaluations' in total
