"""What all commands do, whatever they are for."""

import errno
import importlib.util
import os
import pathlib
import re
import signal
import sys
import threading

import pytest
from absl import logging

from sam_jax import _cli, startup

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_FULL = (
  'RESOURCE_EXHAUSTED: Error opening "zarr" driver: Error writing local file '
  '"/runs/a/0/state": Failed to write\\n[os_error_code=\'28\']'
)


@pytest.fixture
def run(monkeypatch, capsys, process):
  """`run(main, *arguments) -> (status, standard error)` of such a command."""
  del process

  def run(main, *arguments):
    monkeypatch.setattr(sys, 'argv', ['name', *arguments])
    with pytest.raises(SystemExit) as stop:
      _cli.run(main, 'name', _cli.Flags())
    return stop.value.code or 0, capsys.readouterr().err

  return run


@pytest.mark.parametrize('arguments', [['--help'], []])
def test_a_command_whose_output_nobody_reads_ends_quietly(
  monkeypatch, capfd, arguments, process
):
  """As in `command | head`: the reader is gone before the rest is written."""
  del process
  reader, writer = os.pipe()
  os.close(reader)
  monkeypatch.setattr(sys, 'argv', ['command', *arguments])
  with open(writer, 'w') as stream, monkeypatch.context() as patched:
    patched.setattr(sys, 'stdout', stream)
    with pytest.raises(SystemExit) as stop:
      _cli.run(lambda argv: print('text'), 'command', _cli.Flags())
  # Closing the stream has raised nothing either.
  assert stop.value.code == 128 + signal.SIGPIPE
  assert capfd.readouterr().err == ''


def _raise(error):
  def main(argv):
    raise error

  return main


def _chained(error, cause):
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  ('error', 'status', 'text'),
  [
    (ValueError('rho is -1\n; it must be 0'), 2, 'rho is -1 ; it must be 0'),
    (FileNotFoundError(errno.ENOENT, 'No such', '/a'), 2, r'.*No such: .*/a.*'),
    (OSError(errno.ENOSPC, 'No space left'), 1, 'No space left'),
    (OSError(errno.EIO, 'Input error', '/a'), 1, 'Input error: /a'),
    (
      _chained(ValueError('cannot write'), OSError(errno.EIO, 'Bad', '/a')),
      1,
      'Bad: /a',
    ),
    (ValueError(_FULL), 1, 'No space left on device: /runs/a/0/state'),
    (
      RuntimeError('first\nsecond'),
      1,
      r'RuntimeError: first \(.*cli_test.py.*',
    ),
    (ExceptionGroup('two', [OSError(errno.EIO, 'Bad')]), 1, 'Bad'),
    (MemoryError(), 1, r'out of memory \(.*line \d+; --verbosity=0 .*'),
    (RuntimeError('x' * 9999), 1, r'RuntimeError: x{380,400}\.\.\. .*'),
    (SystemExit(0), 1, r'sys.exit\(0\) was called \(.*cli_test.py, line .*'),
    (KeyboardInterrupt(), 1, r'KeyboardInterrupt \(.*cli_test.py, line .*'),
    (_cli.Failed('all is lost'), 1, 'all is lost'),
  ],
  ids=lambda x: type(x).__name__,
)
def test_whatever_is_raised_is_one_line(run, error, status, text):
  code, err = run(_raise(error))
  assert code == status
  assert re.fullmatch(f'name: {text}\n', err), err


def test_who_asks_for_it_gets_the_traceback(run):
  code, err = run(_raise(RuntimeError('no')), '--verbosity=0')
  assert code == 1
  assert err.startswith('Traceback') and 'in main' in err
  assert err.splitlines()[-1].startswith('name: RuntimeError: no (')


def test_what_a_thread_raises_is_one_line(run):
  def fail():
    raise RuntimeError('in a thread')

  def main(argv):
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    sys.excepthook(RuntimeError, RuntimeError('of C++'), None)
    sys.excepthook(RuntimeError, RuntimeError('Event loop is closed'), None)
    try:
      fail()
    except RuntimeError:
      logging.exception('Orbax says so too')

  code, err = run(main)
  assert code == 0
  first, second = err.splitlines()
  assert re.fullmatch(r'name: RuntimeError: in a thread \(.*\)', first)
  assert re.fullmatch(r'name: RuntimeError: of C\+\+ \(.*\)', second)


@pytest.mark.parametrize(
  ('program', 'started_as', 'is_command'),
  [
    ('-m', ['python', '-u', '-m', 'sam_jax.train', '--config=a'], True),
    ('-m', ['python', '-msam_jax.sweep'], True),
    ('-m', ['python', '-m', 'my.experiment'], False),
    ('/usr/bin/sam-train', ['python', '/usr/bin/sam-train'], True),
    ('/usr/bin/sam-find-rho', ['python'], True),
    ('/usr/bin/sam-local', ['python'], False),
    (str(_ROOT / 'scripts' / 'train.py'), ['python'], True),
    ('train.py', ['python', 'train.py'], False),
    ('-c', ['python', '-c', 'import sam_jax'], False),
    ('', ['python'], False),
  ],
)
def test_only_a_command_decides_what_ctrl_c_does(
  monkeypatch, program, started_as, is_command
):
  monkeypatch.setattr(sys, 'argv', [program])
  monkeypatch.setattr(sys, 'orig_argv', started_as)
  assert startup.is_command() == is_command


def test_in_a_command_ctrl_c_is_left_to_the_kernel(run):
  handlers = []
  run(lambda argv: handlers.append(signal.getsignal(signal.SIGINT)))
  assert handlers == [signal.SIG_DFL]


def test_a_plug_in_may_lie_in_the_current_directory(run, monkeypatch, tmp_path):
  elsewhere = [path for path in sys.path if path not in ('', os.getcwd())]
  monkeypatch.setattr(sys, 'path', elsewhere)
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'my_plug_in_here.py').write_text('')
  (tmp_path / 'jax.py').write_text('')

  def main(argv):
    del argv
    assert importlib.util.find_spec('my_plug_in_here') is not None
    assert importlib.util.find_spec('jax').origin != str(tmp_path / 'jax.py')

  assert run(main) == (0, '')
