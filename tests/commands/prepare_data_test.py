"""The command that prepares data, on sets made here; nothing is downloaded."""

import subprocess
import sys
import types
import venv

import pytest

from sam_jax import prepare_data
from sam_jax.datasets import facts, large
from tests import image_files, originals
from tests.datasets import large_test


@pytest.fixture
def record(command, monkeypatch, tmp_path):
  """Runs it where nothing is started; returns status, what would be, stderr.

  The last argument of the first two is where TensorFlow's environment goes.
  """
  home = tmp_path / 'home'
  monkeypatch.setenv('HOME', str(home))
  log = []

  def create(where, **options):
    log.append(('create', str(where), options))

  def run(*arguments, status=0):
    def start(started, check):
      log.append(('run', [str(part) for part in started], check))
      return subprocess.CompletedProcess(started, 0 if check else status)

    with monkeypatch.context() as patched:
      patched.setattr(venv, 'create', create)
      patched.setattr(subprocess, 'run', start)
      done = command('prepare_data', *arguments)
    return done, log

  run.environment = home / '.cache' / 'sam_jax' / 'prepare-env'
  return run


def test_a_set_is_prepared_in_an_environment_of_its_own(record, tmp_path):
  done, log = record(
    'imagenet2012',
    f'--directory={tmp_path}/data',
    f'--manual_dir={tmp_path}/downloads',
  )
  python = str(record.environment / 'bin' / 'python')
  (made, installed, prepared) = log
  assert made == ('create', str(record.environment), {'with_pip': True})
  assert installed[1][:4] == [python, '-m', 'pip', 'install']
  assert any(part.startswith('tensorflow-cpu') for part in installed[1])
  assert installed[2]  # a failure of pip's is an error
  assert prepared[1][:2] == [python, '-c']
  assert 'download_and_prepare' in prepared[1][2]
  paths = [f'{tmp_path}/data', f'{tmp_path}/downloads']
  assert prepared[1][3:] == ['imagenet2012', *paths]
  # Nothing was written, which is what is said in the end.
  assert done.status == 2 and 'not prepared as array_record' in done.err


def test_the_program_hands_its_arguments_to_tensorflow_datasets(monkeypatch):
  asked = []

  class Builder:
    def __init__(self, name, **options):
      asked.append((name, options))

    def download_and_prepare(self, download_config):
      asked.append(download_config)

  stub = types.ModuleType('tensorflow_datasets')
  stub.builder = Builder
  stub.download = types.SimpleNamespace(DownloadConfig=dict)
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', stub)
  for directory in ('/data', ''):
    monkeypatch.setattr(sys, 'argv', ['-c', 'food101', directory, '/manual'])
    exec(prepare_data._PROGRAM, {})
  place = {'data_dir': '/data', 'file_format': 'array_record'}
  manual = {'manual_dir': '/manual'}
  assert asked[:2] == [('food101', place), manual]
  assert asked[2:] == [('food101', place | {'data_dir': None}), manual]


def test_an_environment_is_made_once_and_directories_may_be_left_out(record):
  python = record.environment / 'bin' / 'python'
  python.parent.mkdir(parents=True)
  python.touch()
  _, log = record('food101')
  assert [what for what, *_ in log] == ['run', 'run']
  assert log[1][1][3:] == ['food101', '', '']


@pytest.mark.parametrize('arguments', [('cifar10', '--check'), ('birdsnap',)])
def test_nothing_is_prepared_where_it_is_not_to_be(record, tmp_path, arguments):
  _, log = record(*arguments, f'--directory={tmp_path}')
  assert log == []


def test_a_preparation_that_fails_is_status_2(record):
  done, log = record('food101', status=1)
  assert done.status == 2
  assert [what for what, *_ in log] == ['create', 'run', 'run']
  assert done.err.count('\n') == 1
  assert 'could not prepare food101' in done.err
  assert '--manual_dir' in done.err


def test_a_good_folder_is_called_good(command, tmp_path):
  image_files.folder(tmp_path, {'train': 3, 'test': 2})
  done = command('prepare_data', 'image_folder', f'--directory={tmp_path}')
  assert done.status == 0, done.err
  assert done.out.splitlines() == [
    'train: 12 images of 4 classes',
    'test: 8 images of 4 classes',
    'image_folder: all is well',
  ]


def test_damaged_images_are_listed(command, tmp_path):
  image_files.folder(tmp_path, {'train': 3, 'test': 2})
  broken = tmp_path / 'train' / 'red' / '001.jpg'
  broken.write_bytes(broken.read_bytes()[:200])
  done = command(
    'prepare_data', 'image_folder', f'--directory={tmp_path}', '--check'
  )
  assert done.status == 1
  assert f'  {broken}: ' in done.out
  assert done.out.count('.jpg') == 1
  assert 'image_folder: not all is well' in done.out


