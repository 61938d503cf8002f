import ctypes
import os
import select
import signal
import sys
import threading
import time

import pytest

from sam_jax.runs import interrupts


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted(capfd, signum):
  with interrupts.Listener() as listener:
    assert listener.signum is None
    os.kill(os.getpid(), signum)
    assert listener.signum == signum
  assert f'{signum.name}: saving a checkpoint' in capfd.readouterr().err


@pytest.mark.parametrize('first', [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_process_with_its_status(
  capfd, monkeypatch, first
):
  statuses = []
  monkeypatch.setattr(os, '_exit', statuses.append)
  with interrupts.Listener() as listener:
    os.kill(os.getpid(), first)
    os.kill(os.getpid(), signal.SIGINT)
  assert statuses == [128 + signal.SIGINT]
  assert listener.signum == first
  assert capfd.readouterr().err.count('saving a checkpoint') == 1


@pytest.mark.skipif(sys.platform != 'linux', reason='the C library of Linux')
def test_a_signal_is_noted_while_the_main_thread_is_in_c(capfd):
  """As it is while XLA compiles: no handler of Python's can run."""
  libc = ctypes.CDLL(None)
  mutex = ctypes.create_string_buffer(64)  # zeros are one that is free
  libc.pthread_mutex_lock(mutex)
  noted = []

  def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while listener.signum is None and time.monotonic() < deadline:
      time.sleep(0.001)
    noted.append(listener.signum)
    libc.pthread_mutex_unlock(mutex)

  with interrupts.Listener() as listener:
    thread = threading.Thread(target=interrupt)
    thread.start()
    libc.pthread_mutex_lock(mutex)
    thread.join()
  assert noted == [signal.SIGTERM]


def test_afterwards_the_signals_do_what_they_did_before(capfd):
  before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
  with interrupts.Listener():
    os.kill(os.getpid(), signal.SIGTERM)
  after = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
  assert after == before


def test_in_another_thread_it_does_nothing():
  signums = []

  def work():
    with interrupts.Listener() as listener:
      signums.append(listener.signum)

  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert signums == [None]
  assert signal.getsignal(signal.SIGTERM) is before


def test_the_exception_says_where_and_why_it_stopped():
  error = interrupts.Interrupted(signal.SIGTERM, 7)
  assert error.signum == signal.SIGTERM
  assert 'step 7 by SIGTERM' in str(error)


def test_a_signal_in_the_middle_of_a_print_is_noted_too(capfd, monkeypatch):
  reader, writer = os.pipe()
  pipe = open(writer, 'w')
  monkeypatch.setattr(sys, 'stdout', pipe)

  def interrupt():
    while select.select([], [writer], [], 0)[1]:
      pass  # the pipe is not full yet: the print does not wait
    os.kill(os.getpid(), signal.SIGTERM)
    while os.read(reader, 1 << 16):
      pass

  thread = threading.Thread(target=interrupt)
  with interrupts.Listener() as listener:
    thread.start()
    print('x' * 1_000_000, flush=True)
    pipe.close()
    thread.join()
    assert listener.signum == signal.SIGTERM
  os.close(reader)
  assert 'SIGTERM: saving a checkpoint' in capfd.readouterr().err
