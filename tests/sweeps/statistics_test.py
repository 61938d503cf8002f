"""Tables of sweeps: the right runs in a cell, the right numbers of it."""

import csv
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tiny
from matplotlib import pyplot as plt

from sam_jax.runs import workdir
from sam_jax.sweeps import statistics

_VERSIONS = {'git_commit': 'a', 'versions': {'jax': '1'}, 'device': '1 x cpu'}


def _write(root, name, errors, *, finished=True, versions=None, **fields):
  """A run that ends with the last of the errors, one per epoch."""
  directory = root / name
  directory.mkdir(parents=True)
  config = tiny.config(**fields)
  workdir.write_config(directory, config)
  split = config.data.split
  with (directory / 'metrics.jsonl').open('w') as stream:
    for i, error in enumerate(errors):
      line = {
        'step': 5 * i + 5,
        'epoch': i + 1,
        f'{split}/error_rate': error,
        f'{split}/top5_error_rate': error / 5,
      }
      stream.write(json.dumps(line) + '\n')
  if finished:
    result = {
      'steps': 5 * len(errors),
      'split': split,
      'final_error_rate': errors[-1],
      'best_error_rate': min(errors),
      'gradient_evaluations': 10.0 * len(errors),
      'wall_seconds': 3.0,
      **(versions or _VERSIONS),
    }
    workdir.write_json(directory / 'result.json', result)


def _sweep(root):
  """SGD and three rhos on both splits, two seeds; the best rho is 0.2."""
  errors = {0.1: 0.3, 0.2: 0.1, 0.5: 0.2}
  for split, offset in (('validation', 0.0), ('test', 0.02)):
    for seed in (0, 1):
      fields = {'data.split': split, 'seed': seed}
      error = 0.4 + offset + 0.01 * seed
      name = f'{split}-{seed}'
      _write(
        root, f'sgd-{name}', [0.9, error], **{'method.name': 'sgd'}, **fields
      )
      for rho, level in errors.items():
        # On the test split another rho would look better.
        bonus = 0.15 if (split, rho) == ('test', 0.5) else 0
        error = level + offset - bonus + 0.01 * seed
        fields['method.rho'] = rho
        _write(root, f'sam-{rho}-{name}', [0.9, error], **fields)
  return root


def test_replicas_that_take_their_labels_from_runs_of_their_own_are_a_cell(
  tmp_path,
):
  for seed in (0, 1):
    fields = {'seed': seed, 'method.rho': 0.2}
    _write(tmp_path, f'plain-{seed}', [0.3], **fields)
    _write(tmp_path, f'other-{seed}', [0.3], **fields | {'method.rho': 0.1})
    for first in ('plain', 'other'):
      source = str(tmp_path / f'{first}-{seed}')
      name = f'from-{first}-{seed}'
      _write(tmp_path, name, [0.2], labels_from=source, **fields)
  runs, _ = statistics.collect(tmp_path)
  cells = statistics.group(runs)
  found = {(c.shown['labels_from'], c.shown['method.rho']) for c in cells}
  assert found == {
    ('', 0.2),
    ('', 0.1),
    ('same', 0.2),
    ('method.rho=0.1', 0.2),
  }
  assert all(len(cell.runs) == 2 for cell in cells)


def test_what_a_first_run_ignores_tells_no_cells_apart(tmp_path):
  """SGD of another rho each, and which of them nobody knows of any more."""
  for i, rho in enumerate((0.1, 0.2)):
    first = {'method.name': 'sgd', 'method.rho': 5.0 + i, 'seed': i}
    _write(tmp_path, f'first-{i}', [0.3], **first)
    source = str(tmp_path / f'first-{i}')
    _write(
      tmp_path, f'sam-{i}', [0.2], labels_from=source, **{'method.rho': rho}
    )
  # Where the directory is moved, the first runs are moved with the others.
  moved = tmp_path.rename(tmp_path.with_name('moved'))
  cells = statistics.group(statistics.collect(moved)[0])
  by_name = {cell.runs[0].workdir.name: cell for cell in cells}
  found = [by_name[f'sam-{i}'].shown['labels_from'] for i in (0, 1)]
  assert found == ['method=sgd', 'method=sgd']


