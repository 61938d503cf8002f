"""The sweep command and the report of what it ran."""

import csv
import shlex

import pytest
from matplotlib import pyplot as plt

from sam_jax import configs
from sam_jax.runs import lock
from sam_jax.sweeps import (
  cells as cells_lib,
  check,
  overrides,
  pool,
  run_files,
  smoke,
)
from tests import tiny
from tests.sweeps import made_up


def _sweep_file(directory, *axes, **fields):
  """Writes a sweep over a tiny config; returns its path and its cells."""
  axes = [{'config': [str(tiny.config_file(directory, **fields))]}, *axes]
  path = directory / 'my_sweep.py'
  path.write_text(
    'from sam_jax.sweeps.cells import Sweep, product\n'
    f'def get_sweep():\n  return Sweep(product(*{axes!r}))\n'
  )
  return path, cells_lib.product(*axes)


def _lines(command, path, workdir, *rest):
  """The commands that a sweep prints, as lists of words."""
  done = command(
    'sweep', f'--sweep={path}', f'--workdir={workdir}', '--emit=shell', *rest
  )
  assert done.status == 0, done.err
  return list(map(shlex.split, done.out.splitlines()[1:]))


def test_a_shipped_sweep_is_found_by_name_from_any_directory(
  command, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  for name in ('digits_noise', 'configs/sweeps/digits_noise.py'):
    lines = _lines(command, name, 'runs')
    assert len(lines) == 330
    assert f'--config={configs.find("digits")}' in lines[0]
    assert lines[0][-1].startswith(f'--workdir={tmp_path}/runs/digits.py,')
  assert not (tmp_path / 'runs').exists()


def test_fields_are_set_for_the_cells_that_are_chosen(command, tmp_path):
  path, cells = _sweep_file(
    tmp_path, {'method.rho': [0.1, 0.2], 'seed': [4, 5]}
  )
  options = (r'--only=rho=0\.2.*seed=[5-9]', '--set=learning_rate=0.5')
  [line] = _lines(command, path, tmp_path / 'runs', *options)
  cell = overrides.with_fields(cells[3], {'learning_rate': 0.5})
  assert line[3:] == cells_lib.arguments(cell, tmp_path / 'runs')
  small = _lines(command, path, tmp_path / 'runs', '--scale=smoke')
  assert len(small) == 2
  for line in small:
    assert {'--config.seed=4', '--config.num_steps=3'} <= set(line)


def test_a_grid_of_the_command_line_is_a_sweep(command, tmp_path):
  path = tiny.config_file(tmp_path)
  done = command(
    'sweep',
    f'--config={path}',
    *('--grid', 'method.rho=0.05,0.1', 'model.features=(4,8),None', 'seed=3'),
    f'--workdir={tmp_path}/runs',
    *('--config.learning_rate=1', '--set=num_epochs=1', '--emit=shell'),
  )
  assert done.status == 0, done.err
  base = {'config': str(path), 'num_epochs': 1, 'learning_rate': 1.0}
  axes = {'method.rho': [0.05, 0.1], 'model.features': [(4, 8), None]}
  cells = cells_lib.product([base], axes, {'seed': [3]})
  lines = list(map(shlex.split, done.out.splitlines()[1:]))
  runs = tmp_path / 'runs'
  assert [x[3:] for x in lines] == [cells_lib.arguments(c, runs) for c in cells]


@pytest.mark.parametrize(
  ('option', 'is_replaced'),
  [
    ('--set=data.directory=gone', False),
    ('--config.data.directory=gone', False),
  ]
  + [('--set=seed=1', True)],
)
def test_nothing_replaces_data_whose_directory_is_given(
  command, tmp_path, monkeypatch, option, is_replaced
):
  monkeypatch.setattr(smoke, '_is_missing', lambda name, directory: True)
  done = command(
    *('sweep', '--config=cifar10', '--grid', 'method.rho=0.05', option),
    *('--scale=smoke', f'--workdir={tmp_path}/runs', '--emit=shell'),
  )
  assert done.status == 0, done.err
  assert ('fake_cifar10' in done.out) == is_replaced


def test_a_grid_of_models_says_what_it_leaves_out(command, tmp_path):
  done = command(
    *('sweep', '--config=digits', '--grid=model.name=cnn,Resnet50'),
    *('--emit=slurm', f'--workdir={tmp_path}/runs'),
  )
  assert done.status == 0
  assert '--job-name=digits\n' in done.out and '--array=0-1\n' in done.out
  assert done.err.count('\n') == 1 and "model.activation='silu'" in done.err


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (('--grid', 'seed=0,1', '--sweep=table1'), 'cannot be used with --sweep'),
    (('--grid', 'seed'), "--grid has 'seed'; it must have the form FIELD="),
    (('--grid', 'seed=0,'), "--grid has 'seed=0,'; it must have the form"),
    (('--grid', 'seed=0,0'), '--grid has seed=0 twice'),
    (('--grid', 'm=5', 'm=25'), '--grid has m twice'),
    (('--grid', 'lr=1,2'), "no field 'lr' (did you mean 'learning_rate'?)"),
    (('--grid', 'm=5,x'), "invalid literal for int() with base 10: 'x'"),
    (('--grid', 'batch_size=5,None'), 'batch_size may not be None'),
    (('--grid', 'seed=1', '--config.seed=2'), 'by --config.seed and by --grid'),
    (('--grid', 'seed=1,2', '--set=seed=2'), 'the cells differ in it: 1, 2'),
    ((), 'give --sweep=NAME, or --config=NAME with --grid FIELD='),
    (('--sweep=table1',), '--config belongs to --grid'),
    (('--rho=1',), 'unknown flag --rho; did you mean --config.method.rho?'),
  ],
)
def test_a_bad_grid_is_one_line(command, tmp_path, options, message):
  runs = tmp_path / 'runs'
  where = f'--workdir={runs}'
  done = command('sweep', '--config=digits', where, *options, '--emit=shell')
  assert (done.status, done.out) == (2, '')
  assert done.err.startswith('sweep: ') and done.err.count('\n') == 1
  assert message in done.err
  assert not runs.exists()


