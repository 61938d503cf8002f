import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

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


def test_nothing_waits_for_a_directory_that_cannot_be_made(open_checkpoints):
  saved = open_checkpoints()
  (pathlib.Path(saved._directory) / '7.partial').touch()
  with pytest.raises(NotADirectoryError):
    _save(saved, 7)
  # The program would not end before these have given up.
  waiting = {'array_type_handler', 'write_metadata_after_commits'}
  assert not waiting & {thread.name for thread in threading.enumerate()}


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


# --- Damage; tests/faults/damage_test.py has all kinds ------------------------


def _flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 16
  path.write_bytes(content)


def _data_file(checkpoint):
  """The largest file of the state: its arrays."""
  paths = (checkpoint / 'state').rglob('*')
  files = (path for path in paths if path.is_file())
  return max(files, key=lambda path: path.stat().st_size)


def test_the_newest_that_is_intact_is_told_from_those_that_are_not(
  open_checkpoints, tmp_path
):
  saved = open_checkpoints(max_to_keep=9)
  for step in (1, 2, 3):
    _save(saved, step, state={'w': np.arange(1000.0)})
  assert saved.newest_intact() == (3, [])
  broken = _data_file(tmp_path / 'checkpoints' / '3')
  _flip_a_bit(broken)
  shutil.copytree(tmp_path / 'checkpoints/1', tmp_path / 'checkpoints/4')
  (tmp_path / 'checkpoints' / '5').mkdir()
  saved = open_checkpoints(max_to_keep=9)
  assert saved.steps() == [1, 2, 3]  # 4 is that of step 1, and 5 is nothing
  step, skipped = saved.newest_intact()
  assert step == 2
  assert [each.step for each in skipped] == [5, 4, 3]
  reasons = [each.reason for each in skipped]
  assert reasons[0].endswith('5/checkpoint.json is missing')
  assert reasons[1].endswith('4/checkpoint.json is of step 1')
  assert reasons[2] == f'{broken} is damaged: its checksum does not fit'


def test_what_a_run_deletes_meanwhile_is_not_taken_for_damage(
  open_checkpoints, tmp_path, monkeypatch
):
  """The next one is there by then."""
  saved = open_checkpoints()
  _save(saved, 1)
  reader = checkpoints.Checkpoints(tmp_path / 'checkpoints', read_only=True)
  damage = reader.damage

  def damage_later(step):
    if step == 1:
      _save(saved, 2)
    return damage(step)

  monkeypatch.setattr(reader, 'damage', damage_later)
  assert reader.newest_intact() == (2, [])
  reader.close()


def test_an_old_one_that_cannot_be_deleted_stops_nothing(
  open_checkpoints, monkeypatch, tmp_path
):
  saved = open_checkpoints(max_to_keep=1)
  _save(saved, 1)
  with monkeypatch.context() as patch:

    def fail(path):
      raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    patch.setattr(checkpoints.shutil, 'rmtree', fail)
    _save(saved, 2)
  assert saved.steps() == [2]
  assert open_checkpoints(max_to_keep=1).steps() == [2]
  assert _names(tmp_path / 'checkpoints') == ['2']


def test_each_file_is_checked_to_its_end(open_checkpoints, monkeypatch):
  monkeypatch.setattr(checkpoints.seals, '_BUFFER_BYTES', 64)
  saved = open_checkpoints()
  rng = np.random.default_rng(0)
  _save(saved, 1, state={'w': rng.normal(size=3000)})
  path = _data_file(saved.path(1))
  content = path.read_bytes()
  assert len(content) > 20_000
  for place in (0, 63, 64, len(content) - 1):
    path.write_bytes(content)
    assert saved.damage(1) is None
    changed = bytearray(content)
    changed[place] ^= 1
    path.write_bytes(changed)
    assert saved.damage(1) == f'{path} is damaged: its checksum does not fit'


def test_a_checkpoint_of_another_run_is_none_of_this_one(tmp_path):
  for name in 'ab':
    saved = checkpoints.Checkpoints(tmp_path / name, run_id=name)
    _save(saved, 1)
    saved.close()
  shutil.copytree(tmp_path / 'a' / '1', tmp_path / 'b' / '2')
  saved = checkpoints.Checkpoints(tmp_path / 'b', run_id='b', read_only=True)
  assert saved.steps() == [1]
  assert saved.damage(2).endswith('2/checkpoint.json belongs to another run')
  saved.close()


@pytest.mark.parametrize('stray', ['directory', 'file'])
def test_what_has_the_name_of_a_checkpoint_is_kept_aside(
  open_checkpoints, tmp_path, stray
):
  """And the checkpoint of that step can be saved."""
  directory = tmp_path / 'checkpoints'
  directory.mkdir()
  if stray == 'file':
    (directory / '1').write_text('mine')
  else:
    (directory / '1' / 'mine').mkdir(parents=True)
  saved = open_checkpoints()
  assert saved.latest_step() is None
  _save(saved, 1)
  assert saved.newest_intact() == (1, [])
  assert _names(directory) == ['1', '1.damaged']
  if stray == 'file':
    assert (directory / '1.damaged').read_text() == 'mine'


def test_all_is_on_disk_before_a_checkpoint_has_its_name(
  open_checkpoints, tmp_path, monkeypatch
):
  """Each file and directory, of ours and of Orbax, and then the name itself."""
  synced, fsync = [], os.fsync

  def note(descriptor):
    synced.append(os.readlink(f'/proc/self/fd/{descriptor}'))
    fsync(descriptor)

  monkeypatch.setattr(os, 'fsync', note)
  _save(open_checkpoints(), 1)
  directory = tmp_path / 'checkpoints'
  before = {
    pathlib.Path(path.replace('/1.partial', '/1')) for path in synced[:-1]
  }
  expected = {directory / '1', *(directory / '1').rglob('*')}
  expected -= {directory / '1' / 'checkpoint.json'}  # under a partial name
  assert expected <= before
  assert any('checkpoint.json' in path for path in synced)
  assert synced[-1] == str(directory)


def test_reading_creates_nothing(tmp_path):
  saved = checkpoints.Checkpoints(tmp_path / 'none', read_only=True)
  assert saved.steps() == []
  assert saved.latest_step() is None
  saved.close()
  assert tiny.tree(tmp_path) == {}
