"""What precedes the first step."""

import json
import shutil

import jax
import numpy as np
import pytest

from sam_jax.runs import (
  checkpoints,
  dry_run,
  factories,
  initialization,
  metrics_log,
  preparation,
  workdir,
)
from tests import legacy_files, tiny


def _begin(config, directory):
  """Returns a run that has begun; its lock is given back."""
  with preparation.begin(config, directory) as begun:
    return begun


def _write(directory, config, **files):
  """Makes a run directory as a run leaves it."""
  workdir.write_config(directory, config)
  for name, text in files.items():
    (directory / name.replace('_', '.')).write_text(text)


def _save_checkpoint(directory, step, rows=()):
  """Saves a checkpoint that knows of some rows."""
  saved = checkpoints.Checkpoints(
    directory / 'checkpoints', run_id=workdir.run_id(directory), max_to_keep=2
  )
  known = metrics_log.Rows.of(rows)
  journal = checkpoints.JournalState(
    step=step, rows=known.number, rows_checksum=known.checksum
  )
  saved.save({'w': np.ones(3)}, journal, {})
  saved.close()


def test_a_new_run_writes_its_config_and_starts_at_step_0(tmp_path):
  begun = _begin(tiny.config(), tmp_path / 'run')
  assert begun.result is None
  assert int(begun.state.step) == 0
  saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert saved['batch_size'] == begun.config.batch_size


def test_what_a_kill_left_half_written_is_cleared(tmp_path):
  _begin(tiny.config(), tmp_path)
  names = tiny.tree(tmp_path).keys()
  for name in ('config.json.1a2b3c4d.partial', '.lock.owner.1a2b3c4d.partial'):
    (tmp_path / name).write_text('{')
  assert _begin(tiny.config(), tmp_path).result is None
  assert tiny.tree(tmp_path).keys() == names


def test_what_is_only_looked_at_writes_nothing(tmp_path, monkeypatch, capsys):
  """Without a directory, as a sweep looks at the cost of its runs."""
  monkeypatch.chdir(tmp_path)
  unset = tiny.config(**{'m': None, 'microbatch_size': None})
  prepared = preparation.prepare(unset)
  assert (prepared.config.m, prepared.workdir) == (2, None)
  assert prepared.experiment.num_steps == 10
  assert capsys.readouterr().err == ''
  preparation.prepare(tiny.config(), 'run')
  assert tiny.tree(tmp_path) == {}


