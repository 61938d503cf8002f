"""`sam-report DIR --predictors`: on runs that were made, and refusals."""

import csv
import json
import shutil

import numpy as np
import pytest
from matplotlib import pyplot as plt

from sam_jax import analysis
from sam_jax.analysis import pass_bar
from sam_jax.runs import lock, workdir
from tests import tiny
from tests.sweeps import made_up

_FLAGS = ('--predictors', '--m=20,2', '--groups=2', '--rho=0.2')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Two runs of one step, whose learning rates differ."""
  root = tmp_path_factory.mktemp('trained')
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    for rate in (0.1, 2.0):
      tiny.train(
        root / f'{rate}', learning_rate=rate, num_steps=1, **tiny.PLAIN
      )
  return root


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
  """Copies of them, which a test may change."""
  tiny.use_devices(monkeypatch, 1)
  shutil.copytree(trained, tmp_path / 'runs')
  return tmp_path / 'runs'


def _rows(path):
  with path.open() as stream:
    return list(csv.DictReader(stream))


def _errors(directory):
  """Share of wrong labels on both splits, by the library."""
  return [
    model.objective(lambda v, b, m=model: m.metrics(v, b)['error_rate']).value(
      model.variables
    )
    for model in (analysis.load(directory, split=s) for s in ('train', 'test'))
  ]


def test_runs_are_measured_once_and_reported(command, runs, monkeypatch):
  made_up.write_run(runs, 'gone', [0.5], learning_rate=1.0)
  made_up.write_run(runs, 'unfinished', [0.5], finished=False)
  with monkeypatch.context() as patch:  # interrupted in the second run
    opened = []

    def hold(directory, what):
      opened.append(directory)
      if len(opened) == 7:
        raise MemoryError
      return original(directory, what)

    original = lock.hold
    patch.setattr(lock, 'hold', hold)
    done = command('report', runs, *_FLAGS)
  assert done.status == 1 and 'out of memory' in done.err
  assert not (runs / 'report').exists()
  before = tiny.tree(runs)
  done = command('report', runs, *_FLAGS)
  assert done.status == 0, done.err
  after = tiny.tree(runs)
  assert {k: after[k] for k in before} == before  # what was kept is as it was
  assert f'warning: left out: {runs}/gone holds no checkpoint' in done.out
  assert '1 runs are not finished and left out' in done.out
  _check_against_the_library(runs)
  assert plt.imread(runs / 'report' / 'gap_vs_sharpness.png').std() > 0.01
  with monkeypatch.context() as patch:  # now nothing is left to measure
    patch.delattr(pass_bar.PassBar, 'passed')
    again = command('report', runs, *_FLAGS)
  assert again.status == 0, again.err
  # A slow machine shows how far it is first.
  assert again.out == done.out[done.out.index('learning_rate') :]


def _check_against_the_library(runs):
  report = runs / 'report'
  rows = _rows(report / 'predictors.csv')
  assert [(r['gap'], r['sharpness'], r['runs']) for r in rows] == [
    (f'test - train {gap}', f'm={m}', '2')
    for gap in ('error, %', 'loss')
    for m in (20, 2)
  ]
  row = _rows(report / 'gaps_of_runs.csv')[1]
  directory = runs / '2.0'
  assert (row['run'], row['learning_rate']) == ('2.0', '2.0')
  train, test = _errors(directory)
  found = json.loads((directory / 'result.json').read_text())['final_score']
  assert test == pytest.approx(found, abs=1e-6)
  assert row['test - train error, %'] == f'{100 * (test - train):.2f}'
  model = analysis.load(directory)
  expected = analysis.worst_case(
    model.objective(group_size=2),
    model.params,
    model.groups(2, max_groups=2),
    analysis.Ball(0.2),
  )
  found = float(row['sharpness, m=2'])
  np.testing.assert_allclose(found, expected.mean, atol=1e-5, rtol=1e-3)
  assert float(row['sharpness, m=20']) < found


def test_an_m_that_does_not_fit_is_one_line(command, runs):
  done = command('report', runs, '--predictors', '--m=81')
  assert done.status == 2
  assert 'm is 81; it must be in [1, 80], the training exam' in done.err
  assert done.err.count('\n') == 1
  assert not (runs / 'report').exists()


def test_the_loss_and_the_score_are_a_command_of_analyze(command, runs):
  places = [f'--workdir={runs / name}' for name in ('0.1', '2.0')]
  done = command('analyze', 'evaluation', *places, '--split=test')
  assert done.status == 0, done.err
  header, first, second, picture = done.out.splitlines()[-4:]
  assert header.split() == ['loss', 'error_rate', 'examples']
  result = workdir.read_result(runs / '2.0')
  assert second.split()[0] == '2.0' and second.split()[3] == '1717'
  error = float(second.split()[2])
  assert error == pytest.approx(result['final_score'], abs=1e-3)
  assert first != second
  assert plt.imread(picture).std() > 0.01


@pytest.mark.parametrize(
  ('flags', 'seeds', 'message'),
  [
    (('--predictors',), (), 'none of the 1 runs'),
    (('--predictors',), (0,), 'the finished runs are one run, '),
    (('--predictors',), (0, 1), 'differ in nothing but seed'),
    (('--predictors', '--m=4,x'), (0, 1), "--m is '4,x'"),
    (('--predictors', '--m=0'), (0, 1), "--m is '0'"),
    (('--predictors', '--rho=-1'), (0, 1), 'rho is -1'),
    (('--predictors', '--groups=0'), (0, 1), 'groups'),
    (('--m=4', '--rho=0.1'), (0, 1), '--m, --rho needs --predictors'),
  ],
)
def test_what_cannot_be_reported_is_one_line(
  command, tmp_path, flags, seeds, message
):
  made_up.write_run(tmp_path, 'unfinished', [0.5], finished=False)
  for seed in seeds:
    made_up.write_run(tmp_path, f'{seed}', [0.5], seed=seed)
  before = tiny.tree(tmp_path)
  done = command('report', tmp_path, *flags)
  assert (done.status, done.out) == (2, '')
  assert message in done.err
  assert done.err.count('\n') == 1
  assert tiny.tree(tmp_path) == before


def test_runs_that_cannot_be_opened_are_one_line(command, tmp_path):
  """They have lost their checkpoints."""
  for rate in (0.1, 0.2):
    made_up.write_run(tmp_path, f'{rate}', [0.5], learning_rate=rate)
  done = command('report', tmp_path, '--predictors')
  assert (done.status, done.out) == (2, '')
  assert 'none of the 2 runs can be measured: ' in done.err
  assert 'holds no checkpoint' in done.err
  assert done.err.count('\n') == 1
