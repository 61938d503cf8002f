"""A task of a plug-in, from the command line, with its own score and words."""

import csv
import json

import pytest

from sam_jax.runs import files, workdir
from tests import tiny

SWEEP = """
from sam_jax.sweeps import cells

def get_sweep():
  base = {
    'config': 'digits',
    'plugins': ('tests.plugins.regression',),
    'task.name': 'digit_regression',
    'task.largest': 9.0,  # a field that only the plug-in has
    'model.features': (4,),
    'model.hidden': 8,
    'data.train_size': 100,
    'num_steps': 3,
    'learning_rate': 0.01,
    'microbatch_size': 25,
    'm': 25,
  }
  methods = [{'method.name': 'sgd'}, {'method.name': 'sam', 'method.rho': 0.05}]
  return cells.Sweep(cells.product([base], methods))
"""


@pytest.mark.slow
def test_a_task_of_a_plugin_is_swept_reported_analysed_and_evaluated(
  command, tmp_path, monkeypatch
):
  monkeypatch.setenv('XLA_FLAGS', '')  # of the cells: one device
  (tmp_path / 'own.py').write_text(SWEEP)
  runs = tmp_path / 'runs'
  done = command('sweep', f'--sweep={tmp_path / "own.py"}', f'--workdir={runs}')
  assert done.status == 0, done.out + done.err
  assert '2 of 2 cells are finished' in done.out
  assert 'test squared error 0.' in done.out
  results = [
    json.loads(path.read_text()) for path in sorted(runs.glob('*/result.json'))
  ]
  assert [r['score']['label'] for r in results] == ['squared error'] * 2
  assert command('report', runs).status == 0
  with (runs / 'report' / 'table.csv').open() as stream:
    rows = list(csv.DictReader(stream))
  assert {row['squared error'] for row in rows} == {
    f'{result["final_score"]:.4g}' for result in results
  }
  assert 'error, %' not in rows[0]
  # A short name, for the picture.
  run = next(path.parent for path in runs.glob('*name=sam*/result.json'))
  run = run.rename(tmp_path / 'sam')
  done = command('analyze', 'sharpness', f'--workdir={run}', '--groups=1')
  assert done.status == 0, done.err
  done = command('evaluate', f'--workdir={run}', '--split=test')
  assert done.status == 0, done.err
  found = json.loads(done.out)
  (result,) = (r for r in results if r['gradient_evaluations'] == 6)
  assert found['squared_error'] == pytest.approx(
    result['final_score'], rel=1e-4
  )
  header = files.user_path(found['predictions']).read_text().splitlines()[0]
  assert header == 'index,label,output'


@pytest.mark.parametrize(
  'arguments',
  [
    ('evaluate',),
    ('analyze', 'hessian'),
    ('train', '--config=digits', "--config.plugins=('other',)"),
  ],
  ids=lambda x: x[0],
)
def test_no_plugins_refuses_what_names_some(command, tmp_path, arguments):
  config = tiny.config(plugins=('plugin_of_a_stranger',))
  workdir.write_config(tmp_path, config)
  done = command(*arguments, f'--workdir={tmp_path}', '--no_plugins')
  assert done.status == 2
  assert 'names the plug-ins' in done.err and done.err.count('\n') == 1
