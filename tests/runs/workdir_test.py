import json
import pathlib

import ml_collections
import pytest

from sam_jax.runs import config_files, workdir
from tests import tiny


def _saved(directory, **fields):
  """Writes the config of a run and reads it back."""
  workdir.write_config(directory, tiny.config(**fields))
  return workdir.read_config(directory)


def _filled(config):
  """The config with the defaults of its method, as a run has it."""
  config = config.copy_and_resolve_references()
  config_files.fill_method(config)
  return config


def test_a_directory_without_a_run_has_no_config(tmp_path):
  assert workdir.read_config(tmp_path) is None
  assert workdir.read_config(tmp_path / 'missing') is None


def test_the_same_config_is_adopted_after_a_round_trip(tmp_path):
  saved = _saved(tmp_path)
  assert workdir.adopt(tiny.config(), saved) == _filled(tiny.config())


def test_m_and_microbatch_size_come_from_the_run_if_they_are_unset(tmp_path):
  saved = _saved(tmp_path)
  unset = tiny.config(**{'m': None, 'microbatch_size': None})
  adopted = workdir.adopt(unset, saved)
  assert (adopted.m, adopted.microbatch_size) == (4, 2)
  assert unset.m is None


@pytest.mark.parametrize(
  'fields',
  [
    {'method.rho': 0.1},
    {'m': 8},
    {'microbatch_size': 1},
    {'seed': 1},
    {'data.seed': 1},
    {'data.label_noise': 0.2},
    {'method.name': 'sgd'},
    {'method.rho_schedule': 'linear'},
    {'task.name': 'other'},
    {'batch_size': 32},
    {'model.features': (8,)},
    {'model.norm': 'none'},
    {'compute_dtype': 'bfloat16'},
    {'matmul_precision': 'float32'},
    {'augmentation.name': 'none'},
    {'num_epochs': 3},
    {'num_steps': 12},
    {'init_from': 'elsewhere'},
    {'labels_from': 'elsewhere'},
    {'plugins': ('other',)},
  ],
  ids=str,
)
def test_another_run_is_refused_and_the_field_named(tmp_path, fields):
  saved = _saved(tmp_path)
  ((name, value),) = fields.items()
  with pytest.raises(ValueError, match=f'{name} is .*, was ') as raised:
    workdir.adopt(tiny.config(**fields), saved)
  message = str(raised.value)
  assert '\n' not in message
  assert message.count(', was ') == 1
  assert repr(json.loads(json.dumps(value))) in message


@pytest.mark.parametrize(
  'fields',
  [
    {'log.every_steps': 7},
    {'log.tensorboard': True},
    {'log.progress_seconds': 1.0},
    {'checkpoint.every_steps': 2},
    {'checkpoint.keep_best': False},
    {'checkpoint.max_to_keep': 5},
    {'checkpoint.at_epochs': (1,)},
    {'parallel': 'pmap'},
    {'microbatch_loop': 'vmap'},
    {'model.remat': True},
    {'eval_batch_size': 10},
    {'eval_every_epochs': 2},
    {'eval_train': True},
    {'data.directory': '/moved'},
  ],
  ids=str,
)
def test_an_operational_field_may_change(tmp_path, fields):
  saved = _saved(tmp_path)
  changed = tiny.config(**fields)
  assert workdir.adopt(changed, saved) == _filled(changed)


@pytest.mark.parametrize('field', ['init_from', 'labels_from'])
def test_the_run_that_it_started_from_may_have_moved(tmp_path, field):
  saved = _saved(tmp_path, **{field: '/nfs/a/first'})
  moved = tiny.config(**{field: '/mnt/a/first'})
  assert workdir.adopt(moved, saved) == _filled(moved)
  for other in ('/nfs/a/second', ''):
    with pytest.raises(ValueError, match=f'{field} is .*, was ./nfs/a/first'):
      workdir.adopt(tiny.config(**{field: other}), saved)
  # The same one under another name of its directory.
  saved = _saved(tmp_path, **{field: str(pathlib.Path.cwd() / 'first')})
  assert workdir.adopt(tiny.config(**{field: 'first'}), saved)
  # Another one of that name, where the first is still there.
  (tmp_path / 'first').mkdir()
  saved = _saved(tmp_path, **{field: str(tmp_path / 'first')})
  with pytest.raises(ValueError, match=f'{field} is ./mnt/a/first'):
    workdir.adopt(moved, saved)


