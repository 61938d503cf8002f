"""What precedes the first step."""

import json

import pytest
import tiny

from sam_jax import preparation, workdir


def _write(directory, config, **files):
  """Makes a run directory as a run leaves it."""
  workdir.write_config(directory, config)
  for name, text in files.items():
    (directory / name.replace('_', '.')).write_text(text)


def test_a_new_run_writes_its_config_and_starts_at_step_0(tmp_path):
  prepared = preparation.prepare(tiny.config(), tmp_path / 'run')
  assert prepared.result is None
  assert int(prepared.state.step) == 0
  saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert saved['batch_size'] == prepared.config.batch_size


def test_a_run_that_failed_before_its_first_step_leaves_the_directory_free(
  tmp_path,
):
  _write(tmp_path, tiny.config(learning_rate=0.5), metrics_jsonl='')
  prepared = preparation.prepare(tiny.config(), tmp_path)
  assert prepared.config.learning_rate == tiny.config().learning_rate


def test_a_run_that_has_logged_keeps_its_directory(tmp_path):
  _write(
    tmp_path, tiny.config(learning_rate=0.5), metrics_jsonl='{"step": 1}\n'
  )
  with pytest.raises(ValueError, match=r'learning_rate is 0\.\d+, was 0.5'):
    preparation.prepare(tiny.config(), tmp_path)


@pytest.mark.parametrize('steps, is_whole', [(5, True), (7, False)])
def test_only_a_run_of_whole_epochs_can_be_made_longer(
  tmp_path, steps, is_whole
):
  fields = {'schedule.name': 'constant', 'num_steps': 10}
  _write(
    tmp_path,
    tiny.config(**fields | {'num_steps': steps}),
    metrics_jsonl='{"step": 5}\n',
    result_json=json.dumps({'steps': steps}),
  )
  assert tiny.STEPS_PER_EPOCH == 5
  if is_whole:
    assert preparation.prepare(tiny.config(**fields), tmp_path).result is None
  else:
    with pytest.raises(ValueError, match='ended within an epoch, at step 7'):
      preparation.prepare(tiny.config(**fields), tmp_path)


def test_a_finished_run_comes_with_its_result(tmp_path):
  _write(
    tmp_path,
    tiny.config(),
    metrics_jsonl='{"step": 10}\n',
    result_json=json.dumps({'steps': 10}),
  )
  prepared = preparation.prepare(tiny.config(), tmp_path)
  assert prepared.result == {'steps': 10}
  assert prepared.state is None