@pytest.mark.parametrize('field', ['labels_from', 'init_from'])
def test_replicas_may_start_from_one_run(tmp_path, field):
  _write(tmp_path, 'first', [0.3], **{'method.name': 'sgd'}, seed=7)
  for seed in (0, 7):
    fields = {'seed': seed, field: str(tmp_path / 'first')}
    _write(tmp_path, f'second-{seed}', [0.2], **fields)
  cells = statistics.group(statistics.collect(tmp_path)[0])
  assert [len(cell.runs) for cell in cells] == [1, 2]
  assert cells[1].shown[field] == 'method=sgd'


def test_a_run_that_is_gone_is_not_the_one_that_started_from_it(tmp_path):
  for name in ('a', 'b'):  # of the names of those that are gone
    source = {'init_from': f'/gone/{name}', 'labels_from': f'/gone/{name}'}
    _write(tmp_path, name, [0.3], **source)
  for run in statistics.collect(tmp_path)[0]:
    assert run.fields['labels_from'] == 'another run'
    assert run.fields['init_from'].startswith('/gone/')
  for name, other in (('c', 'd'), ('d', 'c')):
    _write(tmp_path, name, [0.3], init_from=f'/gone/{other}')
  assert len(statistics.collect(tmp_path)[0]) == 4


def test_seeds_of_first_runs_tell_replicas_apart(tmp_path):
  for first in (0, 1):
    _write(
      tmp_path, f'first-{first}', [0.5], **{'method.name': 'sgd'}, seed=first
    )
    source = str(tmp_path / f'first-{first}')
    _write(tmp_path, f'second-{first}', [0.2 + first / 10], labels_from=source)
  cells = statistics.group(statistics.collect(tmp_path)[0])
  assert [(len(c.runs), len(c.repeated)) for c in cells] == [(2, 0), (2, 0)]


def test_rho_is_chosen_where_all_start_from_one_run(tmp_path):
  """One of them has the rho of that run; it is a rival like the others."""
  _write(tmp_path, 'first', [0.3], **{'method.rho': 0.1})
  for split in ('validation', 'test'):
    for rho, error in ((0.1, 0.1), (0.2, 0.2), (0.5, 0.3)):
      fields = {'method.rho': rho, 'data.split': split}
      source = {'labels_from': str(tmp_path / 'first')}
      _write(tmp_path, f'{split}-{rho}', [error], **fields, **source)
  choices = statistics.choose(statistics.group(statistics.collect(tmp_path)[0]))
  [choice] = [c for c in choices if c.is_needed]
  assert choice.test.fields['method.rho'] == 0.1
  assert len(choice.tried) == 3


def test_alpha_is_chosen_where_each_starts_from_one_of_its_own(tmp_path):
  """As in table 4: the first run has the same alpha, and split."""
  mixup = {'method.name': 'sgd', 'mixing.name': 'mixup'}
  for split in ('validation', 'test'):
    for alpha, error in ((1.0, 0.3), (8.0, 0.1), (16.0, 0.2)):
      fields = mixup | {'mixing.alpha': alpha, 'data.split': split}
      _write(tmp_path, f'first-{split}-{alpha}', [0.5 - error], **fields)
      source = {'labels_from': str(tmp_path / f'first-{split}-{alpha}')}
      _write(tmp_path, f'second-{split}-{alpha}', [error], **fields, **source)
  choices = statistics.choose(statistics.group(statistics.collect(tmp_path)[0]))
  chosen = {c.test.shown['labels_from']: c.test.fields for c in choices}
  assert chosen.keys() == {'', 'same'}
  assert chosen['']['mixing.alpha'] == 1
  assert chosen['same']['mixing.alpha'] == 8


def test_a_seed_that_is_there_twice_counts_once(tmp_path):
  """As with SGD in a grid of rho, or a cell in two directories."""
  for rho in (0.1, 0.2, 0.5):
    for seed, error in ((0, 0.3), (1, 0.4)):
      fields = {'method.name': 'sgd', 'method.rho': rho, 'seed': seed}
      _write(tmp_path, f'{rho}-{seed}', [error], **fields)
  [cell] = statistics.group(statistics.collect(tmp_path)[0])
  assert (len(cell.runs), len(cell.repeated)) == (2, 4)
  # 30 and 40 %: the error of the mean is 5 %, t = 12.706.
  half_width = cell.estimate('final_error_rate').half_width
  assert half_width == pytest.approx(0.05 * 12.7062, rel=1e-4)


