"""Tables: the right numbers beside each other, in the words of the task."""

import csv
import re

from sam_jax.sweeps import results, settings as settings_lib, tables
from sam_jax.sweeps.paper import Paper
from tests.sweeps import made_up

_LOSS = {'metric': 'mse', 'label': 'squared error', 'unit': 'm2', 'scale': 1.0}


def _write(directory, paper=()):
  """Writes the tables of the runs in a directory; returns what is printed."""
  found = settings_lib.group(results.collect(directory).runs)
  return '\n'.join(tables.write(directory, found, paper))


def _rows(directory, name='table'):
  with (directory / f'{name}.csv').open() as stream:
    return list(csv.DictReader(stream))


def test_a_table_has_each_setting_beside_the_paper(tmp_path):
  made_up.sweep(tmp_path)
  fields = {'method.name': 'sam', 'method.rho': 0.2, 'data.split': 'test'}
  paper = [
    Paper(fields, 3.0, metric='second_metric'),
    Paper(fields, 12.0, 0.5),
    Paper(fields, 11.0, metric='mse'),
  ]
  printed = _write(tmp_path, paper)
  rows = _rows(tmp_path)
  assert len(rows) == 8
  [row] = [
    r for r in rows if r['method.rho'] == '0.2' and r['data.split'] == 'test'
  ]
  # 12 and 13 %: the error of the mean is 0.5, t = 12.706.
  assert row['error, %'] == '12.50 ± 6.35'
  assert row['best epoch, %'] == '12.50 ± 6.35'
  # 42 and 43 %; SGD's 20 gradients are as many as SAM's here.
  assert row['SGD with as many gradients, %'] == '42.50 ± 6.35 (n = 2)'
  assert (row['n'], row['gradients'], row['seconds']) == ('2', '20', '3')
  assert (row['paper, %'], row['difference']) == ('12.0 ± 0.5', '+0.50')
  assert sum(r['paper, %'] != '' for r in rows) == 1
  # A fifth of the error.
  assert row['second metric, %'] == '2.50 ± 1.27'
  names = ('second metric: paper, %', 'second metric: difference')
  assert [row[name] for name in names] == ['3.0', '-0.50']
  # No run has the metric of the third number.
  assert not [name for name in row if 'mse' in name]
  assert (tmp_path / 'table.txt').read_text() in f'{printed}\n'
  lines = (tmp_path / 'table.md').read_text().splitlines()
  assert len(set(map(len, lines))) == 1
  assert re.search('3 tried, n = 2', (tmp_path / 'selected.txt').read_text())


def test_another_task_has_its_own_words(tmp_path):
  for seed, value in enumerate((0.125, 0.25)):
    made_up.write_run(tmp_path, f'a{seed}', [value], score=_LOSS, seed=seed)
  for seed, value in enumerate((0.3, 0.5)):
    fields = {'seed': seed, 'task.name': 'image_classification', 'm': 8}
    made_up.write_run(tmp_path, f'b{seed}', [value], **fields)
  # A number of an error rate is not compared with a squared error, nor is one
  # that stands beside it in the paper, though the runs have its metric.
  paper = [Paper({}, 12.0), Paper({}, 3.0, metric='second_metric')]
  _write(tmp_path, paper)
  loss, error = _rows(tmp_path)
  # t = 12.706, the error of the mean is 1/16.
  assert loss['squared error, m2'] == '0.1875 ± 0.7941'
  assert (loss['error, %'], loss['paper, %']) == ('', '')
  assert (error['error, %'], error['squared error, m2']) == (
    '40.00 ± 127.06',
    '',
  )
  assert (error['difference'], error['second metric, %']) == (
    '+28.00',
    '8.00 ± 25.41',
  )
  assert (loss['difference'], loss['second metric, %']) == ('', '')
  assert 'second metric, m2' not in loss
  _write(tmp_path, [Paper({}, 0.1, metric='mse')])
  assert [row['difference'] for row in _rows(tmp_path)] == ['+0.0875', '']


def test_a_score_without_a_unit_is_its_label(tmp_path):
  score = _LOSS | {'unit': ''}
  made_up.write_run(tmp_path, 'a', [0.5], score=score)
  _write(tmp_path)
  assert _rows(tmp_path)[0]['squared error'] == '0.5'


def test_what_a_reader_must_know_is_said(tmp_path):
  """What is best and not tested, left out, or not what it seems."""
  for rho, errors in ((0.1, (0.3, 0.4)), (0.2, (0.4, 0.4)), (0.5, (0.1,))):
    for seed, error in enumerate(errors):
      fields = {'method.rho': rho, 'data.split': 'validation', 'seed': seed}
      made_up.write_run(tmp_path, f'{rho}-{seed}', [error], **fields)
  other = made_up.VERSIONS | {'git_commit': 'b'}
  fields = {'method.rho': 0.2, 'data.split': 'validation', 'seed': 2}
  made_up.write_run(tmp_path, '0.2-2', [0.4], versions=other, **fields)
  fields['seed'] = 1
  made_up.write_run(tmp_path, 'again', [0.2], **fields)
  fields |= {'method.rho': 0.1, 'seed': 2}
  made_up.write_run(tmp_path, '0.1-2', [0.3], **fields)
  for seed in (0, 1):
    fields |= {'method.rho': 0.05, 'seed': seed}
    made_up.write_run(tmp_path, f'0.05-{seed}', [0.6], **fields)
  printed = _write(tmp_path)
  for line in (
    'best of 3 tried, n = 3, not tested: method.rho=0.1',
    'left out of the choice, because it has 1 of 3 runs: method.rho=0.5',
    'only 2 of 3 runs exist of method.rho=0.05',
    'warning: the runs of method.rho=0.2 differ in git_commit',
    'warning: 1 runs of method.rho=0.2 repeat a seed and do not find the same',
  ):
    assert line in printed
  assert not (tmp_path / 'selected.txt').exists()
  rows = {row['method.rho']: row for row in _rows(tmp_path)}
  differ = {rho: row['runs differ in'] for rho, row in rows.items()}
  assert differ == dict.fromkeys(differ, '') | {'0.2': 'git_commit'}


def test_numbers_of_synthetic_data_are_never_those_of_real_ones(tmp_path):
  for name in ('cifar10', 'fake_cifar10'):
    made_up.write_run(tmp_path, name, [0.25], **{'data.name': name})
  printed = _write(tmp_path, [Paper({}, 2.7)])
  real, fake = _rows(tmp_path)  # a setting each
  assert (real['data.name'], real['paper, %']) == ('cifar10', '2.7')
  assert (fake['data.name'], fake['paper, %']) == ('fake_cifar10', '')
  line = 'fake_cifar10 has synthetic images: these numbers say nothing about '
  for text in (printed, (tmp_path / 'table.md').read_text()):
    assert text.count(f'{line}cifar10') == 1
  # Also where no other data tell them apart.
  alone = tmp_path / 'alone'
  made_up.write_run(alone, 'run', [0.25], **{'data.name': 'fake_cifar10'})
  _write(alone)
  assert 'fake_cifar10' in (alone / 'table.txt').read_text()


def test_the_data_are_known_by_the_result_where_only_a_cell_is():
  result = made_up.RESULT | {'data': 'fake_imagenet'}
  known, unknown = (
    settings_lib.Setting(
      {}, (results.FinishedRun('run', {'seed': 0}, each),), {}
    )
    for each in (result, made_up.RESULT)
  )
  [line] = tables.remarks_on_data([known, unknown, known])
  assert line.endswith('these numbers say nothing about imagenet')