def test_a_grid_without_a_config_is_refused(command, tmp_path):
  done = command('sweep', '--grid=seed=0,1', f'--workdir={tmp_path}/runs')
  assert done.err == 'sweep: --grid needs --config, the config of all cells\n'


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (('--set=seed=3',), 'the cells differ in it: 0, 1; choose cells by --only'),
    (('--set=config=digits',), 'a config file is no field'),
    (('--set=m=2', '--set=m=4'), '--set=m is given twice'),
    (('--set=seed',), '--set=seed does not have the form FIELD=VALUE'),
    (('--only=rho=0.3',), "'rho=0.3' matches none of 2 cells"),
    (('more',), 'unknown arguments: more'),
    (('--sweep=table12',), "unknown sweep 'table12'; known: digits_m, "),
    (('--workdir=gs://bucket/runs',), 'gs://bucket/runs'),
    (('--ray=127.0.0.1:1', '--gpus_per_cell=-1'), 'gpus_per_cell'),
    (('--ray=127.0.0.1:1', '--workers=2', '--gpus=0'), '--workers, --gpus'),
    (('--cpus_per_cell=1', '--dry_run'), '--cpus_per_cell needs --ray'),
  ],
)
def test_a_bad_command_is_one_line(command, tmp_path, options, message):
  path, _ = _sweep_file(tmp_path, {'seed': [0, 1]})
  runs = tmp_path / 'runs'
  done = command('sweep', f'--sweep={path}', f'--workdir={runs}', *options)
  assert done.status == 2
  assert done.err.startswith('sweep: ') and done.err.count('\n') == 1
  assert message in done.err
  assert not runs.exists()


def test_a_second_sweep_is_one_line(command, tmp_path):
  path, _ = _sweep_file(tmp_path, {'seed': [0, 1]})
  runs = tmp_path / 'runs'
  with lock.hold(runs, 'sweep'):
    done = command('sweep', f'--sweep={path}', f'--workdir={runs}')
  assert done.status == 2
  assert 'sweep directory' in done.err and 'in use by process' in done.err
  assert done.err.count('\n') == 1


def test_a_dry_run_runs_nothing(command, tmp_path, monkeypatch):
  tiny.use_devices(monkeypatch, 1)
  path, _ = _sweep_file(tmp_path, {'seed': [0, 1]}, num_steps=7, **tiny.PLAIN)
  runs = tmp_path / 'runs'
  done = command(
    'sweep',
    f'--sweep={path}',
    f'--workdir={runs}',
    *('--dry_run', '--time_steps=0'),
  )
  assert done.status == 0, done.err
  assert 'left to do: 28 gradient evaluations' in done.out
  assert not runs.exists()


@pytest.mark.parametrize('mode', [(), ('--dry_run',), ('--emit=shell',)])
def test_a_field_that_no_cell_has_is_said_once(
  command, tmp_path, monkeypatch, mode
):
  monkeypatch.setattr(
    pool.Pool, 'check', lambda self, cells: check.problems(cells, tmp_path)
  )
  path, _ = _sweep_file(tmp_path, {'seed': range(30)})
  runs = tmp_path / 'runs'
  where = (f'--sweep={path}', f'--workdir={runs}')
  done = command('sweep', *where, '--set=sam.roh=0.1', *mode)
  assert done.status == 2
  assert done.err.startswith(
    "sweep: 30 of 30 cells cannot be run: the config has no field 'sam.roh'"
  )
  assert done.err.count('\n') == 1
  # What can be told is told all the same.
  assert done.out.count('seed=') == (30 if mode == ('--dry_run',) else 0)
  assert not runs.exists()


