"""The trace of a run: which steps, what is in it, that it changes nothing."""

import os
import signal
import types

import jax
import pytest

from sam_jax.runs import interrupts, journal, loop, metrics_log, profiling
from scripts import read_profile
from tests import tiny

_FIELDS = tiny.PLAIN | {'checkpoint.every_steps': 4}


_CACHE_KEY = 'jax_compilation_cache_include_metadata_in_key'


@pytest.fixture(scope='module')
def _compiled():
  """Programs, with the names of now and not those of an older cache."""
  before = getattr(jax.config, _CACHE_KEY)
  jax.config.update(_CACHE_KEY, True)
  yield {}
  jax.config.update(_CACHE_KEY, before)


@pytest.fixture
def small(monkeypatch, _compiled):
  """Runs on one device, which share their programs, and warm up in 2 steps."""
  monkeypatch.setattr(profiling, 'WARM_UP', 2)
  tiny.use_devices(monkeypatch, 1)
  tiny.share_programs(monkeypatch, _compiled)


@pytest.fixture(scope='module')
def whole(tmp_path_factory, _compiled):
  """The run directory of a run that is not traced."""
  directory = tmp_path_factory.mktemp('whole')
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    tiny.share_programs(patch, _compiled)
    tiny.train(directory, **_FIELDS)
  return directory


def _train(directory, steps):
  config = tiny.config(**_FIELDS)
  return loop.train_and_evaluate(config, directory, profile_steps=steps)


def _traces(directory):
  return sorted(path.name for path in (directory / 'profile').iterdir())


def test_a_trace_shows_the_parts_of_steps_and_changes_nothing(
  small, whole, tmp_path, capsys
):
  _train(tmp_path, 5)
  tiny.assert_same_run(tmp_path, whole)
  told = [x for x in capsys.readouterr().out.splitlines() if 'profile:' in x]
  assert told == [
    'profile: tracing the steps 3 to 7; they are slower, and so is '
    'examples_per_second of the epoch that ends with step 5',
    f'profile: the steps 3 to 7 are in {tmp_path}/profile/3-7',
  ]
  table = read_profile.read(read_profile.find(tmp_path))
  assert table.steps == 5
  assert table.marks.keys() == set(read_profile.MARKS)
  named = {'ascent', 'perturbation', 'descent', 'optimizer', 'diagnostics'}
  assert table.parts.keys() >= named
  content = read_profile.find(tmp_path).read_bytes()
  gradients = {
    part
    for (module, name), part in read_profile._parts(content)
    if module == 'jit_train_step' and name.startswith(('convolution', 'dot'))
  }
  # A trace knows the programs of earlier tests, too; one that comes out of an
  # old compilation cache has no names.
  assert gradients - {'train_step'} == {'ascent', 'descent'}
  assert 'ascent' in '\n'.join(read_profile.lines(table))


@pytest.mark.parametrize('is_signal', [True, False])
def test_a_run_that_ends_within_its_trace_leaves_it_and_is_traced_again(
  monkeypatch, small, whole, tmp_path, capsys, is_signal
):
  def act(step):
    if step == 4 and is_signal:
      os.kill(os.getpid(), signal.SIGTERM)
    elif step == 5:
      raise tiny.Crash

  with monkeypatch.context() as patch:
    tiny.before_step(patch, act)
    with pytest.raises((interrupts.Interrupted, tiny.Crash)):
      _train(tmp_path, 5)
  path = tmp_path / 'profile' / '3-7'
  assert f'the steps 3 to 4 are in {path}\n' in capsys.readouterr().out
  assert read_profile.find(path)
  _train(tmp_path, 3)
  assert _traces(tmp_path) == ['3-7', '7-9']
  tiny.assert_same_run(tmp_path, whole)


def test_a_run_that_ends_within_its_first_traced_step_says_so(
  monkeypatch, small, tmp_path, capsys
):
  def act(step):
    if step == 3:
      raise tiny.Crash

  tiny.before_step(monkeypatch, act)
  with pytest.raises(tiny.Crash):
    _train(tmp_path, 5)
  told = f'within step 3, the first one; the trace is in {tmp_path}/profile/3-7'
  assert told in capsys.readouterr().out


def test_a_finished_run_says_that_it_has_no_step_to_trace(small, whole, capsys):
  before = tiny.tree(whole)
  _train(whole, 5)
  assert 'profile: the run is finished' in capsys.readouterr().out
  assert tiny.tree(whole) == before


def test_the_rate_leaves_traced_steps_out(monkeypatch, small, tmp_path):
  now = [0.0]
  monkeypatch.setattr(journal.time, 'monotonic', lambda: now[0])
  monkeypatch.setattr(
    jax.profiler, 'start_trace', lambda *args, **options: None
  )
  monkeypatch.setattr(
    jax.profiler, 'stop_trace', lambda: now.__setitem__(0, now[0] + 100)
  )
  monkeypatch.setattr(profiling, 'WARM_UP', 6)

  def act(step):
    now[0] += 10 if step in (7, 8) else 2

  tiny.before_step(monkeypatch, act)
  _train(tmp_path, 2)
  rates = [
    line['examples_per_second']
    for line in metrics_log.read(tmp_path)
    if 'examples_per_second' in line
  ]
  assert rates[1] == 16 / 2


