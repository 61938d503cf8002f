"""Writers by name, and those for wandb and MLflow.

The fakes have what our code calls of the two libraries, with the arguments that
they take; the slow tests use the libraries themselves, without a network.
"""

import importlib.util
import json
import struct
import sys
import types

import pytest

from sam_jax.runs import (
  callbacks,
  dry_run,
  metrics_log,
  preparation,
  writers,
)
from sam_jax.runs.writers import base, followers as followers_lib
from tests import tiny

_RESULT = {
  'final_score': 0.1,
  'best_score': 0.05,
  'best_step': 3,
  'wall_seconds': 2.0,
}


def _start(directory, *, rows, logged, step=0):
  config = tiny.config()
  return callbacks.Start(config, directory, 'run_id', step, 10, rows, logged)


def _log(directory, steps, rows=0):
  """Writes lines as a run does from its checkpoint on; returns them all."""
  known = metrics_log.read(directory)[:rows] if rows else []
  one = metrics_log.MetricWriter(directory, metrics_log.Rows.of(known))
  for step in steps:
    one.write(step, step / 5, {'train/loss': 1 / step})
  one.close()
  return metrics_log.read(directory)


def _follow(name, directory, steps, *, rows=0, logged=0, result=None):
  """Lets a writer follow a start of a run."""
  followers = writers.Followers((name,))
  _log(directory, [], rows)
  followers.on_start(_start(directory, rows=rows, logged=logged))
  for line in _log(directory, steps, rows)[rows:]:
    metrics = {'train/loss': line['train/loss']}
    followers.on_line(line['step'], line['epoch'], metrics)
  followers.on_checkpoint(steps[-1], directory)
  followers.on_end(result)


# --- Names -------------------------------------------------------------------


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (('wanbd',), r"unknown writer .*'wanbd'; known: .*did you mean 'wandb'"),
    (('wandb',), r"log.writers has 'wandb', and wandb is not installed; .*"),
    (
      ('mlflow',),
      r"mlflow is not installed; .*pip install 'sam_jax\[mlflow\]'",
    ),
  ],
)
def test_what_cannot_write_is_one_line_before_anything_is_made(
  monkeypatch, tmp_path, names, message
):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    base.importlib.util,
    'find_spec',
    lambda name: None if name in names else find_spec(name),
  )
  config = tiny.config(**{'log.writers': names})
  for start in (
    dry_run.run,
    lambda *given: preparation.begin(*given).__enter__(),
  ):
    with pytest.raises(ValueError, match=message) as raised:
      start(config, tmp_path / 'run')
    assert '\n' not in str(raised.value)
  assert not (tmp_path / 'run').exists()


def test_writers_of_a_config_are_named_once():
  fields = {'log.tensorboard': True, 'log.writers': ('wandb', 'tensorboard')}
  assert writers.named(tiny.config(**fields)) == ('tensorboard', 'wandb')
  assert writers.named(tiny.config()) == ()


