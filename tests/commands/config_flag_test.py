"""Fields of a config on the command line."""

import re

import pytest
from flax import linen as nn

from sam_jax import (
  _cli,
  _config_flag,
  configs,
  datasets,
  methods,
  models,
  tasks,
)
from sam_jax.configs import default
from sam_jax.datasets import registry as datasets_registry
from sam_jax.methods import registry as methods_registry
from sam_jax.models import registry as models_registry
from sam_jax.runs import config_files, factories, fields, workdir
from sam_jax.tasks import registry as tasks_registry
from tests import tiny


def _config(*arguments, config=None):
  """The config with what is typed; the arguments have to be fields alone."""
  config = config or default.get_config()
  overrides, rest = _config_flag.split(arguments)
  assert rest == []
  _config_flag.override(config, overrides)
  return config


@pytest.mark.parametrize(
  ('typed', 'field', 'value'),
  [
    (['--config.m=4'], 'm', 4),
    (['--config.m', '4'], 'm', 4),
    (['-config.m=4', '--config.m=5'], 'm', 5),
    (['--config.m=4', '--config.m=None'], 'm', None),
    (['--config.m=None', '--config.m', '4'], 'm', 4),
    (['--config.model.features=None'], 'model.features', None),
    (['--config.model.features=(4, 8)'], 'model.features', (4, 8)),
    (['--config.plugins=a', '--config.plugins=b'], 'plugins', ('a', 'b')),
    (['--config.allow_change=method.rho'], 'allow_change', ('method.rho',)),
    (['--config.learning_rate=1'], 'learning_rate', 1.0),
    (['--config.deterministic'], 'deterministic', True),
    (['--noconfig.log.tensorboard'], 'log.tensorboard', False),
    (['--config.augmentation.name=none'], 'augmentation.name', 'none'),
    (['--config.data.directory=a=b'], 'data.directory', 'a=b'),
    # What the optimizer's factory takes is not in the config.
    (['--config.optimizer.eps_root=0.1'], 'optimizer.eps_root', 0.1),
  ],
)
def test_what_is_typed_is_the_value_of_the_field(typed, field, value):
  config = _config(*typed)
  found = config
  for part in field.split('.'):
    found = found[part]
  assert found == value and type(found) is type(value)


def test_every_field_that_is_none_by_default_can_be_none_again():
  defaults = {
    name: value
    for name, value in _flat(default.get_config()).items()
    if not isinstance(value, dict)
  }
  nullable = [name for name, value in defaults.items() if value is None]
  config = _config(*(f'--config.{name}=None' for name in nullable))
  assert _flat(config) == _flat(default.get_config())
  assert len(nullable) > 20
  for name in defaults.keys() - set(nullable):
    with pytest.raises(ValueError, match=f'{name} may not be None'):
      _config(f'--config.{name}=None')


@pytest.mark.parametrize('name', ['digits', 'digits:vit', 'gpt2', 'finetune'])
def test_what_a_config_sets_can_be_none_where_the_default_is(name):
  config = config_files.read(configs.find(name))
  default_of = _flat(default.get_config())
  given = [k for k, v in _flat(config).items() if v != default_of[k] is None]
  assert given
  config = _config(*(f'--config.{k}=None' for k in given), config=config)
  assert {
    k: v for k, v in _flat(config).items() if k in given
  } == dict.fromkeys(given)


def _flat(config, prefix=''):
  found = {}
  for name, value in config.items():
    if hasattr(value, 'items'):
      found |= _flat(value, f'{prefix}{name}.')
    else:
      found[prefix + name] = value
  return found


def test_a_field_of_a_users_own_config_can_be_none():
  config = default.get_config()
  config.mine = 3
  assert _config('--config.mine=None', config=config).mine is None


def test_other_arguments_are_left_alone():
  typed = ['train', '--config=digits', '--config.m=4', '--workdir', 'a', 'b']
  overrides, rest = _config_flag.split(typed)
  assert list(overrides) == ['m']
  assert rest == ['train', '--config=digits', '--workdir', 'a', 'b']


@pytest.mark.parametrize(
  ('name', 'found'),
  [
    ('cifar10', 'cifar10.py'),
    ('cifar10:1800', 'cifar10.py:1800'),
    ('cifar10.py:1800', 'cifar10.py:1800'),
    ('configs/cifar10.py', 'cifar10.py'),
  ],
)
def test_a_shipped_config_is_found_from_any_directory(
  monkeypatch, tmp_path, name, found
):
  monkeypatch.chdir(tmp_path)
  assert configs.find(name).endswith(f'/sam_jax/configs/{found}')


