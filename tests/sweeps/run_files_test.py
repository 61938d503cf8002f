"""The files of runs as others find them: on bad disks, and damaged."""

import errno
import json

import pytest

from sam_jax.sweeps import results, run_files
from tests.sweeps import made_up


@pytest.fixture
def pauses(monkeypatch):
  """How long was waited; nothing is."""
  waited = []
  monkeypatch.setattr(run_files.time, 'sleep', waited.append)
  return waited


def _fail(monkeypatch, number, times):
  """Makes so many attempts to read a file fail."""
  left = [number] * times
  original = run_files._read_bytes

  def read_bytes(path, limit=-1):
    if left:
      raise OSError(left.pop(), 'not now', str(path))
    return original(path, limit)

  monkeypatch.setattr(run_files, '_read_bytes', read_bytes)


@pytest.mark.parametrize('number', [errno.ESTALE, errno.EIO])
def test_a_disk_that_fails_for_a_moment_is_asked_again(
  tmp_path, monkeypatch, pauses, number
):
  made_up.write_run(tmp_path, 'a', [0.5, 0.25])
  for read in (
    lambda run: run_files.read_result(run)['final_score'],
    lambda run: run_files.read_config(run).num_epochs,
    lambda run: len(run_files.read_metrics(run).lines),
  ):
    expected = read(tmp_path / 'a')
    with monkeypatch.context() as patch:
      _fail(patch, number, times=2)
      assert read(tmp_path / 'a') == expected
    with (
      monkeypatch.context() as patch,
      pytest.raises(OSError, match='not now'),
    ):
      _fail(patch, number, times=99)
      read(tmp_path / 'a')
  assert 0 < sum(pauses) < 15


def test_only_a_result_that_must_be_there_is_waited_for(
  tmp_path, monkeypatch, pauses
):
  made_up.write_run(tmp_path, 'a', [0.5])
  _fail(monkeypatch, errno.ENOENT, times=1)
  assert run_files.read_result(tmp_path / 'a') is None
  assert pauses == []
  _fail(monkeypatch, errno.ENOENT, times=1)
  assert run_files.read_result(tmp_path / 'a', is_expected=True) is not None
  _fail(monkeypatch, errno.EACCES, times=1)
  with pytest.raises(OSError, match='not now'):
    run_files.read_result(tmp_path / 'a')


def _change(run, **changes):
  """Changes values of result.json."""
  path = run / 'result.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'final_score': None}, 'final_score is None'),
    ({'final_score': float('nan')}, 'final_score is nan'),
    ({'final_score': 10**400}, 'final_score is 1000'),
    ({'wall_seconds': True}, 'wall_seconds is True'),
    ({'best_score': 0.75}, 'best_score is 0.75, final_score is 0.5'),
    ({'split': 'train'}, 'split is train'),
    ({'score': {'metric': 'loss'}}, 'score is'),
    ({'score': made_up.ERROR | {'unit': 'a\nb'}}, 'score is'),
    ({'starts': [3]}, 'starts is'),
    ({'steps': 4}, 'it has 4 steps, the log 5'),
    ({'final_score': 0.625}, 'its score is 0.625, in the log 0.5'),
    ({'epochs': 7}, 'it has 7 epochs, and num_epochs of the config is 2'),
  ],
)
def test_a_result_that_is_not_of_its_run_is_left_out(
  tmp_path, changes, message
):
  made_up.write_run(tmp_path, 'a', [0.5])
  _change(tmp_path / 'a', **changes)
  found = results.collect(tmp_path)
  assert found.runs == []
  [reason] = found.unreadable
  assert f'{tmp_path}/a/result.json' in reason and message in reason


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, 'is missing'),
    (b'', 'ends at step 0 of 5'),
    (b'\xff\n[]\n{"step": 5, "epoch": 1}', '2 of 3 lines cannot be read'),
    (b'{"step": 5, "epoch": 1}\n{"step": 4, "epoch": 0.8}', 'first is line 2'),
    (b'{"step": 5, "epoch": 1, "a": 1}\n' * 2, 'first is line 2'),
    (b'{"step": 5, "epoch": 1, "a": 1}\n{"step": 5, "epoch": 1, "b": 1}', ''),
    (b'{"step": "5", "epoch": 1}', '1 of 1 lines'),
  ],
)
def test_a_damaged_log_is_named_and_its_run_kept(tmp_path, content, message):
  made_up.write_run(tmp_path, 'a', [0.5])
  path = tmp_path / 'a' / 'metrics.jsonl'
  path.unlink()
  if content is not None:
    path.write_bytes(content)
  found = results.collect(tmp_path)
  assert len(found.runs) == 1
  assert len(found.remarks) == bool(message)
  assert all(str(path) in r and message in r for r in found.remarks)


def test_a_result_that_was_edited_is_left_out(tmp_path):
  made_up.write_run(tmp_path, 'a', [0.5])
  _change(tmp_path / 'a', gradient_evaluations=3.0)
  [reason] = results.collect(tmp_path).unreadable
  assert 'result.json' in reason


def test_rows_that_are_there_twice_count_once(tmp_path):
  made_up.write_run(tmp_path, 'a', [0.5, 0.25])
  path = tmp_path / 'a' / 'metrics.jsonl'
  path.write_text(path.read_text() * 2)
  [run] = results.collect(tmp_path).runs
  assert run.curve('test/error_rate') == {1: 0.5, 2: 0.25}
  assert run.final('error_rate') == 0.25
