import json
import os
import pathlib

import pytest

from sam_jax.runs import files


def test_content_is_written_and_replaced(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'seed': 1})
  assert json.loads(path.read_text()) == {'seed': 1}
  files.write_text(path, 'é')
  assert path.read_text('utf-8') == 'é'
  assert os.listdir(tmp_path) == ['a.json']


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'a'
  files.write_text(path, 'old')

  def write(stream):
    stream.write(b'half')
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    files.write_atomically(path, write)
  assert path.read_text() == 'old'
  assert os.listdir(tmp_path) == ['a']


def test_content_is_on_disk_before_the_name_and_the_name_before_the_return(
  monkeypatch, tmp_path
):
  synced = []

  def fsync(descriptor):
    (name,) = (path.name for path in tmp_path.iterdir())
    is_whole = name == 'a' or not name.endswith('.partial')
    synced.append((os.path.isdir(f'/proc/self/fd/{descriptor}'), is_whole))

  monkeypatch.setattr(os, 'fsync', fsync)
  files.write_text(tmp_path / 'a', 'x')
  assert synced == [(False, False), (True, True)]


def test_a_path_of_a_user_is_absolute(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.chdir(tmp_path)
  assert files.user_path('~/runs') == tmp_path / 'home' / 'runs'
  assert files.user_path('runs/a') == tmp_path / 'runs' / 'a'
  assert files.user_path(pathlib.Path('a')) == tmp_path / 'a'


@pytest.mark.parametrize(
  'text', ['gs://bucket/runs', pathlib.Path('s3://a/b'), '', '~no_such_user_/a']
)
def test_what_is_no_path_here_is_one_line(text):
  with pytest.raises(ValueError, match='path|cannot be used') as raised:
    files.user_path(text)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  'name',
  ['[a]', 'a*', 'a?', 'a\\b', 'a\udcff', '[a]/b', '/', '//', '/..', 'gs://a'],
)
def test_a_directory_that_checkpoints_cannot_be_kept_in_is_one_line(name):
  with pytest.raises(ValueError, match='checkpoints|root|path') as raised:
    files.run_directory(name)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  'name',
  ['a b', 'ü', 'e\u0301', 'a:b', '%41', '~a~', "'", '{a}', '-a', 'x y.z'],
)
def test_other_names_are_taken_as_they_are(monkeypatch, tmp_path, name):
  monkeypatch.chdir(tmp_path)
  directory = files.run_directory(f'./{name}')
  monkeypatch.chdir('/')
  assert directory == tmp_path / name


@pytest.mark.parametrize('name', ['a', '~/a'])
def test_without_a_home_or_a_current_directory_it_is_one_line(
  monkeypatch, tmp_path, name
):
  gone = tmp_path / 'gone'
  gone.mkdir()
  monkeypatch.chdir(gone)
  gone.rmdir()
  monkeypatch.delenv('HOME')
  monkeypatch.setattr(os, 'getuid', lambda: 123_456_789)
  with pytest.raises(ValueError, match='cannot be used'):
    files.user_path(name)
  assert files.user_path('/a') == pathlib.Path('/a')


def test_two_processes_may_write_the_same_file(tmp_path):
  path = tmp_path / 'a'

  def write(stream):
    stream.write(b'first')
    files.write_text(path, 'second')

  files.write_atomically(path, write)
  assert path.read_text() == 'first'
  assert os.listdir(tmp_path) == ['a']
