"""Plug-ins of a run that somebody else has made: announced, or refused."""

import sys

import pytest

import sam_jax
from sam_jax import analysis
from sam_jax.runs import config_files, loading, workdir
from tests import tiny

_NAME = 'plugin_of_a_stranger'


@pytest.fixture
def run(monkeypatch, tmp_path):
  """A run directory whose config names a plug-in, before its first step."""
  (tmp_path / f'{_NAME}.py').write_text('')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, _NAME, raising=False)
  directory = tmp_path / 'run'
  workdir.write_config(directory, tiny.config(plugins=(_NAME,)))
  return directory


def test_opening_a_run_says_which_plugins_it_imports_once(run, capsys):
  for said in (1, 0):
    with pytest.raises(ValueError, match='holds no checkpoint'):
      loading.restore(run)
    err = capsys.readouterr().err
    assert err.count(f'{run}: config.json names the plug-in {_NAME}') == said
  assert _NAME in sys.modules


@pytest.mark.parametrize(
  'open_', [sam_jax.load, loading.restore, analysis.load]
)
def test_a_run_with_plugins_can_be_refused(run, open_):
  with pytest.raises(ValueError, match=f'names the plug-ins {_NAME}') as error:
    open_(run, plugins=False)
  assert str(run) in str(error.value)
  assert _NAME not in sys.modules


@pytest.mark.parametrize(
  'plugins', ['os', None, (1,), ('.x',), ('',), ('no such module',)], ids=str
)
def test_what_names_no_module_is_refused(plugins):
  config = tiny.config()
  with config.ignore_type():
    config.plugins = plugins
  with pytest.raises(ValueError, match='plugins') as error:
    config_files.load_plugins(config)
  assert '\n' not in str(error.value)


def test_a_plugin_that_ends_the_program_does_not(run):
  (run.parent / f'{_NAME}.py').write_text('raise SystemExit(3)')
  with pytest.raises(
    ValueError, match=f"'{_NAME}', which cannot.*SystemExit: 3"
  ):
    loading.restore(run)
