"""The comparison of methods, on runs that nobody makes."""

import csv
import dataclasses
import functools

import pytest
from matplotlib import pyplot as plt

from sam_jax.datasets import registry
from sam_jax.sweeps import cells as cells_lib, check, child, pool
from tests import tiny
from tests.sweeps import made_up

_LISTED = 'sgd,sam(rho=0.1|0.2)'
# Of runs on the validation split; on the test split SGD has 0.4, SAM 0.1.
_SCORES = {0.1: 0.3, 0.2: 0.2}


class _Pool:
  """Takes the place of a pool; makes a run by writing what it leaves."""

  stops_after = None  # so many starts
  fails = ()  # runs of these rhos do
  started: list

  def __init__(self, directory, *, workers, gpus):
    assert (workers, gpus) == (2, [])
    self._directory, self._running = directory, []

  def check(self, cells):
    return check.problems(cells, self._directory)

  def has_room(self):
    return not self._running

  def start(self, cell):
    self.started.append(cell)
    self._running.append(cell)

  def ended(self):
    cells, self._running = self._running, []
    return [(cell, self._end(cell)) for cell in cells]

  def stop(self):
    pass

  def _end(self, cell):
    if self.stops_after is not None and len(self.started) > self.stops_after:
      return child.End(None, 'was killed', False)
    if cell.get('method.rho') in self.fails:
      return child.End(None, 'loss not finite')
    score = 0.1 if cell['method.name'] == 'sam' else 0.4
    if cell['data.split'] == 'validation':
      score = _SCORES[cell['method.rho']]
    fields = {k: v for k, v in cell.items() if k != 'config'}
    made = made_up.VERSIONS | {'steps': cell['num_steps'], 'epochs': 1}
    name, values = cells_lib.cell_name(cell), [score + 0.01 * cell['seed']]
    made_up.write_run(self._directory, name, values, versions=made, **fields)
    return child.End(made_up.RESULT)


@pytest.fixture
def compare(command, tmp_path, monkeypatch):
  """`compare(*arguments) -> (Done, started cells)`, two seeds of each."""
  monkeypatch.setattr(pool, 'Pool', _Pool)
  for name in ('stops_after', 'fails'):
    monkeypatch.setattr(_Pool, name, getattr(_Pool, name))
  path = tiny.config_file(tmp_path)

  def run(*arguments, methods=_LISTED):
    _Pool.started = []
    done = command(
      'compare_methods',
      f'--config={path}',
      f'--workdir={tmp_path / "runs"}',
      f'--methods={methods}',
      *('--gradients=20', '--tuning_seeds=2', '--seeds=2', '--workers=2'),
      *arguments,
    )
    return done, [
      (c['data.split'], c['method.name'], c.get('method.rho'), c['seed'])
      for c in _Pool.started
    ]

  return run


_TUNING = [('validation', 'sam', rho, s) for rho in (0.1, 0.2) for s in (0, 1)]
_TESTS = [
  ('test', name, rho, seed)
  for seed in (0, 1)
  for name, rho in (('sgd', None), ('sam', 0.2))
]


def _table(tmp_path):
  """Returns the rows of the table."""
  with (tmp_path / 'runs' / 'comparison.csv').open() as stream:
    return list(csv.DictReader(stream))


def test_values_are_chosen_and_then_methods_are_compared(compare, tmp_path):
  given = ('--config.learning_rate=0.2', '--config.model.features=(3,3)')
  done, started = compare(*given)
  assert done.status == 0, done.out + done.err
  assert started == [*_TUNING, *_TESTS]
  assert {cell['learning_rate'] for cell in _Pool.started} == {0.2}
  assert {cell['model.features'] for cell in _Pool.started} == {(3, 3)}
  assert {cell['num_steps'] for cell in _Pool.started} == {10, 20}
  assert 'split: 4 runs, at most 80 gradient evaluations' in done.out
  sgd, sam = _table(tmp_path)
  assert (sam['chosen'], sam['than sam']) == ('rho=0.2', '')
  assert (sgd['minus sam'], sgd['than sam']) == ('+30.00 ± 0.00', 'worse')
  assert (tmp_path / 'runs' / 'comparison.txt').read_text() in done.out
  picture = tmp_path / 'runs' / 'comparison.png'
  assert plt.imread(picture).std() > 0.01 and str(picture) in done.out
  # The same command makes nothing again, and more methods only theirs.
  again, started = compare(*given)
  assert (again.status, started) == (0, [])
  more, started = compare(*given, methods=f'{_LISTED},random(rho=0.1)')
  assert more.status == 0
  assert started == [('test', 'random', 0.1, seed) for seed in (0, 1)]
  assert len(_table(tmp_path)) == 3


