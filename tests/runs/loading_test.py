import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sam_jax
from sam_jax import methods
from sam_jax.runs import (
  checkpoints,
  evaluation,
  factories,
  loading,
  metrics_log,
  workdir,
)
from tests import tiny


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run directory with a checkpoint after each of its 10 steps."""
  directory = tmp_path_factory.mktemp('finished')
  tiny.train(
    directory, **{'checkpoint.every_steps': 1, 'checkpoint.max_to_keep': 10}
  )
  return directory


# Starts from `finished`, on one device.
STARTED = tiny.PLAIN | {'model.norm': 'batch', 'method.name': 'sgd'}


def _evaluate(directory, checkpoint):
  """The metrics of a loaded model, as a user would get them."""
  model, variables, config = sam_jax.load(directory, checkpoint)
  restored = loading.restore(directory, checkpoint)
  evaluation_examples = factories.load_data(config).evaluation
  images = evaluation_examples.images.astype(np.float32) / 255
  mean, std = (np.array(restored.task.info[name]) for name in ('mean', 'std'))
  images = ((images - mean) / std).astype(np.float32)
  logits = model.apply(variables, images, train=False)
  labels = {'label': evaluation_examples.labels}
  metrics = restored.task.example_metrics(logits, labels)
  return {name: float(np.mean(value)) for name, value in metrics.items()}


@pytest.mark.parametrize(('checkpoint', 'step'), [('last', 10), (5, 5)])
def test_a_loaded_model_makes_the_logged_errors(finished, checkpoint, step):
  (line,) = [
    x
    for x in metrics_log.read(finished)
    if x['step'] == step and 'test/loss' in x
  ]
  metrics = _evaluate(finished, checkpoint)
  assert metrics['error_rate'] == pytest.approx(
    line['test/error_rate'], abs=1e-7
  )
  # Float32 sums of 1,700 losses, in another order.
  assert metrics['loss'] == pytest.approx(line['test/loss'], rel=1e-5)


def test_a_restored_run_predicts_and_measures_all_examples(finished, capsys):
  restored = loading.restore(finished)
  examples = factories.load_data(restored.config).evaluation
  parts = list(restored.predict(examples, 1000))
  assert [len(part.outputs) for part in parts] == [1000, 717]
  expected = _evaluate(finished, 'last')
  for name, value in expected.items():
    values = np.concatenate([part.metrics[name] for part in parts])
    assert np.mean(values) == pytest.approx(value, rel=1e-5)


def test_best_is_the_step_that_result_json_names(finished):
  best_step = tiny.result(finished)['best_step']
  best = loading.load(finished, 'best').variables
  jax.tree.map(
    np.testing.assert_array_equal,
    best,
    loading.load(finished, best_step).variables,
  )


def test_load_gives_what_was_saved(finished):
  model, variables, config = sam_jax.load(str(finished), 3)
  state = tiny.state(finished, 3)
  assert variables.keys() == {'params', 'batch_stats'}
  for name, tree in variables.items():
    jax.tree.map(np.testing.assert_array_equal, tree, state[name])
  assert (model.num_classes, model.hidden) == (10, 8)
  assert (config.m, config.batch_size) == (4, 16)


@pytest.mark.slow
def test_a_run_that_keeps_an_average_is_logged_and_loaded_with_it(
  monkeypatch, tmp_path
):
  tiny.use_devices(monkeypatch, 1)
  tiny.train(tmp_path, **STARTED, **{'ema.decay': 0.9})
  state, variables = tiny.state(tmp_path), loading.load(tmp_path).variables
  jax.tree.map(np.testing.assert_array_equal, variables, state['ema'])
  assert variables['batch_stats']
  newest = state['params']['Dense_0']['kernel']
  assert np.any(variables['params']['Dense_0']['kernel'] != newest)
  *_, line = metrics_log.read(tmp_path)
  # Float32 sums of 1,700 losses, in another order.
  loss = _evaluate(tmp_path, 'last')['loss']
  assert loss == pytest.approx(line['test/loss'], rel=1e-5)


def test_an_average_that_is_not_kept_takes_no_room(finished):
  assert not jax.tree.leaves(tiny.state(finished).get('ema'))


def test_a_task_is_restored_without_its_data_set(finished, monkeypatch):
  monkeypatch.setattr(factories, 'load_data', lambda *_: pytest.fail('read'))
  restored = loading.restore(finished, 3)
  assert restored.step == 3
  info = dict(restored.task.info)
  assert info.pop('fingerprints').keys() == {'train', 'test'}
  assert info == {
    'num_classes': 10,
    'image_shape': [8, 8, 1],
    'mean': [0.3053],
    'std': [0.3759],
    'classes': list('0123456789'),
  }


@pytest.mark.slow
def test_a_run_whose_method_remembers_is_loaded(monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 1)
  fields = {'method.name': 'looksam', 'num_steps': 1}
  tiny.train(tmp_path, **tiny.PLAIN, **fields)
  jax.tree.map(
    np.testing.assert_array_equal,
    loading.load(tmp_path).variables['params'],
    tiny.state(tmp_path)['params'],
  )


def test_the_state_of_every_method_is_read_as_it_was_saved(tmp_path):
  params = {
    'kernel': jnp.arange(6.0).reshape(2, 3),
    'norm': {'scale': jnp.ones(3)},
  }
  ours = set(methods.names()) & set(methods.__all__)  # not those of plug-ins
  made = {name: methods.create(name) for name in ours}
  states = {name: method.init(params) for name, method in made.items()}
  # Zeros are what a state begins with.
  states = jax.tree.map(lambda x: jnp.ones_like(x), states)
  saved = checkpoints.Checkpoints(tmp_path)
  saved.save(states, checkpoints.JournalState(step=1), {})
  saved.wait()
  read = saved.read_state(1)
  saved.close()
  for name, method in made.items():
    found = loading.method_state_of(method, params, read[name])
    assert jax.tree.structure(found) == jax.tree.structure(states[name]), name
    jax.tree.map(np.testing.assert_array_equal, found, states[name])


def test_loading_writes_nothing(finished):
  before = tiny.tree(finished)
  loading.load(finished, 'best')
  assert tiny.tree(finished) == before


@pytest.mark.parametrize('checkpoint', [11, 0, 'newest', 'best '])
def test_a_checkpoint_that_is_not_there_is_one_line(finished, checkpoint):
  with pytest.raises(ValueError, match='has no checkpoint') as raised:
    loading.load(finished, checkpoint)
  assert str([*range(1, 11)]) in str(raised.value)
  assert '\n' not in str(raised.value)


def test_a_directory_without_a_run_or_checkpoint_is_one_line(tmp_path):
  with pytest.raises(ValueError, match='no run directory'):
    loading.load(tmp_path)
  workdir.write_config(tmp_path, tiny.config())
  before = tiny.tree(tmp_path)
  with pytest.raises(ValueError, match='no checkpoint yet'):
    loading.load(tmp_path)
  assert tiny.tree(tmp_path) == before


def test_a_run_of_another_edition_is_one_line(tmp_path):
  config = {'method': 'sam', 'sam': {'rho': 0.05}, 'model': {'name': 'cnn'}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match='another edition of sam_jax') as error:
    loading.restore(tmp_path)
  assert str(tmp_path) in str(error.value)
  assert '\n' not in str(error.value)


def test_best_is_refused_if_it_was_not_kept(monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 1)
  rates = [0.1, 0.5]
  monkeypatch.setattr(
    evaluation,
    'summarize',
    lambda *_: {'loss': 0.0, 'error_rate': rates.pop(0)},
  )
  fields = {'checkpoint.keep_best': False, 'checkpoint.max_to_keep': 1}
  tiny.train(tmp_path, **STARTED, **fields)
  with pytest.raises(ValueError, match=r"no checkpoint 'best'.*\[10\]"):
    loading.load(tmp_path, 'best')


def test_load_is_imported_when_it_is_asked_for():
  check = (
    'import sys, sam_jax\n'
    "assert 'sam_jax.runs' not in sys.modules\n"
    "assert 'ml_collections' not in sys.modules\n"
    'from sam_jax.runs import loading\n'
    'assert sam_jax.load is loading.load\n'
    'assert sam_jax.LoadedModel is loading.LoadedModel\n'
  )
  subprocess.run([sys.executable, '-c', check], cwd=tiny.ROOT, check=True)
  with pytest.raises(AttributeError, match='no_such_name'):
    _ = sam_jax.no_such_name


# --- Damaged checkpoints -----------------------------------------------------


def _truncate_arrays(directory, step):
  """Leaves a part of the largest file of a checkpoint."""
  files = (directory / 'checkpoints' / str(step) / 'state').rglob('*')
  path = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
  os.truncate(path, 100)
  return path


@pytest.fixture
def damaged(finished, tmp_path):
  """The finished run, of which the checkpoints 9 and 10 are damaged."""
  directory = shutil.copytree(finished, tmp_path / 'damaged')
  paths = [_truncate_arrays(directory, step) for step in (9, 10)]
  return directory, paths


def test_last_is_the_newest_that_is_intact_and_says_so(
  damaged, finished, capsys
):
  directory, paths = damaged
  before = tiny.tree(directory)
  assert loading.restore(directory).step == 8
  assert tiny.tree(directory) == before
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 2
  for line, path, step in zip(lines, reversed(paths), (10, 9), strict=True):
    assert line.startswith(f'warning: {path} has 100 bytes in place of ')
    assert f'step {step} is skipped, and step 8 is the last' in line
  jax.tree.map(
    np.testing.assert_array_equal,
    loading.load(directory).variables,
    loading.load(finished, 8).variables,
  )


def test_a_step_that_is_damaged_is_one_line(damaged):
  directory, (path, _) = damaged
  with pytest.raises(ValueError, match='checkpoint 9 cannot be used') as error:
    loading.load(directory, 9)
  assert str(path) in str(error.value)
  assert '\n' not in str(error.value)


def test_the_best_is_not_another_one_if_it_is_damaged(
  damaged, tmp_path, monkeypatch
):
  directory, (path, _) = damaged
  remembered = checkpoints.JournalState(best_step=9)
  monkeypatch.setattr(
    checkpoints.Checkpoints, 'read_journal', lambda *_: (remembered, {})
  )
  with pytest.raises(ValueError, match="'best' cannot be used") as error:
    loading.load(directory, 'best')
  assert str(path) in str(error.value)


def test_no_checkpoint_that_is_intact_is_one_line(finished, tmp_path):
  directory = shutil.copytree(finished, tmp_path / 'run')
  shutil.rmtree(directory / 'checkpoints')
  for name in ('3', '4'):
    (directory / 'checkpoints' / name).mkdir(parents=True)
  with pytest.raises(ValueError, match='none of the checkpoints') as error:
    loading.load(directory)
  for name in ('3', '4'):
    missing = directory / 'checkpoints' / name / 'checkpoint.json'
    assert f'{missing} is missing' in str(error.value)
  assert '\n' not in str(error.value)


# --- Starting from another run's weights -------------------------------------


@pytest.fixture(scope='module')
def started(finished, tmp_path_factory):
  """A run of one step that started from the finished one."""
  directory = tmp_path_factory.mktemp('started')
  fields = {'init_from': str(finished), 'learning_rate': 0.0, 'num_steps': 1}
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    tiny.train(directory, **STARTED, **fields)
  return directory


def test_init_from_starts_from_the_weights_of_another_run(finished, started):
  # Learning rate 0: the step changes no parameter.
  jax.tree.map(
    np.testing.assert_array_equal,
    tiny.state(started)['params'],
    loading.load(finished).variables['params'],
  )


def test_init_from_takes_the_batch_norm_statistics_too(finished, started):
  old = loading.load(finished).variables['batch_stats']
  new = tiny.state(started)['batch_stats']
  fresh = {'mean': 0.0, 'var': 1.0}
  for layer, stats in new.items():
    for name, values in stats.items():
      # One step moves them by at most a tenth of the way to the batch's.
      moved = np.linalg.norm(values - old[layer][name])
      reset = np.linalg.norm(np.asarray(old[layer][name]) - fresh[name])
      assert moved < reset


def test_init_from_starts_training_anew(started):
  assert tiny.state(started)['step'] == 1
  assert [line['step'] for line in metrics_log.read(started)] == [1, 1]


def test_init_from_is_not_needed_to_resume(monkeypatch, finished, tmp_path):
  tiny.use_devices(monkeypatch, 1)
  source = tmp_path / 'source'
  source.symlink_to(finished)
  fields = STARTED | {'init_from': str(source), 'schedule.name': 'constant'}
  tiny.train(tmp_path / 'run', **fields, num_epochs=1)
  source.unlink()
  assert tiny.train(tmp_path / 'run', **fields, num_epochs=2)['steps'] == 10


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'model.hidden': 9}, r'Dense_0/bias .*needs \[9\], found \[8\]'),
    ({'model.features': (4, 4)}, 'BatchNorm_1/bias is missing'),
    ({'model.features': ()}, 'BatchNorm_0/bias is unexpected'),
  ],
)
def test_weights_that_do_not_fit_are_one_line(
  finished, tmp_path, fields, message
):
  with pytest.raises(ValueError, match=message) as raised:
    tiny.train(tmp_path / 'run', init_from=str(finished), **fields)
  assert '\n' not in str(raised.value)
  assert not (tmp_path / 'run').exists()


def test_a_source_that_is_no_run_is_one_line(tmp_path):
  with pytest.raises(ValueError, match='no run directory'):
    tiny.train(tmp_path / 'run', init_from=str(tmp_path))
  assert not (tmp_path / 'run').exists()


def test_reading_beside_a_run_that_trains_leaves_its_files(tmp_path):
  """A half-written checkpoint may be one that is being written."""
  partial = tmp_path / 'checkpoints' / '7.partial'
  partial.mkdir(parents=True)
  checkpoints.Checkpoints(tmp_path / 'checkpoints', read_only=True).close()
  assert partial.exists()