class Clock:
  """Stands in for `time`: moves when it is told to."""

  now = 0.0

  def monotonic(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  monkeypatch.setattr(followers_lib, 'time', Clock())
  return followers_lib.time


# --- Failures ----------------------------------------------------------------


@pytest.mark.parametrize(
  ('failures', 'said'),
  [
    ([1], ['failed (ConnectionError: no network); the run goes on', 'works']),
    (['open', 3], ['failed', 'works', 'failed', 'works']),
    (['sync'], ['failed', 'works']),
    ([3, 3, 3, 3], ['failed']),
    (['close'], ['failed']),
  ],
)
def test_a_failure_is_a_line_and_the_writer_catches_up(
  monkeypatch, tmp_path, capsys, clock, failures, said
):
  kept, left = [], [*failures]

  def do(what):
    if what in left:
      left.remove(what)
      raise ConnectionError('no\nnetwork')

  class Flaky(writers.Writer):
    def open(self, start):
      do('open')
      assert start.rows == len(kept)
      return start.rows

    def write(self, number, line):
      assert number == len(kept)
      do(number)
      kept.append(line)

    def sync(self):
      do('sync')

    def close(self, result):
      do('close')

  monkeypatch.setitem(base._WRITERS, 'flaky', base._Entry(Flaky, None))
  followers = writers.Followers(('flaky',))
  one = metrics_log.MetricWriter(tmp_path)
  followers.on_start(_start(tmp_path, rows=0, logged=0))
  for step in range(1, 5):
    one.write(step, step / 5, {'train/loss': 1 / step})
    followers.on_line(step, step / 5, {'train/loss': 1 / step})
    if step % 2 == 0:
      followers.on_checkpoint(step, tmp_path)
  followers.on_end(_RESULT)
  one.close()
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == len(said)
  for line, words in zip(lines, said, strict=True):
    assert line.startswith("warning: the writer 'flaky' ") and words in line
  rows = metrics_log.read(tmp_path)
  assert kept == (rows[:3] if failures.count(3) > 1 else rows)


def test_a_run_is_not_held_up_at_every_checkpoint(
  monkeypatch, tmp_path, capsys, clock
):
  class Slow(writers.Writer):
    attempts = 0

    def open(self, start):
      Slow.attempts += 1
      clock.now += 90.0
      raise TimeoutError('no answer within 90 seconds')

  monkeypatch.setitem(base._WRITERS, 'slow', base._Entry(Slow, None))
  one = writers.Followers(('slow',))
  one.on_start(_start(tmp_path, rows=0, logged=0))
  made = []
  for now in (100.0, 989.0, 991.0, 1100.0):
    clock.now = now
    one.on_checkpoint(1, tmp_path)
    made.append(Slow.attempts)
  assert made == [1, 1, 2, 2]
  one.on_end(_RESULT)
  assert Slow.attempts == 3
  assert capsys.readouterr().err.count('\n') == 1


# --- wandb -------------------------------------------------------------------


class FakeWandb(types.ModuleType):
  """Stands in for wandb: a server that keeps the rows of each run by step."""

  def __init__(self, offline=False):
    super().__init__('wandb')
    self.offline = offline
    self.server = {}
    self.inits = []

  def init(self, *, id, resume, reinit, name, dir, config, allow_val_change):
    assert (resume, reinit, allow_val_change) == ('allow', 'create_new', True)
    json.dumps(config)
    self.inits.append(name)
    (dir / 'wandb' / f'offline-run-{len(self.inits)}-{id}').mkdir(parents=True)
    return FakeRun(self, self.server.setdefault(id, {}))


class FakeRun:
  """A run: rows may only be added at the end, as at wandb's."""

  def __init__(self, module, rows):
    self.offline = module.offline
    self.rows = rows
    last = max(rows, default=-1)
    self.starting_step = 0 if self.offline else last + 1
    self.summary = {}
    self.exit_code = None

  def define_metric(self, name, *, step_metric=None, hidden=None):
    assert (name, step_metric, hidden) in [
      ('step', None, True),
      ('*', 'step', None),
    ]

  def log(self, data, step, commit):
    assert commit and step not in self.rows, f'row {step} is there twice'
    assert step > max(self.rows, default=-1)
    self.rows[step] = data

  def finish(self, exit_code):
    self.exit_code = exit_code


@pytest.mark.parametrize('offline', [False, True])
def test_a_resumed_run_continues_its_wandb_run(
  monkeypatch, tmp_path, capsys, offline
):
  fake = FakeWandb(offline)
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  _follow('wandb', tmp_path, [1, 2, 3, 4])
  _follow('wandb', tmp_path, [3, 4, 5], rows=2, logged=4, result=_RESULT)
  assert 'warning' not in capsys.readouterr().err
  assert len(fake.inits) == 2
  assert list(fake.server['run_id'].values()) == metrics_log.read(tmp_path)


def test_wandb_gets_the_lines_from_before_it_was_named(monkeypatch, tmp_path):
  fake = FakeWandb(offline=True)
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  _log(tmp_path, [1, 2, 3])
  _follow('wandb', tmp_path, [3, 4], rows=2, logged=3)
  rows = fake.server['run_id']
  assert [row['step'] for row in rows.values()] == [1, 2, 3, 4]


def _records(content):
  """Yields the records of a .wandb file: LevelDB's format, after 7 bytes."""
  position, parts = 7, b''
  while position + 7 <= len(content):
    if (left := 32768 - position % 32768) < 7:  # records end with their block
      position += left
      continue
    length, kind = struct.unpack_from('<HB', content, position + 4)
    position += 7 + length
    parts += content[position - length : position]
    if kind in (1, 4):  # whole, or its last part
      yield parts
      parts = b''


@pytest.mark.slow
def test_the_real_wandb_takes_it_all_offline(monkeypatch, tmp_path, capsys):
  wandb = pytest.importorskip('wandb')
  from wandb.proto import wandb_internal_pb2

  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  _follow('wandb', tmp_path, [1, 2, 3, 4])
  # wandb names it by the second, and the next start may be in the same one.
  (first,) = tmp_path.glob('wandb/offline-run-*')
  first.rename(first.with_name('offline-run-first-run_id'))
  _follow('wandb', tmp_path, [3, 4, 5], rows=2, logged=4, result=_RESULT)
  wandb.teardown()  # its process has written all when it ends
  assert 'warning: the writer' not in capsys.readouterr().err
  found = {}
  for path in sorted(tmp_path.glob('wandb/offline-run-*-run_id/*.wandb')):
    for content in _records(path.read_bytes()):
      record = wandb_internal_pb2.Record.FromString(content)
      if record.WhichOneof('record_type') == 'history':
        row = {
          item.key or '.'.join(item.nested_key): json.loads(item.value_json)
          for item in record.history.item
        }
        assert row['_step'] not in found
        found[row['_step']] = (row['step'], row['train/loss'])
  lines = metrics_log.read(tmp_path)
  assert found == {
    number: (line['step'], line['train/loss'])
    for number, line in enumerate(lines)
  }


# --- MLflow ------------------------------------------------------------------


@pytest.mark.slow
def test_a_resumed_run_continues_its_mlflow_run(monkeypatch, tmp_path, capsys):
  monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')  # of seconds, not 15
  monkeypatch.setenv('MLFLOW_TRACKING_URI', (tmp_path / 'store').as_uri())
  monkeypatch.setenv('MLFLOW_EXPERIMENT_NAME', 'sharpness')
  mlflow = pytest.importorskip('mlflow')
  run = tmp_path / 'run'
  run.mkdir()
  _follow('mlflow', run, [1, 2, 3, 4])
  _follow('mlflow', run, [3, 4, 5], rows=2, logged=4, result=_RESULT)
  assert 'warning: the writer' not in capsys.readouterr().err
  client = mlflow.MlflowClient()
  experiment = client.get_experiment_by_name('sharpness').experiment_id
  (found,) = client.search_runs([experiment])
  assert found.info.status == 'FINISHED'
  assert found.data.params['method.name'] == 'sam'
  history = client.get_metric_history(found.info.run_id, 'train/loss')
  assert [(p.step, p.value) for p in history] == [
    (line['step'], line['train/loss']) for line in metrics_log.read(run)
  ]