def test_the_rival_is_the_better_sgd_within_the_same_gradients(tmp_path):
  """Of the same data: no more epochs than the cost of SAM allows."""
  lengths = {1: 0.3, 2: 0.2, 3: 0.1}
  for epochs, error in lengths.items():
    for noise in (0.0, 0.4):
      fields = {'num_epochs': epochs, 'data.label_noise': noise}
      _write(
        tmp_path,
        f'sgd-{epochs}-{noise}',
        [0.9] * (epochs - 1) + [error + noise],
        **{'method.name': 'sgd'},
        **fields,
      )
  # Two gradients a step: as many as SGD's of 2 epochs.
  fields = {'num_epochs': 1, 'data.label_noise': 0.4}
  _write(tmp_path, 'sam', [0.9, 0.15], **fields)
  _write(tmp_path, 'mixup', [0.1], **fields | {'mixing.name': 'mixup'})
  cells = statistics.group(statistics.collect(tmp_path)[0])
  by_name = {cell.runs[0].workdir.name: cell for cell in cells}
  rival = statistics.sgd_at_equal_compute(by_name['sam'], cells)
  assert rival is by_name['sgd-2-0.4']
  for name in ('sgd-1-0.0', 'mixup'):
    assert statistics.sgd_at_equal_compute(by_name[name], cells) is None


def test_what_a_method_ignores_tells_no_cells_apart(tmp_path):
  for i, value in enumerate((0.1, 0.2)):
    ignored = {'mixing.alpha': 1.0 + i, 'method.rho': value, 'seed': i}
    _write(tmp_path, f'sgd-{i}', [0.3], **{'method.name': 'sgd'}, **ignored)
    _write(tmp_path, f'mixup-{i}', [0.3], **{**ignored, 'mixing.name': 'mixup'})
  cells = statistics.group(statistics.collect(tmp_path)[0])
  assert sorted(len(cell.runs) for cell in cells) == [1, 1, 2]


def test_intervals_are_students():
  # Three values: t = 4.3027, the error of the mean is 1 / sqrt(3).
  found = statistics.estimate([1.0, 2.0, 3.0])
  assert found.mean == 2
  assert found.half_width == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
  alone = statistics.estimate([5.0])
  assert (alone.mean, alone.n) == (5.0, 1)
  assert math.isnan(alone.half_width)


def test_intervals_hold_the_mean_as_often_as_they_say():
  draws = np.random.default_rng(0).normal(7, 3, (4000, 5))
  found = [statistics.estimate(row) for row in draws]
  share = np.mean([abs(e.mean - 7) < e.half_width for e in found])
  # Binomial: standard deviation .0034, four of them.
  assert abs(share - 0.95) < 0.014


def test_cells_are_what_differs_in_more_than_the_seed(tmp_path):
  runs, num_unfinished = statistics.collect(_sweep(tmp_path))
  assert (len(runs), num_unfinished) == (16, 0)
  cells = statistics.group(runs)
  assert [len(cell.runs) for cell in cells] == [2] * 8
  assert set(cells[0].fields) == {'method', 'data.split', 'method.rho'}
  sgd = [c for c in cells if c.fields['method.name'] == 'sgd']
  # It has no rho, whatever its config says.
  assert [c.fields['method.rho'] for c in sgd] == [None, None]


def test_runs_are_sorted_by_their_numbers(tmp_path):
  names = ['m=4,rho=1e-06', 'm=4,rho=0.05', 'm=4,rho=0.1', 'm=16,rho=0.1']
  for name in reversed(names):
    _write(tmp_path, name, [0.5])
  runs, _ = statistics.collect(tmp_path)
  assert [run.workdir.name for run in runs] == names


def test_a_seed_of_the_data_is_no_replica_unless_it_is_said(tmp_path):
  for seed in (0, 1):
    _write(tmp_path, f'{seed}', [0.5], **{'data.seed': seed})
  runs, _ = statistics.collect(tmp_path)
  assert len(statistics.group(runs)) == 2
  assert len(statistics.group(runs, ('seed', 'data.seed'))) == 1


def test_operational_fields_make_no_cells(tmp_path):
  _write(tmp_path, 'a', [0.5], seed=0)
  _write(tmp_path, 'b', [0.5], seed=1, **{'log.every_steps': 7})
  runs, _ = statistics.collect(tmp_path)
  [cell] = statistics.group(runs)
  assert cell.fields == {}