def test_a_file_of_the_user_goes_first(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').mkdir()
  for name in ('cifar10', 'configs/digits.py'):
    (tmp_path / name).touch()
    assert configs.find(f'{name}:x') == f'{tmp_path}/{name}:x'


@pytest.mark.parametrize(
  ('typed', 'said'),
  [
    ([], []),
    (['--config.method.name=asam', '--config.method.rho=0.7'], []),
    (['--config.method.name=asam', '--config.method.rho=None'], []),
    (['--config.method.name=sgd'], []),  # has no rho
    (
      ['--config.method.name=asam'],
      [
        'method.rho=0.7 of the config file is meant for sam; asam has 0.5 by '
        'default, which --config.method.rho=None takes'
      ],
    ),
  ],
)
def test_a_radius_of_another_method_is_told(typed, said):
  flags = _cli.Flags()
  flag = _config_flag.ConfigFlag(flags)
  flags.values(['', *flag._take(['--config=digits:noisy', *typed])])
  assert flag.remarks(flag.load()) == said


def test_a_radius_of_a_config_file_stays_whatever_it_is():
  """Also if it is the default of the method that it is meant for."""
  flag = _flag('--config=cifar10', '--config.method.name=asam')
  config = flag.load()
  assert config.method.rho == 0.05
  [said] = flag.remarks(config)
  assert said.startswith('method.rho=0.05 of the config file is meant for sam')


# --- Another model than that of the config -----------------------------------

_SHIPPED = sorted(
  path.stem for path in (tiny.ROOT / 'sam_jax' / 'configs').glob('[!_]*.py')
)
_VARIANTS = ('digits:noisy', 'digits:vit', 'finetune:l2-475', 'gpt2:gpt2-xl')
_VARIANTS += ('imagenet_vit:sassha', 'imagenet_vit:sam,Mixer-B/16')


@pytest.mark.parametrize('name', [*_SHIPPED, *_VARIANTS])
def test_every_config_takes_another_model(name):
  """Without a word on the fields that the config sets for its own one."""
  is_text = name.partition(':')[0] in ('gpt2', 'text')
  info = {'num_classes': 10, 'image_shape': (32, 32, 3), 'vocabulary_size': 9}
  info['context_length'] = 1024
  for model in (
    ['gpt-mini'] if is_text else ['WideResnet28x1', 'ViT-S/16', 'cnn']
  ):
    flag = _flag(f'--config={name}', f'--config.model.name={model}')
    config = flag.load()
    factories.create_model(config, info)
    own = config_files.read(configs.find(name)).model
    given = [k for k, v in own.items() if v is not None and k != 'name']
    said = ' '.join(flag.remarks(config))
    changes = own.name != model
    assert all((f'model.{k}=' in said) == changes for k in given)


def _flag(*typed):
  """The flag --config of a command that gets these arguments."""
  flags = _cli.Flags()
  flag = _config_flag.ConfigFlag(flags)
  flags.values(['', *flag._take(typed)])
  return flag


def test_what_the_user_sets_stays_with_the_model_that_he_names():
  flag = _flag(
    '--config=digits:vit',
    '--config.model.name=WideResnet28x1',
    '--config.model.width=3',
    '--config.optimizer.name=sgd',
  )
  config = flag.load()
  assert (config.model.width, config.model.depth) == (3, None)
  [said] = flag.remarks(config)
  assert said == (
    "left out of the config file, because it is for the model 'vit' and not "
    "for 'WideResnet28x1': model.classifier='gap', model.depth=4, "
    "model.heads=4, model.patch=2, model.positions='sincos2d'"
  )
  with pytest.raises(ValueError, match='settles width=1'):
    factories.create_model(config, {'num_classes': 2, 'image_shape': (8, 8, 1)})


def test_the_optimizer_of_a_config_leaves_its_fields_behind():
  config = _flag('--config=text', '--config.optimizer.name=sgd').load()
  assert (config.optimizer.b1, config.optimizer.b2) == (None, None)
  config = _flag('--config=text', '--config.optimizer.name=adamw').load()
  assert config.optimizer.b2 == 0.99


def test_a_sweep_leaves_out_the_same(tmp_path):
  path = configs.find('digits:vit')
  config = config_files.read(path)
  config_files.update(config, {'model.name': 'cnn', 'model.hidden': 4})
  typed = ('--config.model.name=cnn', '--config.model.hidden=4')
  assert config == _config(*typed, config=config_files.read(path))
  assert config.model.patch is None


# --- The config of a run -----------------------------------------------------


def test_the_config_of_a_run_can_be_given(tmp_path):
  made = tiny.config(**{'method.name': 'sam', 'method.rho': 0.3})
  workdir.write_config(tmp_path, _filled(made))
  given = f'--config={tmp_path}/config.json'
  assert _flat(_filled(_flag(given).load())) == _flat(_filled(made))
  config = _flag(given, '--config.seed=3', '--config.model.hidden=None').load()
  assert (config.seed, config.model.hidden) == (3, None)
  assert config.model.features == (4,)  # a tuple again
  # What is None there, or has its default.
  fields = {'num_steps': 7, 'method.every': 3, 'method.second_order': True}
  typed = [f'--config.{name}={value}' for name, value in fields.items()]
  config = _flag(given, *typed).load()
  assert {name: _flat(config)[name] for name in fields} == fields
  # The defaults of a method, which the file holds, are not those of another.
  config = _flag(given, '--config.method.name=looksam').load()
  assert (config.method.rho, config.method.ascent_steps) == (0.3, None)
  factories.create_method(config)


def _filled(config):
  fields.fill_method(config)
  return config


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('run', "'{tmp}/run' is a run directory; give {tmp}/run/config.json"),
    ('run/config.json:x', "takes no argument, and 'x' is given"),
    ('other.json', 'is not the config of a run; give RUN/config.json'),
    ('broken/config.json', 'damaged'),
  ],
)
def test_a_file_that_is_no_config_of_a_run_is_refused(tmp_path, name, message):
  workdir.write_config(tmp_path / 'run', tiny.config())
  (tmp_path / 'other.json').write_text('{}')
  (tmp_path / 'broken').mkdir()
  text = (tmp_path / 'run' / 'config.json').read_text()
  changed = text.replace('"seed": 0', '"seed": 1')
  (tmp_path / 'broken' / 'config.json').write_text(changed)
  message = re.escape(message.format(tmp=tmp_path))
  with pytest.raises(ValueError, match=message):
    _flag(f'--config={tmp_path}/{name}').load()


