import errno
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.runs import checkpoints
from tests import tiny

STATE = {'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'n': np.int32(7)}


def _save(saved, step, state=STATE, **remembered):
  """Saves and waits."""
  saved.save(state, checkpoints.JournalState(step=step, **remembered), {})
  saved.wait()


def _names(directory):
  """What is in a directory."""
  return sorted(path.name for path in pathlib.Path(directory).iterdir())


@pytest.fixture
def open_checkpoints(tmp_path):
  """Opens `tmp_path / 'checkpoints'`, and closes at the end."""
  opened = []

  def open_(**options):
    for saved in opened:
      saved.close()
    saved = checkpoints.Checkpoints(tmp_path / 'checkpoints', **options)
    opened[:] = [saved]
    return saved

  yield open_
  for saved in opened:
    saved.close()


def test_arrays_and_the_journal_come_back_as_they_were(open_checkpoints):
  journal = checkpoints.JournalState(
    step=8,
    metric_sums={'loss': 0.1 + 0.2, 'error_rate': 1 / 3},
    metric_count=3,
    perturbed_sums={'sharpness': 0.7},
    perturbed_weight=1 / 3,
    final_score=0.25,
    best_score=0.125,
    best_step=5,
    elapsed_seconds=1.5,
    starts=[{'device': '1 x cpu'}],
  )
  open_checkpoints().save(STATE, journal, {'mean': [0.5]})
  saved = open_checkpoints()
  assert saved.latest_step() == 8
  assert saved.read_journal(8) == (journal, {'mean': [0.5]})
  jax.tree.map(np.testing.assert_array_equal, saved.read_state(8), STATE)


def test_a_state_comes_back_in_the_structure_that_is_asked_for(
  open_checkpoints,
):
  state = {'pair': (jnp.ones(2), [jnp.zeros(3)]), 'empty': {}}
  _save(open_checkpoints(), 1, state=state)
  read = open_checkpoints().read_state(1, state)
  assert jax.tree.structure(read) == jax.tree.structure(state)


def test_a_state_from_many_devices_is_read_on_one(open_checkpoints):
  mesh = jax.sharding.Mesh(jax.devices(), ('d',))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  _save(open_checkpoints(), 1, state=jax.device_put(STATE, everywhere))
  read = open_checkpoints().read_state(1)
  assert {d for leaf in jax.tree.leaves(read) for d in leaf.devices()} == {
    jax.devices()[0]
  }


def test_saving_does_not_keep_up_with_what_is_donated(open_checkpoints):
  """What is saved is the state at that time, though its memory is reused."""
  step = jax.jit(
    lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0
  )
  state = {'w': jnp.zeros(1_000_000)}
  saved = open_checkpoints(max_to_keep=10)
  for i in range(3):
    saved.save(state, checkpoints.JournalState(step=i), {})
    state = step(state)
  saved.wait()
  for i in range(3):
    np.testing.assert_array_equal(saved.read_state(i)['w'], i)


def test_the_newest_are_kept(open_checkpoints):
  saved = open_checkpoints(max_to_keep=2)
  for step in (1, 2, 3, 4):
    _save(saved, step)
  assert saved.steps() == [3, 4]


def test_the_best_one_is_kept_until_there_is_a_better(open_checkpoints):
  saved = open_checkpoints(max_to_keep=1, keep_best=True)
  kept = []
  for step, best_step in ((1, None), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5)):
    _save(saved, step, best_step=best_step)
    kept.append(saved.steps())
  assert kept == [[1], [2], [2, 3], [2, 4], [5], [5, 6]]


def test_the_best_one_is_kept_over_a_restart(open_checkpoints):
  for step in (1, 2, 3):
    saved = open_checkpoints(keep_best=True)
    _save(saved, step, best_step=1)
  assert saved.steps() == [1, 3]


def test_without_keep_best_the_best_one_goes(open_checkpoints):
  saved = open_checkpoints()
  _save(saved, 1, best_step=1)
  _save(saved, 2, best_step=1)
  assert saved.steps() == [2]


def test_named_steps_are_never_deleted(open_checkpoints):
  saved = open_checkpoints(keep_steps=(2, 3))
  for step in range(1, 7):
    _save(saved, step)
  assert saved.steps() == [2, 3, 6]


def test_a_step_that_is_there_stays_as_it_is(open_checkpoints):
  saved = open_checkpoints()
  _save(saved, 1, metric_count=1)
  _save(saved, 1, metric_count=2, state=jax.tree.map(np.zeros_like, STATE))
  assert saved.read_journal(1)[0].metric_count == 1
  np.testing.assert_array_equal(saved.read_state(1)['w'], STATE['w'])


def test_what_keeps_a_checkpoint_from_being_saved_is_raised(
  open_checkpoints, monkeypatch, tmp_path
):
  """By what comes next; and nothing of it is left, as the disk may be full."""
  saved = open_checkpoints()
  _save(saved, 1)

  def fail(directory):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(checkpoints.seals, 'take_inventory', fail)
  journal = checkpoints.JournalState(step=2)
  saved.save(STATE, journal, {})
  assert saved.latest_step() == 1
  with pytest.raises(OSError, match='No space left'):
    saved.save(STATE, journal, {})
  monkeypatch.undo()
  assert _names(tmp_path / 'checkpoints') == ['1']
  _save(saved, 2)
  assert saved.steps() == [2]


_DIE_WHILE_SAVING = """
import os, pathlib, signal, sys
import numpy as np
from sam_jax.runs import checkpoints

directory = pathlib.Path(sys.argv[1])
saved = checkpoints.Checkpoints(directory)
saved.save({'w': np.ones(3)}, checkpoints.JournalState(step=1), {})
saved.wait()
saved.save({'w': np.ones(20_000_000)}, checkpoints.JournalState(step=2), {})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def half_written(tmp_path):
  """A directory with a checkpoint of step 1 and a part of that of step 2."""
  directory = tmp_path / 'checkpoints'
  done = subprocess.run(
    [sys.executable, '-c', _DIE_WHILE_SAVING, str(directory)],
    cwd=tiny.ROOT,
    capture_output=True,
    check=False,
  )
  assert done.returncode == -signal.SIGKILL
  assert _names(directory) == ['1', '2.partial']
  return directory


def test_a_half_written_checkpoint_is_no_checkpoint(
  half_written, open_checkpoints
):
  before = tiny.tree(half_written)
  reader = checkpoints.Checkpoints(half_written, read_only=True)
  assert reader.steps() == [1]
  reader.close()
  assert tiny.tree(half_written) == before
  saved = open_checkpoints()
  assert saved.latest_step() == 1
  _save(saved, 3)
  assert _names(half_written) == ['3']


def test_reading_creates_nothing(tmp_path):
  saved = checkpoints.Checkpoints(tmp_path / 'none', read_only=True)
  assert saved.steps() == []
  assert saved.latest_step() is None
  saved.close()
  assert tiny.tree(tmp_path) == {}