def test_rho_is_chosen_on_the_validation_split(tmp_path):
  runs, _ = statistics.collect(_sweep(tmp_path))
  choices = statistics.choose(statistics.group(runs))
  by_method = {c.test.fields['method.name']: c for c in choices}
  assert set(by_method) == {'sgd', 'sam'}
  choice = by_method['sam']
  assert (
    choice.test.fields['method.rho'] == choice.best.fields['method.rho'] == 0.2
  )
  assert (choice.test.split, choice.best.split) == ('test', 'validation')
  assert len(choice.tried) == 3
  assert not by_method['sgd'].is_needed
  error = choice.test.estimate('final_error_rate')
  assert error.mean == pytest.approx(0.125)
  assert by_method['sgd'].test.split == 'test'


@pytest.mark.parametrize(('tested', 'listed'), [(8.0, True), (1.0, False)])
def test_a_value_that_is_not_the_best_is_not_called_so(
  tmp_path, tested, listed
):
  """Of two that are as good, either is the best."""
  mixup = {'method.name': 'sgd', 'mixing.name': 'mixup'}
  for alpha, error in ((1.0, 0.3), (4.0, 0.2), (8.0, 0.2)):
    fields = mixup | {'mixing.alpha': alpha, 'data.split': 'validation'}
    _write(tmp_path, f'validation-{alpha}', [error], **fields)
  _write(tmp_path, 'test', [0.3], **mixup | {'mixing.alpha': tested})
  [choice] = statistics.choose(
    statistics.group(statistics.collect(tmp_path)[0])
  )
  if listed:
    assert choice.test.fields['mixing.alpha'] == 8
    assert choice.best.fields['mixing.alpha'] == 8
  else:
    assert choice.test is None
    assert choice.best.fields['mixing.alpha'] == 4


def test_a_value_of_which_runs_failed_is_not_the_best(tmp_path):
  found = {0.1: (0.3, 0.4, 0.3), 0.2: (0.4,) * 3, 0.3: (0.2,) * 2, 0.5: (0.1,)}
  for rho, errors in found.items():
    for seed, error in enumerate(errors):
      fields = {'method.rho': rho, 'data.split': 'validation', 'seed': seed}
      _write(tmp_path, f'{rho}-{seed}', [error], **fields)
  [choice] = statistics.choose(
    statistics.group(statistics.collect(tmp_path)[0])
  )
  # One that is missing does not decide.
  assert choice.best.fields['method.rho'] == 0.3
  assert [cell.fields['method.rho'] for cell in choice.left_out] == [0.5]
  assert choice.test is None


def test_unfinished_runs_are_counted(tmp_path):
  _write(tmp_path, 'a', [0.5])
  _write(tmp_path, 'b', [0.5], finished=False)
  runs, num_unfinished = statistics.collect(tmp_path)
  assert [run.workdir.name for run in runs] == ['a']
  assert num_unfinished == 1


def test_mixed_versions_are_seen(tmp_path):
  _write(tmp_path, 'a', [0.5], seed=0)
  other = _VERSIONS | {'git_commit': 'b'}
  _write(tmp_path, 'b', [0.5], seed=1, versions=other)
  [cell] = statistics.group(statistics.collect(tmp_path)[0])
  assert statistics.mixed(cell) == ['git_commit']
  _write(tmp_path, 'c', [0.5], seed=2, versions={'starts': [_VERSIONS, other]})
  [*_, cell] = statistics.group(statistics.collect(tmp_path)[0], ('none',))
  assert statistics.mixed(cell) == ['git_commit']


def test_curves_are_means_over_the_seeds(tmp_path):
  _write(tmp_path, 'a', [0.8, 0.4], seed=0)
  _write(tmp_path, 'b', [0.6, 0.2], seed=1)
  [cell] = statistics.group(statistics.collect(tmp_path)[0])
  epochs, mean, half = statistics.curve(cell, 'test/error_rate')
  np.testing.assert_array_equal(epochs, [1, 2])
  np.testing.assert_allclose(mean, [0.7, 0.3])
  np.testing.assert_allclose(half, 12.7062 * 0.1, rtol=1e-4)


# --- The script --------------------------------------------------------------


