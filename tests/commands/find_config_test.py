"""Configs and sweeps are found by name or by path, from any directory."""

import pathlib

import pytest

from sam_jax import configs

_SHIPPED = pathlib.Path(configs.__file__).parent


@pytest.mark.parametrize('name', ['digits', 'digits.py', 'configs/digits.py'])
@pytest.mark.parametrize('argument', ['', ':noisy'])
def test_a_shipped_config_has_a_name(tmp_path, monkeypatch, name, argument):
  monkeypatch.chdir(tmp_path)
  assert configs.find(name + argument) == f'{_SHIPPED}/digits.py{argument}'


@pytest.mark.parametrize('name', ['table1', 'configs/sweeps/table1.py'])
def test_a_shipped_sweep_has_a_name(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  assert configs.find_sweep(name) == f'{_SHIPPED}/sweeps/table1.py'


def test_a_file_of_ones_own_wins(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'digits').mkdir()  # is no file
  assert configs.find('digits') == f'{_SHIPPED}/digits.py'
  own = tmp_path / 'digits.py'
  own.touch()
  assert configs.find('digits.py:x') == f'{own}:x'
  assert configs.find(f'{own}') == f'{own}'


@pytest.mark.parametrize(
  ('find', 'name', 'message'),
  [
    (configs.find, 'digit:noisy', r"'digit'; known: cifar10, .* 'digits'\?"),
    (configs.find, 'my/config.py', "'my/config.py' does not exist; .* digits,"),
    (configs.find, '__init__', 'unknown config'),
    (configs.find, 'x' * 999, 'unknown config'),
    (configs.find_sweep, 'digits', 'known: digits_m, '),
  ],
)
def test_the_error_lists_what_is_shipped(find, name, message):
  with pytest.raises(ValueError, match=message):
    find(name)