def test_a_trace_to_the_end_of_a_part_of_an_epoch_has_a_rate(
  small, tmp_path, capsys
):
  config = tiny.config(**_FIELDS, num_steps=8)
  loop.train_and_evaluate(config, tmp_path, profile_steps=6)
  assert (
    'of the epochs that end with the steps 5, 8\n' in capsys.readouterr().out
  )
  lines = metrics_log.read(tmp_path)
  rates = {line['step']: line.get('examples_per_second') for line in lines}
  assert rates[5] > 0 and rates[8] > 0


@pytest.mark.parametrize(
  ('wanted', 'made', 'num_steps', 'steps', 'says'),
  [
    (5, 0, 100, range(11, 16), None),
    (5, 90, 105, range(101, 106), None),
    (5, 0, 13, range(11, 14), 'only 3 steps can be traced: this start'),
    (5, 0, 11, range(11, 12), 'only 1 step can be traced: this start'),
    (5, 90, 99, range(0), 'no step is traced: this start makes 9 steps,'),
    (None, 0, 100, range(0), None),
  ],
)
def test_steps_after_the_first_ones_of_a_start_are_traced(
  tmp_path, wanted, made, num_steps, steps, says
):
  said = []
  profile = profiling.Profile(
    tmp_path, wanted, made=made, num_steps=num_steps, say=said.append
  )
  assert profile.steps == steps
  assert [step for step in range(200) if profile.is_first(step)] == (
    list(steps[:1])
  )
  assert bool(said) == bool(says) and all(says in line for line in said)
  profile.made(made + 4)
  profile.close()
  assert any(f'ended at step {made + 4}' in x for x in said) == bool(steps)
  assert not list(tmp_path.iterdir())


def test_of_several_processes_the_first_one_traces_and_all_wait(
  monkeypatch, small, tmp_path
):
  """A wait may be for the others: all wait at the same steps."""
  made, waits, traced = [], [], []
  read_all = loop._Pending.read_all

  def note_and_read(self):
    waits.append(made[-1])
    read_all(self)

  tiny.before_step(monkeypatch, lambda step: made.append(step))
  monkeypatch.setattr(loop._Pending, 'read_all', note_and_read)
  monkeypatch.setattr(
    jax.profiler, 'start_trace', lambda *_, **__: traced.append(made[-1])
  )
  monkeypatch.setattr(
    jax.profiler, 'stop_trace', lambda: traced.append(made[-1])
  )
  found = []
  for is_first in (True, False):
    # What only the trace asks for: the rest of the run stays that of the first.
    process = types.SimpleNamespace(is_first_process=lambda x=is_first: x)
    monkeypatch.setattr(profiling, 'parallel', process)
    _train(tmp_path / str(is_first), 5)
    found.append(waits[:])
    waits.clear()
  assert found[0] == found[1] and {2, 7} <= set(found[0])
  assert traced == [2, 7]


def test_a_trace_that_fails_is_a_line_and_not_the_end(monkeypatch, tmp_path):
  def fail(*args, **options):
    raise OSError('no space\nleft')

  said = []
  profile = profiling.Profile(
    tmp_path, 5, made=0, num_steps=99, say=said.append
  )
  with monkeypatch.context() as patch:
    patch.setattr(jax.profiler, 'start_trace', fail)
    assert not profile.start()
    profile.made(11)
    profile.close()
  with monkeypatch.context() as patch:
    patch.setattr(jax.profiler, 'start_trace', lambda *args, **options: None)
    patch.setattr(jax.profiler, 'stop_trace', fail)
    assert profile.start() and profile.made(15)
    profile.stop()
  assert said == [
    'profile: nothing is traced: OSError: no space left',
    'profile: the trace could not be written: OSError: no space left',
  ]


@pytest.mark.parametrize('steps', [0, -1])
def test_a_number_of_steps_that_cannot_be_is_refused(tmp_path, steps):
  with pytest.raises(ValueError, match=f'is {steps}; it must be at least 1'):
    _train(tmp_path / 'run', steps)
  assert not (tmp_path / 'run').exists()


def test_a_directory_without_a_trace_says_what_writes_one(tmp_path):
  with pytest.raises(FileNotFoundError, match='--profile=STEPS'):
    read_profile.find(tmp_path)


def test_a_trace_that_was_cut_off_is_named(tmp_path):
  path = tmp_path / 'a.xplane.pb'
  path.write_bytes(b'\x0a\x7f' + b'cut off')  # 127 bytes should follow
  with pytest.raises(ValueError, match=rf'{path} is damaged, or was cut off'):
    read_profile.read(path)


@pytest.mark.parametrize(
  ('name', 'part'),
  [
    ('jit(f)/optimizer/clip/mul', 'clip'),
    ('jit(f)/ascent/transpose(jvp(m))/dot', 'ascent'),
    ('jit(f)/vmap(perturbation)/mul', 'perturbation'),
    ('transpose(jvp(ascent))/mul', 'ascent'),
    ('jit(f)/vmap(jit(clip))/max', read_profile.OTHER),  # jnp.clip
    ('jit(f)/add', read_profile.OTHER),
  ],
)
def test_the_part_of_an_operation_is_the_innermost_name(name, part):
  assert read_profile.part_of(name) == part