def test_a_validation_folder_is_checked_beside_that_of_the_test(
  command, tmp_path
):
  image_files.folder(tmp_path, {'train': 3, 'test': 2, 'val': 1})
  broken = tmp_path / 'val' / 'red' / '000.jpg'
  broken.write_bytes(b'')
  done = command(
    'prepare_data', 'image_folder', f'--directory={tmp_path}', '--check'
  )
  assert done.status == 1
  assert 'validation: 4 images of 4 classes' in done.out
  assert f'  {broken}: ' in done.out


@pytest.mark.parametrize(
  ('sizes', 'counts'),
  [
    ({'train': 3, 'val': 2}, ['train: 12', 'validation: 8']),
    ({'train': 3}, ['train: 12']),
  ],
)
def test_a_folder_needs_no_test_images(command, tmp_path, sizes, counts):
  image_files.folder(tmp_path, sizes)
  done = command(
    'prepare_data', 'image_folder', f'--directory={tmp_path}', '--check'
  )
  assert done.status == 0, done.err
  assert done.out.splitlines() == [
    *(f'{count} images of 4 classes' for count in counts),
    'image_folder: all is well',
  ]


def test_an_incomplete_set_in_memory_is_told(command, tmp_path):
  originals.write_fashion(tmp_path, compressed=False)
  done = command(
    'prepare_data', 'fashion_mnist', f'--directory={tmp_path}', '--check'
  )
  assert done.status == 1, done.err
  assert 'train: 30 images of 10 classes; expected 60,000' in done.out
  assert 'test: 10 images of 10 classes; expected 10,000' in done.out
  assert 'fashion_mnist: not all is well' in done.out


def test_wrong_counts_are_told(command, tmp_path):
  large_test.prepare(tmp_path, {'train': 4, 'validation': 2, 'test': 3})
  done = command(
    'prepare_data', 'oxford_flowers102', f'--directory={tmp_path}', '--check'
  )
  assert done.status == 1, done.err
  assert 'train: 6 images of 102 classes; expected 2,040' in done.out
  assert 'test: 3 images of 102 classes; expected 6,149' in done.out


@pytest.mark.parametrize('name', ['birdsnap', 'fgvc_aircraft'])
def test_a_set_of_folders_says_how_it_is_expected(command, name):
  done = command('prepare_data', name)
  assert done.status == 2
  assert done.err.count('\n') == 1
  facts = large.BY_NAME[name]
  for words in ('--directory', 'train/CLASS', facts.home):
    assert words in done.err


def test_a_set_that_is_not_there_is_one_line(command, tmp_path):
  done = command(
    'prepare_data', 'food101', f'--directory={tmp_path}', '--check'
  )
  assert done.status == 2
  assert done.err.count('\n') == 1
  assert 'not prepared as array_record' in done.err


def test_an_unknown_set_is_one_line(command):
  done = command('prepare_data', 'flowers')
  assert done.status == 2
  assert 'oxford_flowers102' in done.err


def test_the_table_has_every_set(command):
  done = command('prepare_data', '--list')
  assert done.status == 0
  for name in large.BY_NAME:
    assert f'\n{name} ' in done.out


def test_the_list_has_all_data_sets(command, tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  (tmp_path / 'cars196' / '2.1.0').mkdir(parents=True)
  (tmp_path / 'cars196' / '2.1.0' / 'dataset_info.json').touch()
  done = command('prepare_data', '--list')
  assert (done.status, done.err) == (0, '')
  header, *rows, _ = done.out.splitlines()
  assert [row.split()[0] for row in rows] == facts.names()
  there = {row.split()[0]: row.split()[1] for row in rows}
  assert there['cars196'] == there['digits'] == 'yes'
  assert there['food101'] == 'no' and there['image_folder'] == '-'
  assert done.out.count('https://') > 8 and '1,281,167' in done.out
  # A directory of the user's.
  image_files.folder(tmp_path / 'mine', {'train': 1, 'test': 1})
  done = command('prepare_data', '--list', f'--directory={tmp_path}/mine')
  there = {r.split()[0]: r.split()[1] for r in done.out.splitlines()[1:-1]}
  assert (there['image_folder'], there['cars196']) == ('yes', 'no')


def test_much_is_known_of_every_data_set_that_comes_with_the_package():
  for name in facts.names():
    if not name.startswith('doctest'):  # doctests register some in this process
      assert facts.find(name).what, name


def test_an_unknown_data_set_is_one_line(command):
  done = command('prepare_data', 'cifar11')
  assert done.status == 2 and "did you mean 'cifar10'?" in done.err
