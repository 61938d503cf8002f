"""Fields of a config on the command line."""

import pytest

from sam_jax import _cli, _config_flag, configs
from sam_jax.configs import default


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
