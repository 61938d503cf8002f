"""TensorBoard's files: complete, and in order whatever the clock does."""

import os
import time

import pytest
from tensorboard.backend.event_processing import event_accumulator

from sam_jax.runs import callbacks, writers
from sam_jax.runs.writers import _tensorboard
from tests import tiny

_HOUR = 3600.0


def _start(directory, step, rows):
  return callbacks.Start(tiny.config(), directory, 'id', step, 9, rows, rows)


def _line(step, **metrics):
  return {'step': step, 'epoch': step / 5, **metrics}


def _write(directory, steps, *, start_step=0, keys=('loss',)):
  """Logs step + start_step / 10 for every key, so that starts differ."""
  writer = writers.TensorBoard()
  number = writer.open(_start(directory, start_step, start_step))
  for i, step in enumerate(steps):
    values = dict.fromkeys(keys, step + start_step / 10)
    writer.write(number + i, _line(step, **values))
  writer.close(None)


def _points(directory):
  """Returns {key: [(step, value), ...]} as TensorBoard shows it."""
  events = event_accumulator.EventAccumulator(str(directory))
  events.Reload()
  return {
    key: [(point.step, point.value) for point in events.Scalars(key)]
    for key in events.Tags()['scalars']
  }


def test_there_is_a_point_for_each_metric_of_a_line(tmp_path):
  _write(tmp_path, [1, 2, 3], keys=('train/loss', 'test/error_rate'))
  points = [(1, 1.0), (2, 2.0), (3, 3.0)]
  assert _points(tmp_path) == {'train/loss': points, 'test/error_rate': points}


@pytest.mark.parametrize('start_step', [0, 3])
def test_what_a_resumed_run_logs_again_is_there_once(tmp_path, start_step):
  _write(tmp_path, [1, 2, 3, 4, 5])
  _write(tmp_path, range(start_step + 1, 7), start_step=start_step)
  kept = [(step, float(step)) for step in range(1, start_step + 1)]
  new = [(step, step + start_step / 10) for step in range(start_step + 1, 7)]
  # TensorBoard stores float32.
  assert _points(tmp_path)['loss'] == [
    (step, pytest.approx(value)) for step, value in kept + new
  ]


def test_a_run_that_had_no_events_yet_gets_all_of_its_lines(tmp_path):
  writer = writers.TensorBoard()
  assert writer.open(_start(tmp_path, 3, 3)) == 0
  for step in range(1, 5):
    writer.write(step - 1, _line(step, loss=float(step)))
  writer.close(None)
  assert [step for step, _ in _points(tmp_path)['loss']] == [1, 2, 3, 4]


def test_what_was_synced_is_in_the_file_before_it_is_closed(tmp_path):
  """A kill leaves it as it is then."""
  writer = writers.TensorBoard()
  writer.open(_start(tmp_path, 0, 0))
  for step in range(1, 101):
    metrics = {f'train/{i}': float(step) for i in range(9)}
    writer.write(step - 1, _line(step, **metrics))
  writer.sync()
  points = _points(tmp_path)
  assert len(points) == 9
  steps = list(range(1, 101))
  assert all([s for s, _ in series] == steps for series in points.values())
  writer.close(None)


def test_a_torn_event_does_not_hide_the_next_start(tmp_path):
  _write(tmp_path, [1, 2, 3])
  (events,) = tmp_path.glob('events*')
  os.truncate(events, events.stat().st_size - 5)
  _write(tmp_path, [3, 4], start_step=2)
  assert [step for step, _ in _points(tmp_path)['loss']] == [1, 2, 3, 4]


def test_two_starts_within_a_second_do_not_share_a_file(tmp_path):
  for start_step in range(3):
    _write(tmp_path, [start_step + 1], start_step=start_step)
  assert len(list(tmp_path.glob('events*'))) == 3
  assert [step for step, _ in _points(tmp_path)['loss']] == [1, 2, 3]


class Clock:
  """Stands in for `time`: moves by a second with each look at it."""

  def __init__(self, offset):
    self.offset = offset

  def time_ns(self):
    return int(1e9 * (time.time() + self.offset))

  def monotonic(self):
    return time.monotonic()


@pytest.mark.parametrize(
  'offsets', [(0.0, -_HOUR, -2 * _HOUR), (0.0, 0.0, 0.0)]
)
def test_points_are_in_order_and_complete_when_the_clock_is_put_back(
  monkeypatch, tmp_path, offsets
):
  for start, offset in enumerate(offsets):
    clock = Clock(offset)
    monkeypatch.setattr(_tensorboard, 'time', clock)
    writer = writers.TensorBoard()
    writer.open(_start(tmp_path, 2 * start, 2 * start))
    # The last one is repeated by the next start.
    for step in range(2 * start + 1, 2 * start + 4):
      writer.write(step - 1, _line(step, loss=float(10 * start + step)))
      clock.offset -= _HOUR
    writer.close(None)
  events = event_accumulator.EventAccumulator(str(tmp_path))
  events.Reload()
  points = events.Scalars('loss')
  assert [p.step for p in points] == [1, 2, 3, 4, 5, 6, 7]
  assert [p.value for p in points] == [1, 2, 13, 14, 25, 26, 27]
  walls = [p.wall_time for p in points]
  assert walls == sorted(walls)
