"""Fields that are set for all cells."""

import pytest

from sam_jax.sweeps import overrides


def test_a_field_is_read_from_the_command_line(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', '/home/me')
  for text, expected in (
    ('method.rho=0.1', 0.1),
    ('method.rho=None', None),
    ('model.features=(4, 8)', (4, 8)),
    ('model.name=cnn', 'cnn'),
    ('model.name={[]}', '{[]}'),
    (f'model.name={"(" * 9999}', '(' * 9999),
    (f'model.name={"-" * 99999}1', '-' * 99999 + '1'),
    ('data.directory=some/data', f'{tmp_path}/some/data'),
    ('data.directory=~/data', '/home/me/data'),
  ):
    assert overrides.parse_field(text) == (text.partition('=')[0], expected)
  with pytest.raises(ValueError, match='--set=seed does not have the form'):
    overrides.parse_field('seed')
  for path in ('', 'gs://bucket'):
    with pytest.raises(ValueError, match=f"'{path}' is not a path"):
      overrides.parse_field(f'data.directory={path}')


def test_fields_that_are_set_may_not_be_those_that_vary():
  cells = [
    {'config': 'a.py', 'seed': s, 'method.rho': r}
    for s in (0, 1)
    for r in (1, 2)
  ]
  cells[0]['m'] = 4
  overrides.check_not_varied({'learning_rate': 1, 'config': 1}, cells)
  overrides.check_not_varied({'method.rho': 3}, cells[::2])
  for name, shown in (
    ('method.rho', '1, 2;'),
    ('m', '4, that of the config file'),
  ):
    with pytest.raises(ValueError, match=rf'--set={name} .* in it: {shown}'):
      overrides.check_not_varied({'learning_rate': 1, name: 3}, cells)
