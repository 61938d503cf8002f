import contextlib
import io
import os
import re
import sys
import termios

import pytest

from sam_jax.runs import progress_line

METRICS = {'loss': 0.1234, 'error_rate': 0.25}


class _Clock:
  """A clock that a test moves."""

  def __init__(self, monkeypatch):
    self.now = 0.0
    monkeypatch.setattr(progress_line.time, 'monotonic', lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
  return _Clock(monkeypatch)


def _reporter(seconds=10.0, start_step=0):
  return progress_line.Reporter(
    start_step=start_step, num_steps=100, batch_size=8, seconds=seconds
  )


def test_without_a_terminal_lines_come_at_most_every_so_many_seconds(
  clock, capsys
):
  reporter = _reporter(seconds=10.0)
  for step in range(1, 26):
    clock.now += 1
    reporter.step(step, METRICS)
  reporter.close()
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(':')[0] for line in lines] == [
    'step 10/100',
    'step 20/100',
  ]


def test_a_line_has_loss_error_rate_and_time_left(clock, capsys):
  reporter = _reporter(seconds=9.5)
  for step in range(1, 11):
    clock.now += 1
    reporter.step(step, METRICS)
  reporter.close()
  # 8 images per step and second, 90 seconds to go.
  assert capsys.readouterr().out == (
    'step 10/100: loss 0.1234, error 25.00%, 8 images/s, 0:01:30 left\n'
  )


def test_the_rate_leaves_out_the_compilation(clock, capsys):
  reporter = _reporter(seconds=1000.0)
  clock.now = 999.0
  reporter.step(1, METRICS)
  clock.now = 1000.0
  reporter.step(2, METRICS)
  reporter.close()
  assert '8 images/s' in capsys.readouterr().out


def test_the_first_step_promises_no_time(clock, capsys):
  reporter = _reporter(seconds=1.0)
  clock.now = 60.0  # compilation
  reporter.step(1, METRICS)
  reporter.close()
  assert capsys.readouterr().out == 'step 1/100: loss 0.1234, error 25.00%\n'


def test_the_rate_does_not_count_steps_of_an_earlier_start(clock, capsys):
  reporter = _reporter(seconds=1.0, start_step=50)
  reporter.step(51, METRICS)
  clock.now = 1.0
  reporter.step(52, METRICS)
  reporter.close()
  assert '8 images/s, 0:00:48 left' in capsys.readouterr().out


def test_without_a_terminal_nothing_goes_to_stderr(clock, capsys):
  reporter = _reporter(seconds=0.0)
  reporter.step(1, METRICS)
  reporter.line('epoch 1')
  reporter.close()
  captured = capsys.readouterr()
  assert captured.err == ''
  assert captured.out.splitlines()[-1] == 'epoch 1'


@contextlib.contextmanager
def _terminal(monkeypatch):
  """Puts a terminal in stderr's place; yields what reads what it shows."""
  master, slave = os.openpty()
  termios.tcsetwinsize(slave, (24, 120))
  stream = io.TextIOWrapper(os.fdopen(slave, 'wb', 0), write_through=True)
  os.set_blocking(master, False)
  with monkeypatch.context() as patch:
    patch.setattr(sys, 'stderr', stream)
    yield lambda: os.read(master, 100_000).decode()
  stream.close()
  os.close(master)


def test_on_a_terminal_a_bar_has_loss_error_rate_and_time_left(
  clock, capsys, monkeypatch
):
  with _terminal(monkeypatch) as read:
    reporter = _reporter(start_step=40)
    for step in range(41, 51):
      clock.now += 1
      reporter.step(step, METRICS)
    reporter.line('epoch 5: done')
    reporter.close()
    shown = read()
  assert '50%' in shown and '50/100' in shown
  assert 'loss 0.1234, error 25.00%, 8 images/s' in shown
  assert re.search(r'\[\d+:\d+<\d+:\d+', shown)  # elapsed < left
  # The line stands above the bar, and progress lines do not come on top.
  assert capsys.readouterr().out.replace('\r', '').strip() == 'epoch 5: done'


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0, '0:00:00'), (59.6, '0:01:00'), (3599, '0:59:59'), (90061, '25:01:01')],
)
def test_a_duration_is_hours_minutes_seconds(seconds, text):
  assert progress_line.duration(seconds) == text