def _run(*arguments):
  return subprocess.run(
    [sys.executable, 'scripts/report.py', *map(str, arguments)],
    cwd=tiny.ROOT,
    env={k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'},
    capture_output=True,
    text=True,
    check=False,
  )


def test_tables_and_pictures_are_written(tmp_path):
  _sweep(tmp_path / 'runs')
  sweep = tmp_path / 'sweep.py'
  sweep.write_text(
    'from sam_jax import sweeps\n'
    'def get_sweep():\n'
    '  fields = {"method": "sam", "method.rho": 0.2, "data.split": "test"}\n'
    '  return sweeps.Sweep(\n'
    '    [{"config": "c.py"}],\n'
    '    paper=[\n'
    '      sweeps.Paper(fields, 3.0, metric="top5_error_rate"),\n'
    '      sweeps.Paper(fields, 12.0, 0.5),\n'
    '    ],\n'
    '  )\n'
  )
  done = _run(tmp_path / 'runs', f'--sweep={sweep}')
  assert done.returncode == 0, done.stderr
  report = tmp_path / 'runs' / 'report'
  with (report / 'table.csv').open() as stream:
    rows = list(csv.DictReader(stream))
  assert len(rows) == 8
  [row] = [
    r for r in rows if r['method.rho'] == '0.2' and r['data.split'] == 'test'
  ]
  # 12 and 13 %: the error of the mean is .5, t = 12.706.
  assert row['error, %'] == '12.50 ± 6.35'
  assert (row['n'], row['gradients'], row['seconds']) == ('2', '20', '3')
  assert (row['paper, %'], row['difference']) == ('12.0 ± 0.5', '+0.50')
  assert sum(r['paper, %'] != '' for r in rows) == 1
  # A fifth of them.
  assert row['top-5 error, %'] == '2.50 ± 1.27'
  assert (row['top-5 paper, %'], row['top-5 difference']) == ('3.0', '-0.50')
  assert sum(r['top-5 paper, %'] != '' for r in rows) == 1
  text = (report / 'table.txt').read_text()
  assert text in done.stdout
  assert len(set(map(len, (report / 'table.md').read_text().splitlines()))) == 1
  assert re.search('3 tried, n = 2', (report / 'selected.txt').read_text())
  for name in ('rho', 'gradients', 'seconds'):
    assert plt.imread(report / f'error_vs_{name}.png').std() > 0.01
  assert plt.imread(report / 'curves.png').std() > 0.01
  assert not (report / 'error_vs_m.png').exists()


def test_what_a_reader_must_know_is_said(tmp_path):
  """What is best and not tested, left out, or not what it seems."""
  for rho, errors in ((0.1, (0.3, 0.4)), (0.2, (0.4, 0.4)), (0.5, (0.1,))):
    for seed, error in enumerate(errors):
      fields = {'method.rho': rho, 'data.split': 'validation', 'seed': seed}
      _write(tmp_path, f'{rho}-{seed}', [error], **fields)
  other = _VERSIONS | {'git_commit': 'b'}
  fields = {'method.rho': 0.2, 'data.split': 'validation', 'seed': 2}
  _write(tmp_path, '0.2-2', [0.4], versions=other, **fields)
  fields['seed'] = 1
  _write(tmp_path, 'again', [0.2], **fields)
  fields |= {'method.rho': 0.1, 'seed': 2}
  _write(tmp_path, '0.1-2', [0.3], **fields)
  for seed in (0, 1):
    fields |= {'method.rho': 0.05, 'seed': seed}
    _write(tmp_path, f'0.05-{seed}', [0.6], **fields)
  done = _run(tmp_path)
  assert done.returncode == 0, done.stderr
  for line in (
    'best of 3 tried, n = 3, not tested: method.rho=0.1',
    'left out of the choice, with 1 of 3 runs: method.rho=0.5',
    '2 of 3 runs are there of method.rho=0.05',
    'warning: the runs of method.rho=0.2 differ in git_commit',
    'warning: 1 runs of method.rho=0.2 repeat a seed and do not find the same',
  ):
    assert line in done.stdout
  assert not (tmp_path / 'report' / 'selected.txt').exists()
  with (tmp_path / 'report' / 'table.csv').open() as stream:
    rows = {row['method.rho']: row for row in csv.DictReader(stream)}
  differ = {rho: row['runs differ in'] for rho, row in rows.items()}
  assert differ == dict.fromkeys(differ, '') | {'0.2': 'git_commit'}


@pytest.mark.parametrize('kind', ['nothing', 'unfinished'])
def test_where_there_is_nothing_to_report_one_line_says_so(tmp_path, kind):
  if kind == 'unfinished':
    _write(tmp_path, 'a', [0.5], finished=False)
  done = _run(tmp_path)
  assert done.returncode == 2
  message = {'nothing': 'no runs', 'unfinished': 'none of the 1 runs'}[kind]
  assert message in done.stderr
  assert done.stderr.count('\n') == 1
