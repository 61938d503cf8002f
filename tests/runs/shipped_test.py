"""The runs that come with the package."""

import pathlib
import zipfile

import pytest

import sam_jax
from sam_jax import configs
from sam_jax.analysis import trained
from sam_jax.runs import (
  bootstrap,
  config_files,
  evaluation,
  initialization,
  loading,
  preparation,
  pretrained,
  shipped,
  workdir as workdir_lib,
)
from sam_jax.sweeps import check
from tests import tiny


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
  """Where runs are unpacked, and another current directory."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.chdir(tmp_path)
  return tmp_path / 'cache'


@pytest.mark.parametrize(
  ('name', 'error'), [('digits_cnn_sgd', 0.3726), ('digits_cnn_sam', 0.0414)]
)
def test_a_shipped_run_is_as_good_as_it_is_said_to_be(name, error):
  archive = shipped.DIRECTORY / f'{name}.zip'
  assert archive.stat().st_size < 500_000
  workdir = shipped.find(name)
  restored = loading.restore(name)
  assert restored.config.data.label_noise == 0.4
  assert restored.config.method.name == name.rpartition('_')[2]
  task = restored.task
  examples = bootstrap.examples(restored.config, workdir, 'test', task.info)
  parts = [p._replace(outputs=None) for p in restored.predict(examples)]
  found = evaluation.summarize_predictions(parts, task)
  # One image of 797 may be a tie that another machine rounds otherwise.
  assert found['error_rate'] == pytest.approx(error, abs=0.002)
  result = workdir_lib.read_result(workdir)
  assert result['final_score'] == pytest.approx(found['error_rate'], abs=0.002)
  assert f'{100 * result["final_score"]:.2f} %' in shipped.__doc__


def test_a_name_is_as_good_as_a_directory(cache):
  assert shipped.names() == ['digits_cnn_sam', 'digits_cnn_sgd']
  model, variables, _ = sam_jax.load('digits_cnn_sam')
  assert model.features == (32, 64)
  assert trained.load('digits_cnn_sam', num_examples=10).step == 2000
  assert pretrained.read(shipped.find('digits_cnn_sam')).keys() == (
    variables.keys()
  )
  # It was unpacked once, whole, and into the cache.
  (place,) = (cache / 'sam_jax' / 'runs').glob('*/*')
  assert shipped.find('digits_cnn_sam') == place
  with zipfile.ZipFile(shipped.DIRECTORY / 'digits_cnn_sam.zip') as archive:
    assert {name for name in archive.namelist() if name[-1] != '/'} == {
      name for name, content in tiny.tree(place).items() if content is not None
    }


def test_a_directory_of_the_name_goes_first(tmp_path):
  (tmp_path / 'digits_cnn_sam').mkdir()
  assert shipped.find('digits_cnn_sam') == tmp_path / 'digits_cnn_sam'
  with pytest.raises(ValueError, match='or the name of a shipped one: digits'):
    loading.restore('digits_cnn_sam')


def test_a_cache_that_cannot_be_written_is_one_line(cache):
  cache.write_text('a file')
  with pytest.raises(ValueError, match='cannot be unpacked .*XDG_CACHE_HOME'):
    shipped.find('digits_cnn_sgd')


def test_a_run_starts_from_a_shipped_one_by_its_name(capsys, monkeypatch):
  tiny.use_devices(monkeypatch, 1)
  # The config of a shipped run can still be given, with all its fields.
  source = shipped.find('digits_cnn_sgd')
  config = config_files.read(str(source / 'config.json'))
  config.init_from = 'digits_cnn_sgd'
  prepared = preparation.prepare(config)
  place = prepared.config.init_from
  assert place == str(source)
  initialization.check_source(prepared.experiment, place)
  assert f'initialised from {place}: 8 arrays' in capsys.readouterr().out
  # A sweep looks for what its cells start from, too.
  cell = {'config': configs.find('digits:noisy'), 'init_from': 'digits_cnn_sgd'}
  check._config(cell, pathlib.Path('runs'))
  with pytest.raises(ValueError, match="'digits_cnn_sg', which does not exist"):
    check._config(cell | {'init_from': 'digits_cnn_sg'}, pathlib.Path('runs'))
