"""TensorBoard's files, whatever the clock does."""

import time

import pytest
from tensorboard.backend.event_processing import event_accumulator

from sam_jax.runs import metrics_log

_HOUR = 3600.0


class Clock:
  """Stands in for `time`: moves by a second with each look at it."""

  def __init__(self, offset):
    self.offset = offset

  def time(self):
    return time.time() + self.offset

  def time_ns(self):
    return int(1e9 * self.time())

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
    monkeypatch.setattr(metrics_log, 'time', clock)
    writer = metrics_log.MetricWriter(
      tmp_path, start_step=2 * start, tensorboard=True
    )
    # The last one is repeated by the next start.
    for step in range(2 * start + 1, 2 * start + 4):
      writer.write(step, 0.0, {'loss': float(10 * start + step)})
      clock.offset -= _HOUR
    writer.close()
  events = event_accumulator.EventAccumulator(str(tmp_path))
  events.Reload()
  points = events.Scalars('loss')
  assert [p.step for p in points] == [1, 2, 3, 4, 5, 6, 7]
  assert [p.value for p in points] == [1, 2, 13, 14, 25, 26, 27]
  walls = [p.wall_time for p in points]
  assert walls == sorted(walls)
