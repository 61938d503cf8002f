import os
import select
import signal
import subprocess
import sys
import threading

import pytest
import tiny

from sam_jax.runs import interrupts


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted(capfd, signum):
  with interrupts.Listener() as listener:
    assert listener.signum is None
    os.kill(os.getpid(), signum)
    assert listener.signum == signum
  assert f'{signum.name}: saving a checkpoint' in capfd.readouterr().err


@pytest.mark.parametrize('first', [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_acts_at_once(capfd, first):
  with interrupts.Listener():
    os.kill(os.getpid(), first)
    for signum in (signal.SIGTERM, signal.SIGINT):
      assert signal.getsignal(signum) is signal.SIG_DFL


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


_SIGNAL_WHILE_PRINTING = """
import os, signal, threading
from sam_jax import interrupts

with interrupts.Listener() as listener:
  timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM))
  timer.start()
  print('x' * 1_000_000, flush=True)  # a pipe that nobody reads: blocks
  print(listener.signum, flush=True)
"""


def test_a_signal_in_the_middle_of_a_print_is_noted_too():
  process = subprocess.Popen(
    [sys.executable, '-c', _SIGNAL_WHILE_PRINTING],
    cwd=tiny.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  # Nothing is read, so that the print blocks, before the signal was noted.
  is_noted, _, _ = select.select([process.stderr], [], [], 60)
  output, errors = process.communicate(timeout=60)
  assert is_noted
  assert 'SIGTERM: saving a checkpoint' in errors
  assert 'reentrant' not in errors
  assert output.splitlines()[-1] == '15'
