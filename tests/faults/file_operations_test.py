"""A kill, or an error of the system, at operations of a start, a save, an end.

A few of them, in this process; scripts/soak.py takes all of them.
"""

import contextlib
import errno
import gc

import pytest

from tests import tiny
from tests.faults import file_operations

_FIELDS = {
  **tiny.PLAIN,
  'num_steps': 4,
  'checkpoint.every_steps': 2,
  'log.tensorboard': False,
}


@pytest.fixture(scope='module')
def compiled():
  return {}


@pytest.fixture(scope='module')
def whole(tmp_path_factory, compiled):
  """An undisturbed run, and the operations that it makes."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    tiny.share_programs(patch, compiled)
    tiny.use_devices(patch, 1)
    with file_operations.Saboteur(workdir) as saboteur:
      tiny.train(workdir, **_FIELDS)
  return workdir, saboteur.made


@pytest.fixture
def one_device(monkeypatch, compiled):
  tiny.share_programs(monkeypatch, compiled)
  tiny.use_devices(monkeypatch, 1)


def test_the_operations_of_a_run_are_seen(whole):
  _, made = whole
  text = '\n'.join(made)
  for wanted in (
    'fsync .lock.owner',
    'replace config.json',
    'mkdir checkpoints',
  ):
    assert wanted in text
  for wanted in ('fsync metrics.jsonl', 'rename checkpoints', 'unlink .lock'):
    assert wanted in text


# Operations from the first to the last, as shares of all of them. If one fails,
# Orbax leaves coroutines behind of its own that nobody awaits.
@pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning',
  'ignore:coroutine .* was never awaited',
)
@pytest.mark.parametrize(
  ('share', 'error'),
  [
    (0.05, None),
    (0.45, None),
    (0.95, None),
    (0.3, errno.ENOSPC),
    (0.6, errno.EIO),
  ],
)
def test_a_run_disturbed_at_an_operation_is_the_same_in_the_end(
  one_device, tmp_path, whole, share, error
):
  undisturbed, made = whole
  workdir, strike = tmp_path / 'run', int(share * len(made))
  with (
    file_operations.Saboteur(workdir, strike, error) as saboteur,
    contextlib.suppress(OSError, ValueError, file_operations.Killed),
  ):
    tiny.train(workdir, **_FIELDS)
  assert len(saboteur.made) > strike
  gc.collect()  # the lock of what was killed
  tiny.train(workdir, **_FIELDS)
  tiny.assert_same_run(workdir, undisturbed)
  gc.collect()  # Orbax's coroutines, before another test meets them
