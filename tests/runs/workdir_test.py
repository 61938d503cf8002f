import json
import pathlib

import ml_collections
import pytest

from sam_jax.runs import fields as fields_lib, workdir
from tests import tiny


def _saved(directory, **fields):
  """Writes the config of a run and reads it back."""
  workdir.write_config(directory, tiny.config(**fields))
  return workdir.read_config(directory)


def _filled(config):
  """The config with the defaults of its method, as a run has it."""
  config = config.copy_and_resolve_references()
  fields_lib.fill_method(config)
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
  before = tiny.config()
  with before.unlocked():
    del before.label_smoothing
  workdir.write_config(tmp_path, before)
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


def test_a_config_of_another_program_is_refused(tmp_path):
  (tmp_path / 'config.json').write_text('{"hidden_size": 768}')
  with pytest.raises(ValueError, match=r'config\.json is of another edition'):
    workdir.read_config(tmp_path)


# --- Damage ------------------------------------------------------------------


@pytest.mark.parametrize('content', ['{"seed": 0', '', '[1]', '3', '\udcff'])
def test_a_config_that_cannot_be_read_is_one_line(tmp_path, content):
  path = tmp_path / 'config.json'
  path.write_bytes(content.encode('utf-8', 'surrogateescape'))
  with pytest.raises(ValueError, match='use another workdir') as raised:
    workdir.read_config(tmp_path)
  assert '\n' not in str(raised.value)
  assert str(path) in str(raised.value)


def test_a_config_that_is_a_directory_is_one_line(tmp_path):
  (tmp_path / 'config.json').mkdir()
  with pytest.raises(ValueError, match=r'config\.json is not a file'):
    workdir.read_config(tmp_path)


def _edit(path, old, new):
  """Changes a file as an editor, or a disk, does."""
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def test_a_config_that_was_changed_is_refused(tmp_path):
  config = _saved(tmp_path, **{'method.rho': 0.25})
  _edit(tmp_path / 'config.json', '0.25', '0.75')
  with pytest.raises(ValueError, match=r'config\.json is damaged.* checksum'):
    workdir.read_config(tmp_path)
  _edit(tmp_path / 'config.json', '0.75', '0.25')
  assert workdir.read_config(tmp_path) == config


def test_a_field_that_changes_no_result_may_be_edited(tmp_path):
  """As where the data are, once they have been moved."""
  _saved(tmp_path, **{'data.directory': '/old'})
  _edit(tmp_path / 'config.json', '/old', '/new')
  assert workdir.read_config(tmp_path).data.directory == '/new'


def test_a_run_keeps_its_id_and_another_one_has_another(tmp_path):
  for name, seed in (('a', 0), ('a', 1), ('b', 0)):
    workdir.write_config(tmp_path / name, tiny.config(seed=seed))
    workdir.write_config(tmp_path / name, tiny.config(seed=seed))
  a, b = (workdir.run_id(tmp_path / name) for name in 'ab')
  assert a != b
  workdir.write_config(tmp_path / 'a', tiny.config(seed=2))
  assert workdir.run_id(tmp_path / 'a') == a


def test_a_result_that_was_changed_or_is_of_another_run_is_refused(tmp_path):
  for name in 'ab':
    workdir.write_config(tmp_path / name, tiny.config())
    assert workdir.read_result(tmp_path / name) is None
    workdir.write_result(tmp_path / name, {'final_score': 0.25})
    assert workdir.read_result(tmp_path / name) == {'final_score': 0.25}
  a, b = (tmp_path / name / 'result.json' for name in 'ab')
  a.write_bytes(b.read_bytes())
  with pytest.raises(
    ValueError, match=r'a/result\.json belongs to another run'
  ):
    workdir.read_result(tmp_path / 'a')
  _edit(b, '0.25', '0.15')
  with pytest.raises(ValueError, match=r'b/result\.json is damaged: its check'):
    workdir.read_result(tmp_path / 'b')


def test_config_json_holds_every_field(tmp_path):
  saved = _saved(tmp_path)
  flat = ml_collections.ConfigDict(json.loads(json.dumps(saved.to_dict())))
  assert flat == ml_collections.ConfigDict(
    json.loads(json.dumps(tiny.config().to_dict()))
  )
