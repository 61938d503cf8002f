"""The runs in a directory: which there are, and what tells them apart."""

import json

from sam_jax import tasks
from sam_jax.sweeps import results, run_files, settings
from tests.sweeps import made_up


def test_what_a_method_ignores_tells_no_runs_apart(tmp_path):
  for i in (0, 1):
    ignored = {'mixing.alpha': 1.0 + i, 'm': 4 + i, 'seed': i}
    made_up.write_run(
      tmp_path, f'sgd-{i}', [0.3], **{'method.name': 'sgd'}, **ignored
    )
    made_up.write_run(
      tmp_path, f'mixup-{i}', [0.3], **{**ignored, 'mixing.name': 'mixup'}
    )
  cells = settings.group(results.collect(tmp_path).runs)
  assert sorted(len(cell.runs) for cell in cells) == [1, 1, 2]


def test_a_run_that_is_gone_is_not_the_one_that_started_from_it(tmp_path):
  for name in ('a', 'b'):  # of the names of those that are gone
    source = {'init_from': f'/gone/{name}', 'labels_from': f'/gone/{name}'}
    made_up.write_run(tmp_path, name, [0.3], **source)
  found = results.collect(tmp_path)
  assert found.remarks == [
    'first runs are missing, of 2 runs; that of a is missing: a'
  ]
  for run in found.runs:
    assert run.fields['labels_from'] == f'missing: {run.workdir.name}'
    assert run.fields['init_from'].startswith('/gone/')
  for name, other in (('c', 'd'), ('d', 'c')):
    made_up.write_run(tmp_path, name, [0.3], init_from=f'/gone/{other}')
  assert len(results.collect(tmp_path).runs) == 4


def test_runs_are_sorted_by_their_numbers(tmp_path):
  names = ['m=4,rho=1e-06', 'm=4,rho=0.05', 'm=4,rho=0.1', 'm=16,rho=0.1']
  for name in reversed(names):
    made_up.write_run(tmp_path, name, [0.5])
  runs = results.collect(tmp_path).runs
  assert [run.workdir.name for run in runs] == names


def test_unfinished_runs_are_counted(tmp_path):
  made_up.write_run(tmp_path, 'a', [0.5])
  made_up.write_run(tmp_path, 'b', [0.5], finished=False)
  found = results.collect(tmp_path)
  assert [run.workdir.name for run in found.runs] == ['a']
  assert found.num_unfinished == 1
  assert found.unreadable == []


def test_results_that_cannot_be_read_are_left_out_and_named(tmp_path):
  for name in ('a', 'old', 'torn'):
    made_up.write_run(tmp_path, name, [0.5])
  path = tmp_path / 'old' / 'result.json'
  path.write_text(json.dumps({'steps': 5, 'final_error_rate': 0.5}))
  (tmp_path / 'torn' / 'result.json').write_text('{"st')
  found = results.collect(tmp_path)
  assert [run.workdir.name for run in found.runs] == ['a']
  assert found.num_unfinished == 0
  old, torn = found.unreadable
  assert str(path) in old and 'another edition of sam_jax' in old
  assert str(tmp_path / 'torn') in torn


def test_a_run_that_lost_its_config_is_named(tmp_path):
  for name in ('a', 'b'):
    made_up.write_run(tmp_path, name, [0.5])
  (tmp_path / 'b' / 'config.json').unlink()
  found = results.collect(tmp_path)
  assert [run.workdir.name for run in found.runs] == ['a']
  assert found.unreadable == [f'{tmp_path}/b has no config.json']


def test_the_share_of_a_run_that_is_made(tmp_path):
  assert results.fraction(tmp_path / 'none') == 0
  run = tmp_path / 'run'
  made_up.write_run(tmp_path, 'run', [0.5, 0.4, 0.3], num_steps=20)
  assert results.fraction(run) == 1
  assert run_files.read_result(run)['steps'] == 15
  (run / 'result.json').unlink()
  assert run_files.read_result(run) is None
  assert results.fraction(run) == 0.75
  (run / 'metrics.jsonl').write_text('')
  assert results.fraction(run) == 0
  (run / 'config.json').write_text('{')  # the run itself will say so
  assert results.fraction(run) == 0


def test_a_run_knows_its_words(tmp_path):
  loss = {'metric': 'mse', 'label': 'squared error', 'unit': 'm2', 'scale': 1.0}
  made_up.write_run(tmp_path, 'a', [3.0, 0.25], score=loss)
  [run] = results.collect(tmp_path).runs
  assert run.score == tasks.Score(**loss)
  assert run.final('mse') == 0.25
  assert run.final('second_metric') == 0.05
  assert run.final('error_rate') is None


def test_a_prefix_of_a_name_is_not_its_section():
  assert results.is_within('m', 'm')
  assert results.is_within('data.name', 'm', 'data')
  assert not results.is_within('model.name', 'm')
  assert not results.is_within('mixing.alpha', 'm', 'mixing.name')
