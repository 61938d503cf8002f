import contextlib
import io
import os
import re
import sys
import termios

import pytest
import tqdm

from sam_jax import tasks
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


def _line(seconds=10.0, start_step=0, task=tasks.ImageClassification):
  return progress_line.ProgressLine(
    task=object.__new__(task),  # its words need neither model nor data
    start_step=start_step,
    num_steps=100,
    batch_size=8,
    seconds=seconds,
  )


def test_without_a_terminal_lines_come_at_most_every_so_many_seconds(
  clock, capsys
):
  line = _line(seconds=10.0)
  for step in range(1, 26):
    clock.now += 1
    line.step(step, METRICS)
  line.close()
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(':')[0] for line in lines] == [
    'step 10/100',
    'step 20/100',
  ]


def test_a_line_has_loss_error_rate_and_time_left(clock, capsys):
  line = _line(seconds=9.5)
  for step in range(1, 11):
    clock.now += 1
    line.step(step, METRICS)
  line.close()
  # 8 images per step and second, 90 seconds to go.
  assert capsys.readouterr().out == (
    'step 10/100: loss 0.1234, error 25.00 %, 8 images/s, 0:01:30 left\n'
  )


def test_the_rate_leaves_out_the_compilation(clock, capsys):
  line = _line(seconds=1000.0)
  clock.now = 999.0
  line.step(1, METRICS)
  clock.now = 1000.0
  line.step(2, METRICS)
  line.close()
  assert '8 images/s' in capsys.readouterr().out


def test_the_first_step_is_said_to_compile(clock, capsys):
  line = _line(seconds=10.0)
  line.compiling()
  assert capsys.readouterr().out == 'compiling the first step\n'
  line.close()


def test_on_a_terminal_the_time_left_leaves_out_the_compilation(monkeypatch):
  """The first step took 1,000 s, and those after it one each."""
  now = 0.0
  with monkeypatch.context() as patch:
    terminal = _Terminal(patch)
    patch.setattr(tqdm.std, 'time', lambda: now)
    line = _line()
    line.compiling()
    for step in range(1, 12):
      now += 1000 if step == 1 else 1
      line.step(step, METRICS)
    line.close()
    shown = terminal.read()
  assert 'compiling the first step:   0%' in shown
  last = shown.split('\r')[-2]
  assert 'compiling' not in last
  assert '11/100 [00:10<01:29' in last


def test_the_first_step_promises_no_time(clock, capsys):
  line = _line(seconds=1.0)
  clock.now = 60.0  # compilation
  line.step(1, METRICS)
  line.close()
  assert capsys.readouterr().out == 'step 1/100: loss 0.1234, error 25.00 %\n'


def test_the_rate_does_not_count_steps_of_an_earlier_start(clock, capsys):
  line = _line(seconds=1.0, start_step=50)
  line.step(51, METRICS)
  clock.now = 1.0
  line.step(52, METRICS)
  line.close()
  assert '8 images/s, 0:00:48 left' in capsys.readouterr().out


class _Regression(tasks.ImageClassification):
  score = tasks.Score('squared_error', 'squared error')
  examples = 'spectra'


def test_a_line_has_the_words_of_the_task(clock, capsys):
  line = _line(seconds=0.0, task=_Regression)
  for step, metrics in enumerate(
    ({'loss': 0.5}, {'loss': 0.5, 'squared_error': 0.012345}), 1
  ):
    clock.now += 1
    line.step(step, metrics)
  line.close()
  assert capsys.readouterr().out.splitlines() == [
    'step 1/100: loss 0.5000',
    'step 2/100: loss 0.5000, squared error 0.01235, 8 spectra/s, 0:01:38 left',
  ]


def test_without_a_terminal_nothing_goes_to_stderr(clock, capsys):
  line = _line(seconds=0.0)
  line.step(1, METRICS)
  line.line('epoch 1')
  line.close()
  captured = capsys.readouterr()
  assert captured.err == ''
  assert captured.out.splitlines()[-1] == 'epoch 1'


class _Terminal:
  """A terminal in stderr's place, and what it shows."""

  def __init__(self, monkeypatch):
    self._master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    stream = io.TextIOWrapper(os.fdopen(slave, 'wb', 0), write_through=True)
    monkeypatch.setattr(sys, 'stderr', stream)

  def read(self):
    """Hangs up and returns everything that was written."""
    sys.stderr.close()
    parts = []
    # The kernel hands over what was written in parts and in its own time. Only
    # the error that says that the other end is closed says that it was all.
    with contextlib.suppress(OSError):
      while part := os.read(self._master, 100_000):
        parts.append(part)
    os.close(self._master)
    return b''.join(parts).decode()


def test_on_a_terminal_a_bar_has_loss_error_rate_and_time_left(
  clock, capsys, monkeypatch
):
  with monkeypatch.context() as patch:
    terminal = _Terminal(patch)
    line = _line(start_step=40)
    for step in range(41, 51):
      clock.now += 1
      line.step(step, METRICS)
    line.line('epoch 5: done')
    line.close()
    shown = terminal.read()
  assert '50%' in shown and '50/100' in shown
  assert 'loss 0.1234, error 25.00 %, 8 images/s' in shown
  assert re.search(r'\[\d+:\d+<\d+:\d+', shown)  # elapsed < left
  # The line stands above the bar, and progress lines do not come on top.
  assert capsys.readouterr().out.replace('\r', '').strip() == 'epoch 5: done'


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0, '0:00:00'), (59.6, '0:01:00'), (3599, '0:59:59'), (90061, '25:01:01')],
)
def test_a_duration_is_hours_minutes_seconds(seconds, text):
  assert progress_line.duration(seconds) == text