@pytest.mark.parametrize('count', [3, 6])
def test_an_interrupted_comparison_is_resumed(compare, tmp_path, count):
  _Pool.stops_after = count
  done, started = compare()
  assert done.status == 1
  # Nothing is chosen from a part of the runs.
  assert len(started) == (4 if count == 3 else 8)
  assert not (tmp_path / 'runs' / 'comparison.csv').exists()
  _Pool.stops_after = None
  done, started = compare()
  assert done.status == 0
  assert started == [*_TUNING, *_TESTS][count:]


def test_a_value_that_fails_is_left_out(compare, tmp_path):
  _Pool.fails = (0.2,)
  done, started = compare()
  assert done.status == 1
  assert 'run of it failed: sam, rho=0.2' in done.out
  assert started[-1] == ('test', 'sam', 0.1, 1)
  assert _table(tmp_path)[1]['chosen'] == 'rho=0.1'
  _Pool.fails = ()
  done, started = compare('--retry')
  assert done.status == 0
  assert started == [*_TUNING[2:], _TESTS[1], _TESTS[3]]
  assert _table(tmp_path)[1]['chosen'] == 'rho=0.2'


def test_a_dry_run_prints_runs_and_budgets(compare, tmp_path, monkeypatch):
  tiny.use_devices(monkeypatch, 1)
  done, started = compare('--dry_run')
  assert done.status == 0, done.err
  assert 'on the test split: 4 runs, at most 80 gradient' in done.out
  assert 'left to do: 80 gradient evaluations' in done.out
  assert done.out.count('method.name=sam') == 4
  assert started == [] and not (tmp_path / 'runs').exists()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('--methods=sgd,sma',), "unknown method 'sma'"),
    (('--methods=sgd',), '--reference=sam: no method is called that'),
    (('--rho_factors=1,-1',), "--rho_factors has '-1'"),
    (('--rho_factors=1,much',), "--rho_factors has 'much'"),
    (('--rho_factors=',), '--rho_factors is empty'),
    (
      ('--gradients=9',),
      '4 steps of sam, and an epoch has 5; give at least 10',
    ),
    (('--gradients=0',), 'gradients'),
    (('--config.method.p=1',), 'config.method.p is not allowed'),
    (('--config.modle.name=cnn',), 'modle'),
    (('--config=nowhere',), "unknown config 'nowhere'"),
    (('more',), 'unknown arguments: more'),
  ],
)
def test_a_bad_command_is_one_line(compare, tmp_path, arguments, message):
  done, started = compare(*arguments)
  assert done.status == 2, done.out
  assert done.err.startswith('compare_methods: ')
  assert done.err.count('\n') == 1
  assert message in done.err
  assert started == [] and not (tmp_path / 'runs').exists()


def test_without_a_validation_split_nothing_starts(
  compare, tmp_path, monkeypatch
):
  """The test split is there; what only it can tell is not enough."""
  load = registry._LOADERS['digits']

  @functools.wraps(load)
  def whole(*arguments, **options):
    return dataclasses.replace(load(*arguments, **options), num_validation=0)

  monkeypatch.setitem(registry._LOADERS, 'digits', whole)
  done, started = compare()
  assert done.status == 2
  assert '4 of 4 cells cannot be run: digits: no validation' in done.err
  assert done.err.count('\n') == 1
  assert started == [] and not (tmp_path / 'runs').exists()
  # Who has nothing to choose does not need it.
  done, started = compare(methods='sgd,sam(rho=0.1)')
  assert (done.status, len(started)) == (0, 4)