def test_a_finished_run_need_not_know_fields_that_came_after_it(tmp_path):
  _saved(tmp_path)
  path = tmp_path / 'config.json'
  content = json.loads(path.read_text())
  del content['label_smoothing']
  path.write_text(json.dumps(content))
  saved = workdir.read_config(tmp_path)
  workdir.check_finished(tiny.config(), saved)
  with pytest.raises(ValueError, match=r'label_smoothing is 0\.0, was None'):
    workdir.adopt(tiny.config(), saved)
  with pytest.raises(ValueError, match='seed is 1, was 0'):
    workdir.check_finished(tiny.config(seed=1), saved)


@pytest.mark.parametrize(
  ('schedule', 'before', 'after', 'is_allowed'),
  [
    ('constant', {'num_epochs': 2}, {'num_epochs': 3}, True),
    ('constant', {'num_steps': 7}, {'num_steps': 8}, True),
    ('constant', {'num_epochs': 3}, {'num_epochs': 2}, False),
    ('constant', {'num_steps': 8}, {'num_steps': 7}, False),
    ('constant', {'num_steps': 8}, {'num_steps': None}, False),
    ('constant', {'num_steps': None}, {'num_steps': 8}, False),
    ('cosine', {'num_epochs': 2}, {'num_epochs': 3}, False),
    ('piecewise', {'num_epochs': 2}, {'num_epochs': 3}, False),
  ],
)
def test_only_a_constant_schedule_may_be_made_longer(
  tmp_path, schedule, before, after, is_allowed
):
  saved = _saved(tmp_path, **{'schedule.name': schedule}, **before)
  asked = tiny.config(**{'schedule.name': schedule}, **after)
  if is_allowed:
    assert workdir.adopt(asked, saved) == _filled(asked)
  else:
    with pytest.raises(ValueError, match='num_(epochs|steps) is'):
      workdir.adopt(asked, saved)


@pytest.mark.parametrize(
  ('radius', 'is_allowed'),
  [('constant', True), ('learning_rate', True), ('linear', False)],
)
def test_a_radius_that_depends_on_the_length_keeps_it(
  tmp_path, radius, is_allowed
):
  fields = {'schedule.name': 'constant', 'method.rho_schedule': radius}
  saved = _saved(tmp_path, **fields, num_epochs=2)
  asked = tiny.config(**fields, num_epochs=3)
  if is_allowed:
    assert workdir.adopt(asked, saved) == _filled(asked)
  else:
    with pytest.raises(ValueError, match='num_epochs is 3, was 2'):
      workdir.adopt(asked, saved)


@pytest.mark.parametrize('m', [4, None])
def test_a_config_of_another_program_is_refused(tmp_path, m):
  (tmp_path / 'config.json').write_text('{"hidden_size": 768}')
  saved = workdir.read_config(tmp_path)
  with pytest.raises(ValueError, match='hidden_size is None, was 768'):
    workdir.adopt(tiny.config(**{'m': m}), saved)


@pytest.mark.parametrize('content', ['{"seed": 0', '', '[1]', '3', '\udcff'])
def test_a_config_that_cannot_be_read_is_one_line(tmp_path, content):
  path = tmp_path / 'config.json'
  path.write_bytes(content.encode('utf-8', 'surrogateescape'))
  with pytest.raises(ValueError, match='use another workdir') as raised:
    workdir.read_config(tmp_path)
  assert '\n' not in str(raised.value)


def test_config_json_holds_every_field(tmp_path):
  saved = _saved(tmp_path)
  flat = ml_collections.ConfigDict(json.loads(json.dumps(saved.to_dict())))
  assert flat == ml_collections.ConfigDict(
    json.loads(json.dumps(tiny.config().to_dict()))
  )
