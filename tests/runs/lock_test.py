"""Who works in a directory holds its lock."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import types

import filelock
import jax
import pytest

from sam_jax.analysis import result_files, terms
from sam_jax.runs import lock, preparation
from sam_jax.training import parallel
from tests import tiny

_HOLD = """
import pathlib, sys
from sam_jax.runs import lock
with lock.hold(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  sys.stdin.read()
"""


def test_a_lock_leaves_no_trace(tmp_path):
  new = tmp_path / 'a' / 'b'
  with lock.hold(new):
    assert new.is_dir()
  assert tiny.tree(tmp_path) == {}
  with lock.hold(new):
    (new / 'config.json').touch()
  assert list(tiny.tree(tmp_path)) == ['a', 'a/b', 'a/b/config.json']


def test_a_second_owner_is_refused_in_one_line_and_touches_nothing(tmp_path):
  with lock.hold(tmp_path, 'sweep'):
    before = tiny.tree(tmp_path)
    with (
      pytest.raises(ValueError, match='sweep directory .* is in use') as raised,
      lock.hold(tmp_path, 'sweep'),
    ):
      pytest.fail('it was not refused')
    assert tiny.tree(tmp_path) == before
  message = str(raised.value)
  assert f'process {os.getpid()} on {socket.gethostname()}' in message
  assert '\n' not in message
  with lock.hold(tmp_path):
    pass


def test_whether_a_lock_is_held_is_told_without_a_trace(tmp_path):
  assert not lock.is_held(tmp_path / 'none')
  with lock.hold(tmp_path):
    before = tiny.tree(tmp_path)
    assert lock.is_held(tmp_path)
    assert tiny.tree(tmp_path) == before
  assert not lock.is_held(tmp_path)
  (tmp_path / lock.FILE).touch()  # left by an owner that died
  assert not lock.is_held(tmp_path)
  (tmp_path / lock.FILE).unlink(missing_ok=True)
  (tmp_path / lock.FILE).mkdir()  # which no process can lock
  assert not lock.is_held(tmp_path)


def test_an_error_while_it_is_held_gives_the_lock_back(tmp_path):
  with pytest.raises(ZeroDivisionError), lock.hold(tmp_path):
    raise ZeroDivisionError
  assert tiny.tree(tmp_path) == {}


def test_the_lock_of_a_dead_owner_is_free(tmp_path):
  owner = subprocess.Popen(
    [sys.executable, '-c', _HOLD, str(tmp_path)],
    cwd=tiny.ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  with owner:
    assert owner.stdout.readline() == b'held\n'
    with pytest.raises(ValueError, match=f'process {owner.pid} on '):
      lock.hold(tmp_path).__enter__()
    owner.kill()
  with lock.hold(tmp_path):
    assert (tmp_path / lock.FILE).exists()
  assert tiny.tree(tmp_path) == {}


def test_what_a_power_cut_left_locks_nothing_and_is_no_owner(tmp_path):
  """Even if a process of that number lives, as in another container."""
  (tmp_path / lock.FILE).touch()
  (tmp_path / '.lock.owner').write_text(
    f'{socket.gethostname()} {os.getppid()}'
  )
  with lock.hold(tmp_path):
    with pytest.raises(ValueError, match=f'process {os.getpid()} on '):
      lock.hold(tmp_path).__enter__()
    (tmp_path / '.lock.owner').unlink()  # it has not said yet who it is
    with pytest.raises(ValueError, match='in use by another process'):
      lock.hold(tmp_path).__enter__()
  assert tiny.tree(tmp_path) == {}


def test_a_look_at_the_lock_does_not_turn_a_run_away(tmp_path):
  other = filelock.FileLock(tmp_path / lock.FILE, thread_local=False)
  other.acquire()
  timer = threading.Timer(0.1, other.release)
  timer.start()
  with lock.hold(tmp_path):
    pass
  timer.join()


def test_a_removed_directory_gives_the_lock_back(tmp_path):
  run = tmp_path / 'run'
  with lock.hold(run):
    shutil.rmtree(run)
  with lock.hold(run):
    pass
  assert tiny.tree(tmp_path) == {}


def test_a_measurement_is_made_by_one_process(monkeypatch, tmp_path):
  model = types.SimpleNamespace(step=3, digest=lambda: 'd')
  subject = result_files.Subject('run', tmp_path, [model])
  asked = []

  def refuse(directory, what):
    asked.append((directory.parent, what))
    raise lock.InUse('in use')

  monkeypatch.setattr(lock, 'hold', refuse)
  with pytest.raises(ValueError, match='in use'):
    result_files.measure('hessian', subject, {}, terms.Options())
  assert asked == [(tmp_path / 'analysis', 'analysis')]
  assert tiny.tree(tmp_path) == {}


@pytest.mark.parametrize('name', ['x' * 300, 'file/below'])
def test_a_directory_that_cannot_be_made_is_one_line(tmp_path, name):
  (tmp_path / 'file').touch()
  with pytest.raises(
    ValueError, match='to the sweep directory .*choose'
  ) as raised:
    lock.hold(tmp_path / name, 'sweep').__enter__()
  assert '\n' not in str(raised.value)
  assert list(tiny.tree(tmp_path)) == ['file']


def test_a_second_run_in_a_directory_is_refused_before_anything_is_read(
  tmp_path,
):
  (tmp_path / 'config.json').write_text('{"half')
  with lock.hold(tmp_path):
    before = tiny.tree(tmp_path)
    with pytest.raises(ValueError, match='run directory .* is in use'):
      tiny.train(tmp_path)
    assert tiny.tree(tmp_path) == before


def test_of_several_processes_the_first_has_the_lock_and_the_others_learn(
  monkeypatch, tmp_path
):
  asked = []
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
    parallel, 'any_process', lambda refused: asked.append(refused) or True
  )
  for index, message in ((0, 'is in use'), (1, 'the first process')):
    monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
    with lock.hold(tmp_path), pytest.raises(ValueError, match=message):
      preparation.begin(tiny.config(), tmp_path).__enter__()
  assert asked == [True, False]
