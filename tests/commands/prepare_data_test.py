"""scripts/prepare_data.py on sets made here; nothing is downloaded."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from sam_jax.datasets import large
from tests import originals, pictures
from tests.datasets import large_test

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _run(*arguments):
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return subprocess.run(
    [sys.executable, 'scripts/prepare_data.py', *map(str, arguments)],
    cwd=_ROOT,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )


# Runs the script with what it would start written down instead.
_RECORDED = """
import json
import subprocess
import sys
from absl import app
sys.path.insert(0, 'scripts')
import prepare_data as script
status, home, log = sys.argv.pop(), sys.argv.pop(), []
script._ENVIRONMENT = script.pathlib.Path(home)
def create(where, **options):
  log.append(['create', str(where), options])
def run(command, check):
  log.append(['run', [str(part) for part in command], check])
  return subprocess.CompletedProcess(command, 0 if check else int(status))
script.venv.create, script.subprocess.run = create, run
script._verify = lambda name: log.append(['verify', name]) or True
try:
  app.run(script.main)
finally:
  print(json.dumps(log))
"""


def _record(*arguments, home, status=0):
  """Runs it; returns exit status, what it started, standard error."""
  done = subprocess.run(
    [
      *(sys.executable, '-c', _RECORDED),
      *map(str, (*arguments, home, status)),
    ],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  log = json.loads(done.stdout.splitlines()[-1])
  return done.returncode, log, done.stderr


def test_a_set_is_prepared_in_an_environment_of_its_own(tmp_path):
  home = tmp_path / 'env'
  python = str(home / 'bin' / 'python')
  status, log, _ = _record(
    *('imagenet2012', '--directory=data', '--manual_dir=downloads'), home=home
  )
  assert status == 0
  (made, installed, prepared, verified) = log
  assert made == ['create', str(home), {'with_pip': True}]
  assert installed[1][:4] == [python, '-m', 'pip', 'install']
  assert any(part.startswith('tensorflow-cpu') for part in installed[1])
  assert installed[2]  # a failure of pip's is an error
  assert prepared[1][:2] == [python, '-c']
  assert 'download_and_prepare' in prepared[1][2]
  assert prepared[1][3:] == ['imagenet2012', 'data', 'downloads']
  assert verified == ['verify', 'imagenet2012']


def test_an_environment_is_made_once_and_directories_may_be_left_out(tmp_path):
  python = tmp_path / 'bin' / 'python'
  python.parent.mkdir()
  python.touch()
  _, log, _ = _record('cifar10', home=tmp_path)
  assert [what for what, *_ in log] == ['run', 'run', 'verify']
  assert log[1][1][3:] == ['cifar10', '', '']


@pytest.mark.parametrize('arguments', [('cifar10', '--check'), ('birdsnap',)])
def test_nothing_is_prepared_where_it_is_not_to_be(tmp_path, arguments):
  _, log, _ = _record(*arguments, home=tmp_path)
  assert log == [['verify', arguments[0]]]


def test_a_preparation_that_fails_is_status_2(tmp_path):
  status, log, err = _record('food101', home=tmp_path, status=1)
  assert status == 2
  assert [what for what, *_ in log] == ['create', 'run', 'run']
  assert err.count('\n') == 1
  assert 'could not prepare food101' in err
  assert '--manual_dir' in err


def test_a_good_folder_is_called_good(tmp_path):
  pictures.folder(tmp_path, {'train': 3, 'test': 2})
  done = _run('image_folder', f'--directory={tmp_path}')
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    'train: 12 images of 4 classes',
    'test: 8 images of 4 classes',
    'image_folder: all is well',
  ]


def test_damaged_images_are_listed(tmp_path):
  pictures.folder(tmp_path, {'train': 3, 'test': 2})
  broken = tmp_path / 'train' / 'red' / '001.jpg'
  broken.write_bytes(broken.read_bytes()[:200])
  done = _run('image_folder', f'--directory={tmp_path}', '--check')
  assert done.returncode == 1
  assert f'  {broken}: ' in done.stdout
  assert done.stdout.count('.jpg') == 1
  assert 'image_folder: not all is well' in done.stdout


def test_a_validation_folder_is_checked_beside_that_of_the_test(tmp_path):
  pictures.folder(tmp_path, {'train': 3, 'test': 2, 'val': 1})
  broken = tmp_path / 'val' / 'red' / '000.jpg'
  broken.write_bytes(b'')
  done = _run('image_folder', f'--directory={tmp_path}', '--check')
  assert done.returncode == 1
  assert 'validation: 4 images of 4 classes' in done.stdout
  assert f'  {broken}: ' in done.stdout


@pytest.mark.parametrize(
  ('sizes', 'counts'),
  [
    ({'train': 3, 'val': 2}, ['train: 12', 'validation: 8']),
    ({'train': 3}, ['train: 12']),
  ],
)
def test_a_folder_needs_no_test_images(tmp_path, sizes, counts):
  pictures.folder(tmp_path, sizes)
  done = _run('image_folder', f'--directory={tmp_path}', '--check')
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    *(f'{count} images of 4 classes' for count in counts),
    'image_folder: all is well',
  ]


def test_an_incomplete_set_in_memory_is_told(tmp_path):
  originals.write_fashion(tmp_path, compressed=False)
  done = _run('fashion_mnist', f'--directory={tmp_path}', '--check')
  assert done.returncode == 1, done.stderr
  assert 'train: 30 images of 10 classes; expected 60,000' in done.stdout
  assert 'test: 10 images of 10 classes; expected 10,000' in done.stdout
  assert 'fashion_mnist: not all is well' in done.stdout


def test_wrong_counts_are_told(tmp_path):
  large_test.prepare(tmp_path, {'train': 4, 'validation': 2, 'test': 3})
  done = _run('oxford_flowers102', f'--directory={tmp_path}', '--check')
  assert done.returncode == 1, done.stderr
  assert 'train: 6 images of 102 classes; expected 2,040' in done.stdout
  assert 'test: 3 images of 102 classes; expected 6,149' in done.stdout


@pytest.mark.parametrize('name', ['birdsnap', 'fgvc_aircraft'])
def test_a_set_of_folders_says_how_it_is_expected(name):
  done = _run(name)
  assert done.returncode == 2
  assert done.stderr.count('\n') == 1
  facts = large.BY_NAME[name]
  for words in ('--directory', 'train/CLASS', facts.home):
    assert words in done.stderr


def test_a_set_that_is_not_there_is_one_line(tmp_path):
  done = _run('food101', f'--directory={tmp_path}', '--check')
  assert done.returncode == 2
  assert done.stderr.count('\n') == 1
  assert 'not prepared as array_record' in done.stderr


def test_an_unknown_set_is_one_line():
  done = _run('flowers')
  assert done.returncode == 2
  assert 'oxford_flowers102' in done.stderr


def test_the_table_has_every_set():
  done = _run('--list')
  assert done.returncode == 0
  for name in large.BY_NAME:
    assert f'\n{name} ' in done.stdout