@pytest.mark.slow
def test_a_shipped_sweep_is_run_and_reported(command, tmp_path, monkeypatch):
  """Mixup, and a run on the labels that it predicts: the only real training."""
  monkeypatch.setenv('XLA_FLAGS', '')
  runs = tmp_path / 'runs'
  done = command(
    'sweep',
    '--sweep=digits_noise',
    f'--workdir={runs}',
    '--scale=smoke',
    '--only=test.*noise=0.4.*mixup.*same',
  )
  assert done.status == 0, done.out + done.err
  assert '2 of 2 cells are finished' in done.out
  found = [
    run_files.read_result(path.parent) for path in runs.glob('*/config.json')
  ]
  assert [result['steps'] for result in found] == [3, 3]
  [second] = [p for p in runs.glob('*/config.json') if 'same' in str(p)]
  log = runs / 'logs' / f'{second.parent.name}.log'
  assert 'labels from ' in log.read_text()
  done = command('report', runs, '--sweep=digits_noise')
  assert done.status == 0, done.err
  with (runs / 'report' / 'table.csv').open() as stream:
    rows = list(csv.DictReader(stream))
  assert sorted(row['labels_from'] for row in rows) == ['', 'same']
  errors = {f'{100 * result["final_score"]:.2f}' for result in found}
  assert {row['error, %'] for row in rows} == errors


# --- The report --------------------------------------------------------------


def test_a_report_has_tables_and_pictures(command, tmp_path):
  runs = made_up.sweep(tmp_path / 'runs')
  path, _ = _sweep_file(tmp_path, {'seed': [0]})
  made_up.write_run(runs, 'unfinished', [0.5], finished=False)
  made_up.write_run(runs, 'old', [0.5])
  (runs / 'old' / 'result.json').write_text('{"final_error_rate": 0.5}')
  done = command('report', runs, f'--sweep={path}')
  assert done.status == 0, done.err
  assert '12.50 ± 6.35' in done.out
  assert '1 runs are not finished and left out' in done.out
  assert f'warning: left out: {runs}/old/result.json ' in done.out
  names = ['curves', 'score_vs_gradients', 'score_vs_rho', 'score_vs_seconds']
  pictures = sorted((runs / 'report').glob('*.png'))
  assert [picture.stem for picture in pictures] == names
  for picture in pictures:
    assert str(picture) in done.out
    assert plt.imread(picture).std() > 0.01


@pytest.mark.parametrize(
  ('kind', 'message'),
  [
    ('nothing', 'no runs in it'),
    ('unfinished', 'none of the 1 runs'),
    ('old', 'none of the 1 runs'),
  ],
)
def test_where_there_is_nothing_to_report_one_line_says_so(
  command, tmp_path, kind, message
):
  if kind == 'unfinished':
    made_up.write_run(tmp_path, 'a', [0.5], finished=False)
  if kind == 'old':
    made_up.write_run(tmp_path, 'a', [0.5])
    (tmp_path / 'a' / 'result.json').write_text('{"final_error_rate": 0.5}')
  done = command('report', tmp_path)
  assert (done.status, done.out) == (2, '')
  assert message in done.err
  assert done.err.count('\n') == 1


# --- The search for rho ------------------------------------------------------


def test_a_search_that_is_finished_recommends(command, tmp_path, monkeypatch):
  """By the scores of its runs, which it does not make again."""
  monkeypatch.chdir(tmp_path)
  data = {'data.name': 'fake_cifar10'}
  path = tiny.config_file(tmp_path, num_epochs=2, **data)
  for rho, seed in ((0.0, 0), (0.0, 1), (0.1, 0), (0.1, 1)):
    cell = {
      'config': path.name,
      'num_epochs': 1,
      'data.split': 'validation',
      'method.rho': rho,
      'seed': seed,
    }
    fields = {k: v for k, v in cell.items() if k != 'config'}
    name = cells_lib.cell_name(cell)
    made_up.write_run(tmp_path / 'runs', name, [0.5 - rho], **fields, **data)
  done = command(
    'find_rho',
    f'--config={path.name}',
    '--workdir=runs',
    *('--rhos=0.1', '--seeds=2', '--set=num_epochs=1'),
  )
  assert done.status == 0, done.out + done.err
  assert '4 of 4 cells are finished' in done.out
  assert 'validation error, %   n' in done.out
  assert 'best on the validation split: rho = 0.1' in done.out
  assert 'these numbers say nothing about cifar10' in done.out
  assert plt.imread(tmp_path / 'runs' / 'rho.png').std() > 0.01


def test_a_search_that_cannot_be_made_is_one_line(command, tmp_path):
  runs = tmp_path / 'runs'
  done = command(
    'find_rho', '--config=digits', f'--workdir={runs}', '--rhos=-1'
  )
  assert done.status == 2
  assert done.err.startswith('find_rho: --rhos has -1; rho is a radius')
  assert done.err.count('\n') == 1
  assert not runs.exists()
