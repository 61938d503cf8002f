"""What callbacks and writers are told of a run, whole, resumed or failed."""

import pathlib

import pytest

from sam_jax.runs import callbacks, loop, metrics_log, writers
from tests import tiny

_FIELDS = tiny.PLAIN | {'log.writers': ('tests_flaky',), 'num_epochs': 2}


class Told(callbacks.Callback):
  """Remembers all that it is told."""

  def __init__(self):
    self.events, self.steps, self.lines, self.evaluations = [], {}, [], {}

  def on_start(self, start):
    self.start = start
    self.events.append('start')

  def on_step(self, step, state, metrics):
    self.events.append(f'step {step}')
    # Half of the steps are not waited for.
    self.steps[step] = (int(state().step), metrics()) if step % 2 else None

  def on_line(self, step, epoch, metrics):
    self.lines.append({'step': step, 'epoch': epoch, **metrics})

  def on_evaluation(self, step, metrics):
    self.evaluations[step] = metrics

  def on_checkpoint(self, step, path):
    self.events.append(f'checkpoint {step}')
    self.path = path

  def on_end(self, result):
    self.events.append('end')
    self.result = result


@writers.register('tests_flaky')
class Flaky(writers.Writer):
  """Writes to a service that cannot forget, and that does not always answer."""

  kept: list = []
  failures: list = []  # numbers of lines, each of which fails once
  closed: list = []

  def open(self, start):
    return len(self.kept)

  def write(self, number, line):
    if number in self.failures:
      self.failures.remove(number)
      raise ConnectionError('the network\nis down')
    assert number == len(self.kept)
    self.kept.append(line)

  def close(self, result):
    self.closed.append(result)


@pytest.fixture
def flaky(monkeypatch):
  """Empties the service."""
  for name in ('kept', 'failures', 'closed'):
    monkeypatch.setattr(Flaky, name, [])
  return Flaky


@pytest.fixture(scope='module')
def _compiled():
  return {}


@pytest.fixture(autouse=True)
def one_device(monkeypatch, _compiled):
  tiny.use_devices(monkeypatch, 1)
  tiny.share_programs(monkeypatch, _compiled)


def _train(directory, *told, **fields):
  config = tiny.config(**_FIELDS | fields)
  return loop.train_and_evaluate(config, directory, told)


def test_a_callback_is_told_of_everything_and_a_writer_catches_up(
  tmp_path, capsys, flaky
):
  flaky.failures = [4]
  told = Told()
  result = _train(tmp_path, told)
  warnings = capsys.readouterr().err.split('warning: ')[1:]
  assert [' '.join(line.split()[:5]) for line in warnings] == [
    "the writer 'tests_flaky' failed (ConnectionError:",
    "the writer 'tests_flaky' works again,",
  ]
  assert [e for e in told.events if 'checkpoint' not in e] == [
    'start',
    *(f'step {step}' for step in range(1, 11)),
    'end',
  ]
  saved = [e for e in told.events if 'checkpoint' in e]
  assert {'checkpoint 3', 'checkpoint 10'} <= set(saved)
  assert told.path == tmp_path / 'checkpoints' / '10' and told.path.is_dir()
  assert told.lines == metrics_log.read(tmp_path) == flaky.kept
  for line in told.lines:
    step = line['step']
    if 'step/loss' in line and step % 2:
      assert told.steps[step] == (
        step,
        {k[5:]: v for k, v in line.items() if k.startswith('step/')},
      )
  assert told.evaluations.keys() == {5, 10}
  assert told.evaluations[10]['test']['error_rate'] == result['final_score']
  assert told.result == result == flaky.closed[0]
  assert told.start[1:] == (tmp_path, told.start.run_id, 0, 10, 0, 0)
  # A finished run has nothing to tell.
  assert _train(tmp_path, other := Told()) == result
  assert other.events == []


def test_a_resumed_run_tells_a_writer_no_line_twice(
  monkeypatch, tmp_path, flaky
):
  fields = _FIELDS | {
    'checkpoint.every_steps': 4,
    'checkpoint.keep_best': False,
  }
  tiny.crash_at(monkeypatch, tmp_path, 7, **fields)
  assert [line['step'] for line in flaky.kept] == [1, 2, 3, 4, 5, 5]
  assert flaky.closed == [None]
  told = Told()
  _train(tmp_path, told, **fields)
  lines = metrics_log.read(tmp_path)
  assert told.start[3:] == (4, 10, 4, 6)
  assert [row['step'] for row in told.lines] == [5, 5, 6, 7, 8, 9, 10, 10]
  _assert_same(flaky.kept, lines)


def _assert_same(kept, lines):
  """Each line once, but for its rate, which another start has measured."""

  def without_rate(rows):
    return [
      {k: v for k, v in row.items() if k != 'examples_per_second'}
      for row in rows
    ]

  assert without_rate(kept) == without_rate(lines)


def test_what_a_callback_raises_ends_the_run_which_can_be_resumed(
  tmp_path, flaky
):
  class Stop(Told):
    def on_step(self, step, state, metrics):
      super().on_step(step, state, metrics)
      if step == 8:
        raise RuntimeError('enough')

  told = Stop()
  with pytest.raises(RuntimeError, match='enough'):
    _train(tmp_path, told)
  assert told.events[-1] == 'end' and told.result is None
  _train(tmp_path, again := Told())
  assert (again.start.step, again.events[1]) == (6, 'step 7')


def test_a_callback_that_does_not_start_ends_only_those_before_it(
  tmp_path, flaky
):
  class NoStart(Told):
    def on_start(self, start):
      raise RuntimeError('cannot start')

  before, after = Told(), Told()
  with pytest.raises(RuntimeError, match='cannot start'):
    _train(tmp_path, before, NoStart(), after)
  assert (before.events, after.events) == (['start', 'end'], [])
  assert isinstance(before.start.workdir, pathlib.Path)


def test_what_is_raised_at_the_end_keeps_no_other_from_being_told():
  class Bad(callbacks.Callback):
    def on_end(self, result):
      raise OSError('the disk is full')

  told = loop._Told()
  last = Told()
  told.callbacks = [Told(), Bad(), last]
  told.result = {'final_score': 0.5}
  with pytest.raises(OSError, match='the disk is full'):
    told.close()
  assert last.result == told.result