def test_paths_are_those_of_the_users_directory(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  begun = _begin(tiny.config(), 'run')
  assert begun.workdir == tmp_path / 'run'
  config = tiny.config(init_from='~/weights')
  with pytest.raises(FileNotFoundError, match=str(tmp_path / 'weights')):
    _begin(config, 'other')
  config = tiny.config(**{'data.directory': '~/data'})
  with pytest.raises(ValueError, match=str(tmp_path / 'data')):
    _begin(config, 'other')


def test_the_directory_is_taken_until_the_context_is_left(tmp_path):
  with (
    preparation.begin(tiny.config(), tmp_path),
    pytest.raises(ValueError, match='is in use by process'),
  ):
    _begin(tiny.config(), tmp_path)
  _begin(tiny.config(), tmp_path)


def test_a_run_that_failed_before_its_first_step_leaves_the_directory_free(
  tmp_path,
):
  _write(tmp_path, tiny.config(learning_rate=0.5), metrics_jsonl='')
  begun = _begin(tiny.config(), tmp_path)
  assert begun.config.learning_rate == tiny.config().learning_rate


def test_a_run_that_has_logged_keeps_its_directory(tmp_path):
  _write(
    tmp_path, tiny.config(learning_rate=0.5), metrics_jsonl='{"step": 1}\n'
  )
  with pytest.raises(ValueError, match=r'learning_rate is 0\.\d+, was 0.5'):
    _begin(tiny.config(), tmp_path)


@pytest.mark.parametrize('steps, is_whole', [(5, True), (7, False)])
def test_only_a_run_of_whole_epochs_can_be_made_longer(
  tmp_path, steps, is_whole
):
  fields = {'schedule.name': 'constant', 'num_steps': 10}
  config = tiny.config(**fields | {'num_steps': steps})
  _write(tmp_path, config, metrics_jsonl='')
  workdir.write_result(tmp_path, {'steps': steps})
  _save_checkpoint(tmp_path, steps)
  assert tiny.STEPS_PER_EPOCH == 5
  if is_whole:
    assert _begin(tiny.config(**fields), tmp_path).result is None
  else:
    with pytest.raises(ValueError, match='ended within an epoch, at step 7'):
      _begin(tiny.config(**fields), tmp_path)


def test_a_finished_run_comes_with_its_result(tmp_path):
  _begin(tiny.config(), tmp_path)
  workdir.write_result(tmp_path, {'steps': 10})
  begun = _begin(tiny.config(), tmp_path)
  assert begun.result == {'steps': 10}


# --- Damage; tests/faults/damage_test.py has all kinds ------------------------


def test_a_run_without_its_config_is_not_continued_by_another(tmp_path):
  _write(tmp_path, tiny.config(), metrics_jsonl='')
  _save_checkpoint(tmp_path, 3)
  (tmp_path / 'config.json').unlink()
  before = tiny.tree(tmp_path)
  with pytest.raises(ValueError, match=r'config\.json is missing') as error:
    _begin(tiny.config(seed=1), tmp_path)
  assert '\n' not in str(error.value)
  assert tiny.tree(tmp_path) == before


def test_a_damaged_checkpoint_is_said_and_kept_aside(tmp_path, capsys):
  _write(tmp_path, tiny.config(), metrics_jsonl='')
  _save_checkpoint(tmp_path, 3)
  (tmp_path / 'checkpoints' / '4').mkdir()
  assert isinstance(
    jax.tree.leaves(_begin(tiny.config(), tmp_path).state)[0],
    jax.ShapeDtypeStruct,
  )
  assert capsys.readouterr().err == (
    f'warning: {tmp_path}/checkpoints/4/checkpoint.json is missing; step 4 is '
    'skipped, and the run is resumed from step 3\n'
  )
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == [
    '3',
    '4.damaged',
  ]


@pytest.mark.parametrize('start', ['train', 'dry_run'])
def test_without_an_intact_checkpoint_nothing_starts(tmp_path, start):
  _write(tmp_path, tiny.config(), metrics_jsonl='')
  (tmp_path / 'checkpoints' / '4').mkdir(parents=True)
  before = tiny.tree(tmp_path)
  with pytest.raises(ValueError, match='none of the checkpoints in') as error:
    _STARTS[start](tiny.config(), tmp_path)
  assert '\n' not in str(error.value)
  assert tiny.tree(tmp_path) == before


def test_a_damaged_result_without_a_checkpoint_is_refused(tmp_path):
  _write(tmp_path, tiny.config(), metrics_jsonl='', result_json='{}')
  before = tiny.tree(tmp_path)
  with pytest.raises(ValueError, match=r'result\.json is damaged.*no checkpo'):
    _begin(tiny.config(), tmp_path)
  assert tiny.tree(tmp_path) == before


def test_a_damaged_result_is_written_again_from_the_checkpoint(
  tmp_path, capsys
):
  _write(tmp_path, tiny.config(), metrics_jsonl='', result_json='{}')
  _save_checkpoint(tmp_path, 10)
  assert _begin(tiny.config(), tmp_path).result is None
  said = capsys.readouterr().err
  assert f'{tmp_path}/result.json is damaged: it has no seal' in said
  assert said.endswith('the run is resumed from step 10, and writes it\n')
  assert said.count('\n') == 1


def test_a_log_that_lacks_rows_names_the_checkpoint_that_it_fits(tmp_path):
  _write(tmp_path, tiny.config(), metrics_jsonl='')
  rows = [{'step': i, 'epoch': i / 5} for i in range(1, 5)]
  for step in (2, 4):
    _save_checkpoint(tmp_path, step, rows[:step])
  path = tmp_path / 'metrics.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows[:3]))
  message = (
    r'metrics\.jsonl does not hold its first 4 rows .* until step 4; put it '
    'back from a copy, or remove the checkpoints after step 2'
  )
  with pytest.raises(ValueError, match=message):
    _begin(tiny.config(), tmp_path)
  shutil.rmtree(tmp_path / 'checkpoints' / '4')
  _begin(tiny.config(), tmp_path)


# --- Weights to start from ---------------------------------------------------


def _official_file(directory, num_classes=10, **fields):
  """Writes variables of the tiny model as the official release would have.

  Returns its path and the variables.
  """
  config = tiny.config(**fields)
  model = factories.create_model(config, {'num_classes': num_classes})
  images = np.zeros((1, 8, 8, 1), np.float32)
  variables = dict(initialization.init_variables(model, images, 7))
  file = directory / 'checkpoint_3'
  content = legacy_files.training(jax.tree.map(np.asarray, variables))
  file.write_bytes(legacy_files.pack(content))
  return str(file), variables


def test_a_run_starts_from_an_official_file(tmp_path, capsys):
  file, variables = _official_file(tmp_path)
  begun = _begin(tiny.config(init_from=file), tmp_path / 'run')
  state = begun.state
  found = {'params': state.params, 'batch_stats': state.batch_stats}
  jax.tree.map(np.testing.assert_array_equal, found, variables)
  assert f'initialised from {file}: ' in capsys.readouterr().out


def test_the_classifier_is_initialised_where_the_classes_differ(
  tmp_path, capsys
):
  file, variables = _official_file(tmp_path, num_classes=1000)
  begun = _begin(tiny.config(init_from=file), tmp_path / 'run')
  fresh = _begin(tiny.config(), tmp_path / 'fresh').state.params
  found = begun.state.params
  for name in found:
    expected = fresh if name == 'Dense_1' else variables['params']
    jax.tree.map(np.testing.assert_array_equal, found[name], expected[name])
  out = capsys.readouterr().out
  assert 'classifier Dense_1 is new: 1000 -> 10 classes' in out


_STARTS = {
  'train': lambda config, path: _begin(config, path),
  'dry_run': lambda config, path: dry_run.run(config, path),
}


@pytest.mark.parametrize('start', _STARTS)
def test_bad_weights_are_refused_before_anything_is_written(
  tmp_path, start, monkeypatch
):
  compiled = []
  monkeypatch.setattr(
    dry_run, 'describe', lambda *_, **__: compiled.append(1) or {}
  )
  file, _ = _official_file(tmp_path, **{'model.hidden': 9})
  for source, error, message in (
    (file, ValueError, r'params/Dense_0/bias .* needs \[8\], found \[9\]'),
    (str(tmp_path / 'missing'), FileNotFoundError, 'there is no .*missing'),
    (str(tmp_path.parent), ValueError, 'no run directory'),
  ):
    with pytest.raises(error, match=message):
      _STARTS[start](tiny.config(init_from=source), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
  assert not compiled


def test_a_dry_run_says_what_it_would_start_from(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(dry_run, 'describe', lambda *_, **__: {})
  file, _ = _official_file(tmp_path)
  dry_run.run(tiny.config(init_from=file), tmp_path / 'run')
  assert f'initialised from {file}: ' in capsys.readouterr().out


def test_a_dry_run_of_a_run_that_has_begun_needs_no_weights(
  tmp_path, monkeypatch
):
  tiny.use_devices(monkeypatch, 1)
  monkeypatch.setattr(dry_run, 'describe', lambda *_, **__: {})
  file, _ = _official_file(tmp_path)
  fields = tiny.PLAIN | {
    'method.name': 'sgd',
    'model.norm': 'batch',
    'schedule.name': 'constant',
    'init_from': file,
  }
  tiny.train(tmp_path / 'run', **fields, num_steps=1)
  (tmp_path / 'checkpoint_3').unlink()
  dry_run.run(tiny.config(**fields, num_steps=5), tmp_path / 'run')