# --- Fields of plug-ins ------------------------------------------------------


@pytest.fixture
def registered(monkeypatch):
  """Something of every kind that can be registered, with fields of its own."""
  for registry, table in (
    (datasets_registry, '_LOADERS'),
    (methods_registry, '_METHODS'),
    (models_registry, '_REGISTRY'),
    (tasks_registry, '_TASKS'),
  ):
    monkeypatch.setattr(registry, table, dict(getattr(registry, table)))

  @models.register('flagged')
  class Model(nn.Module):
    num_classes: int
    sizes: tuple[int, ...] = (1,)

  @methods.register('flagged')
  def method(*, strength: float = 1.0, mode: str | None = 'soft'):
    return methods.create('sgd')

  @datasets.register('flagged')
  def load(directory, seed, *, is_fast: bool = False):
    raise FileNotFoundError

  @tasks.register('flagged')
  class Task(tasks.ImageClassification):
    def __init__(self, model, info, *, margin: int = 1, **options):
      super().__init__(model, info, **options)

  del Model, method, load, Task


@pytest.mark.parametrize(
  ('section', 'name', 'typed', 'value'),
  [
    ('model', 'flagged', 'sizes=(4, 8)', (4, 8)),
    ('model', 'flagged', 'sizes=None', None),
    ('method', 'flagged', 'strength=2', 2),
    ('method', 'flagged', 'mode=hard', 'hard'),
    ('method', 'flagged', 'mode=None', None),
    ('data', 'flagged', 'is_fast', True),
    ('data', 'flagged', 'is_fast=false', False),
    ('task', 'flagged', 'margin=3', 3),
    ('optimizer', 'adafactor', 'min_dim_size_to_factor=8', 8),
    ('schedule', 'linear', 'end_fraction=0.5', 0.5),
  ],
)
def test_the_fields_of_a_plugin_can_be_set(
  registered, section, name, typed, value
):
  config = _config(
    f'--config.{section}.name={name}', f'--config.{section}.{typed}'
  )
  found = config[section][typed.partition('=')[0]]
  assert found == value and type(found) is type(value)


# --- Suggestions -------------------------------------------------------------


@pytest.mark.parametrize(
  ('typed', 'meant'),
  [
    ('rho', "'method.rho'"),
    ('lr', "'learning_rate'"),
    ('epochs', "'num_epochs'"),
    ('steps', "'num_steps'"),
    ('metod.rho', "'method.rho'"),
    ('method.roh', "'method.rho'"),
    ('dataset', "'data.name'"),
    ('batch-size', "'batch_size'"),
    ('model.activaton', "'model.activation'"),
    ('alpha', "'method.alpha' or 'mixing.alpha' or 'model.alpha'"),
  ],
)
def test_a_field_that_may_be_meant_is_named(typed, meant):
  said = re.escape(f"has no field '{typed}' (did you mean {meant}?)")
  with pytest.raises(ValueError, match=said):
    _config(f'--config.{typed}=1')


def test_a_section_is_no_field():
  with pytest.raises(ValueError, match='a section of the config; .*model.name'):
    _config('--config.model=vit')


@pytest.mark.parametrize(
  ('typed', 'meant'),
  [
    ('--rho=0.1', '--config.method.rho'),
    ('--lr', '--config.learning_rate'),
    ('--seed=1', '--config.seed'),
    ('--model=vit', '--config.model.name'),
    ('--method.rho=1', '--config.method.rho'),
    ('--confg.m=1', '--config.m'),
    ('--workdr=a', '--workdir'),
    ('--dryrun', '--dry_run'),
  ],
)
def test_a_flag_that_may_be_meant_is_named(command, typed, meant):
  done = command('train', '--config=digits', '--workdir=x', typed)
  flag = typed.partition('=')[0]
  said = f'train: unknown flag {flag}; did you mean {meant}?\n'
  assert (done.status, done.out, done.err) == (2, '', said)


def test_a_flag_without_a_likeness_points_to_help(command):
  done = command('report', '--xyzzy', 'runs')
  assert done.err == 'report: unknown flag --xyzzy; --help lists the flags\n'
