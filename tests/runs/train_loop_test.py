import json
import math
import os
import shutil
import signal

import jax
import numpy as np
import pytest
import tiny
from tensorboard.backend.event_processing import event_accumulator

from sam_jax.runs import (
  evaluation,
  experiment,
  interrupts,
  metrics_log,
  preparation,
  train_loop,
  workdir,
)

NUM_STEPS = 2 * tiny.STEPS_PER_EPOCH


class _Crash(Exception):
  """Stands in for whatever ends a process between two steps."""


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The run directory of a run that nothing interrupted."""
  directory = tmp_path_factory.mktemp('whole')
  tiny.train(directory, **{'log.tensorboard': True})
  return directory


@pytest.fixture(scope='module')
def _compiled():
  return {}


@pytest.fixture
def compile_once(monkeypatch, _compiled):
  """Lets runs of the same config share their programs, for speed.

  Sharing is right for pure steps only, so every other test checks it.
  """
  _share_programs(monkeypatch, _compiled)


def _share_programs(monkeypatch, compiled):
  """Compiles a step only if `compiled` does not hold it."""
  for name in ('compile_train_step', 'compile_eval_step'):
    original = getattr(experiment.Experiment, name)

    def shared(self, name=name, original=original):
      if name not in compiled:
        compiled[name] = original(self)
      return compiled[name]

    monkeypatch.setattr(experiment.Experiment, name, shared)


def _before_step(monkeypatch, act):
  """Calls `act(step)` before each step is dispatched, counted from 1."""
  original = experiment.Experiment.compile_train_step

  def compile_train_step(self):
    train_step = original(self)

    def step(state, batch):
      act(int(state.step) + 1)
      return train_step(state, batch)

    return step

  monkeypatch.setattr(
    experiment.Experiment, 'compile_train_step', compile_train_step
  )


def _crash_at(monkeypatch, directory, step, **fields):
  """Trains until `step` steps are dispatched."""

  def act(next_step):
    if next_step == step + 1:
      raise _Crash

  with monkeypatch.context() as patch:
    _before_step(patch, act)
    with pytest.raises(_Crash):
      tiny.train(directory, **fields)


# --- Going on after an interruption ------------------------------------------


def test_a_signal_after_every_single_step_changes_nothing(
  monkeypatch, compile_once, tmp_path, whole
):
  _before_step(monkeypatch, lambda step: os.kill(os.getpid(), signal.SIGTERM))
  for step in range(1, NUM_STEPS):
    with pytest.raises(interrupts.Interrupted, match=f'step {step} by SIGTERM'):
      tiny.train(tmp_path)
    assert tiny.steps(tmp_path)[-1] == step
  tiny.train(tmp_path)
  tiny.assert_same_run(tmp_path, whole)


@pytest.mark.parametrize('step', range(1, NUM_STEPS))
def test_a_crash_after_any_step_changes_nothing(
  monkeypatch, compile_once, tmp_path, whole, step
):
  _crash_at(monkeypatch, tmp_path, step)
  tiny.train(tmp_path)
  tiny.assert_same_run(tmp_path, whole)


def test_a_run_starts_over_from_its_newest_checkpoint(
  monkeypatch, compile_once, tmp_path
):
  _crash_at(monkeypatch, tmp_path, 5)
  made = []
  _before_step(monkeypatch, made.append)
  tiny.train(tmp_path)
  assert made == [4, 5, 6, 7, 8, 9, 10]


def test_a_crash_before_result_json_trains_no_more_steps(
  monkeypatch, compile_once, tmp_path, whole
):
  tiny.train(tmp_path)
  (tmp_path / 'result.json').unlink()
  _before_step(monkeypatch, lambda step: pytest.fail('a step was made'))
  tiny.train(tmp_path)
  tiny.assert_same_run(tmp_path, whole)


def test_what_a_kill_leaves_half_written_does_not_matter(
  monkeypatch, compile_once, tmp_path, whole
):
  _crash_at(monkeypatch, tmp_path, 8)
  saved = tmp_path / 'checkpoints'
  shutil.copytree(saved / '6', saved / '9.orbax-checkpoint-tmp')
  (saved / '9.orbax-checkpoint-tmp' / 'commit_success.txt').unlink()
  with (tmp_path / 'metrics.jsonl').open('a') as stream:
    stream.write('{"step": 9, "epo')
  tiny.train(tmp_path)
  tiny.assert_same_run(tmp_path, whole)
  assert not list(saved.glob('*tmp*'))


def test_a_run_goes_on_as_pmap_with_other_operational_fields(
  monkeypatch, tmp_path, whole
):
  _crash_at(monkeypatch, tmp_path, 4)
  tiny.train(
    tmp_path,
    **{
      'parallel': 'pmap',
      'checkpoint.every_steps': 2,
      'eval_batch_size': 64,
      'log.every_steps': 2,
    },
  )
  # Rounding only: another order of sums.
  _assert_close(tmp_path, whole)


@pytest.mark.slow
def test_a_run_goes_on_with_blocks_recomputed(monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 1)
  fields = {
    'model': {'name': 'CifarResnet8'},
    'm': 16,
    'microbatch_size': 16,
    'num_steps': 2,
    'checkpoint.every_steps': 1,
    'schedule.name': 'constant',
  }
  tiny.train(tmp_path / 'whole', **fields)
  _crash_at(monkeypatch, tmp_path / 'moved', 1, **fields)
  tiny.train(tmp_path / 'moved', **fields, **{'model.remat': True})
  # ReLU units near zero may flip with the rounding of another program.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-3),
    tiny.state(tmp_path / 'moved')['params'],
    tiny.state(tmp_path / 'whole')['params'],
  )


def _assert_close(directory, other):
  """The same run up to rounding, which ten steps let grow to 1e-5."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
    tiny.state(directory)['params'],
    tiny.state(other)['params'],
  )
  assert tiny.result(directory)['steps'] == tiny.result(other)['steps']


UNSET = {'m': None, 'microbatch_size': None}


def test_unset_m_is_settled_at_the_first_start(monkeypatch, tmp_path, capsys):
  tiny.train(tmp_path / 'whole', **UNSET)
  assert 'come from the number of devices, 8' in capsys.readouterr().err
  _crash_at(monkeypatch, tmp_path / 'moved', 4, **UNSET)
  capsys.readouterr()
  tiny.use_devices(monkeypatch, 2)
  result = tiny.train(tmp_path / 'moved', **UNSET)
  assert 'come from' not in capsys.readouterr().err
  config = workdir.read_config(tmp_path / 'moved')
  assert (config.m, config.microbatch_size) == (2, 2)
  assert result['device'].startswith('2 x')
  _assert_close(tmp_path / 'moved', tmp_path / 'whole')


def test_devices_that_the_settled_m_does_not_fit_are_refused(
  monkeypatch, tmp_path
):
  with monkeypatch.context() as patch:
    tiny.use_devices(patch, 1)
    _crash_at(patch, tmp_path, 4, **UNSET)
  before = tiny.tree(tmp_path)
  tiny.use_devices(monkeypatch, 4)
  with pytest.raises(ValueError, match=r'no multiple of microbatch_size 16'):
    tiny.train(tmp_path, **UNSET)
  assert tiny.tree(tmp_path) == before


@pytest.mark.parametrize('then', [1, 4])
def test_a_run_with_m_set_goes_on_with_any_devices(
  monkeypatch, tmp_path, whole, then
):
  _crash_at(monkeypatch, tmp_path, 7)
  tiny.use_devices(monkeypatch, then)
  tiny.train(tmp_path)
  _assert_close(tmp_path, whole)


@pytest.mark.parametrize('devices', [1, 4])
def test_a_run_with_an_average_goes_on_bit_for_bit(
  monkeypatch, tmp_path, devices
):
  tiny.use_devices(monkeypatch, devices)
  _share_programs(monkeypatch, {})
  fields = {
    'method.name': 'sgd',
    'ema.decay': 0.9,
    'ema.warmup_steps': 2,
    'm': 16,
    'microbatch_size': 4,
  }
  tiny.train(tmp_path / 'whole', **fields)
  _crash_at(monkeypatch, tmp_path / 'crashed', 5, **fields)
  tiny.train(tmp_path / 'crashed', **fields)
  tiny.assert_same_run(tmp_path / 'crashed', tmp_path / 'whole')
  state = tiny.state(tmp_path / 'whole')
  assert state['ema'].keys() == {'params', 'batch_stats'}
  for name, average in state['ema'].items():
    for a, newest in zip(
      jax.tree.leaves(average), jax.tree.leaves(state[name]), strict=True
    ):
      assert np.any(a != newest)


def test_wall_time_adds_up_over_starts(monkeypatch, compile_once, tmp_path):
  clock = [0.0]
  monkeypatch.setattr(train_loop.time, 'monotonic', lambda: clock[0])

  def tick(step):
    clock[0] += 1

  with monkeypatch.context() as patch:
    _before_step(patch, tick)
    _crash_at(patch, tmp_path, 6)
  _before_step(monkeypatch, tick)
  # Six seconds to the checkpoint of step 6, four from there to step 10.
  assert tiny.train(tmp_path)['wall_seconds'] == 10


def test_a_result_says_with_what_it_was_started_each_time(
  monkeypatch, compile_once, tmp_path
):
  """By the end, a checkout may be another one than that which runs."""
  commit = ['a']
  monkeypatch.setattr(
    train_loop.provenance, 'describe', lambda: {'git_commit': commit[0]}
  )
  for step in (4, 6):  # the second time with the same
    _crash_at(monkeypatch, tmp_path, step)
  commit[0] = 'b'
  _before_step(monkeypatch, lambda step: commit.insert(0, 'c'))
  result = tiny.train(tmp_path)
  assert result['git_commit'] == 'b'
  assert result['starts'] == [{'git_commit': 'a'}, {'git_commit': 'b'}]


def test_the_rate_counts_the_steps_of_this_start_only(
  monkeypatch, compile_once, tmp_path
):
  _crash_at(monkeypatch, tmp_path, 4)
  clock = [0.0]
  monkeypatch.setattr(train_loop.time, 'monotonic', lambda: clock[0])

  def tick(step):
    clock[0] += 1

  _before_step(monkeypatch, tick)
  tiny.train(tmp_path)
  rates = [
    line['images_per_second']
    for line in metrics_log.read(tmp_path)
    if 'images_per_second' in line
  ]
  # Steps 4 and 5, of 16 images and a second each, and not steps 1 to 3. An
  # epoch is read one or two steps after its end.
  assert 8 <= rates[0] <= 16


# --- Seeds -------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run_bit_for_bit(tmp_path, whole):
  tiny.train(tmp_path)
  tiny.assert_same_run(tmp_path, whole)


def test_another_seed_gives_another_run(tmp_path, whole):
  tiny.train(tmp_path, seed=1)
  mine, other = tiny.log(tmp_path), tiny.log(whole)
  assert mine[0]['step/loss'] != other[0]['step/loss']
  assert mine[-1]['test/loss'] != other[-1]['test/loss']


def test_the_seed_reaches_the_order_of_the_examples(tmp_path, whole):
  """With the same weights and nothing random, the first loss tells."""
  quiet = {
    'init_from': str(whole),
    'method.name': 'sgd',
    'num_steps': 1,
    'augmentation.name': 'none',
    'augmentation.cutout_length': 0,
    'model.dropout_rate': 0.0,
  }
  losses = []
  for seed in (0, 1):
    tiny.train(tmp_path / str(seed), **quiet, seed=seed)
    losses.append(tiny.log(tmp_path / str(seed))[0]['step/loss'])
  assert losses[0] != losses[1]


# --- What is logged ----------------------------------------------------------


def test_every_step_and_every_epoch_is_logged_once(whole):
  lines = metrics_log.read(whole)
  steps = [line['step'] for line in lines if 'step/loss' in line]
  epochs = [line for line in lines if 'train/loss' in line]
  assert steps == list(range(1, NUM_STEPS + 1))
  assert [(x['step'], x['epoch']) for x in epochs] == [(5, 1), (10, 2)]
  assert {
    'train/loss',
    'train/error_rate',
    'train/perturbed_loss',
    'train/perturbed_error_rate',
    'train/sharpness',
    'train/cosine',
    'train/gradient_norm_ratio',
    'train/curvature',
    'train/gradient_norm',
    'train/clipped_gradient_norm',
    'train/param_norm',
    'train/learning_rate',
    'test/loss',
    'test/error_rate',
    'test/top5_error_rate',
    'images_per_second',
  } | {'step', 'epoch'} == set(epochs[0])


def test_an_epoch_value_is_the_mean_over_its_steps(whole):
  lines = tiny.log(whole)
  for epoch in (1, 2):
    (values,) = [x for x in lines if x['epoch'] == epoch and 'train/loss' in x]
    steps = [
      x for x in lines if epoch - 1 < x['epoch'] <= epoch and 'step/loss' in x
    ]
    assert len(steps) == tiny.STEPS_PER_EPOCH
    for name in ('loss', 'sharpness', 'gradient_norm', 'learning_rate'):
      mean = np.mean([x[f'step/{name}'] for x in steps])
      assert values[f'train/{name}'] == pytest.approx(mean, rel=1e-12)


def _points(directory):
  """Returns {key: {step: value}} as TensorBoard shows it; each step once."""
  events = event_accumulator.EventAccumulator(str(directory))
  events.Reload()
  points = {}
  for key in events.Tags()['scalars']:
    series = events.Scalars(key)
    points[key] = {point.step: point.value for point in series}
    assert len(points[key]) == len(series), key
  return points


def _lines_by_key(directory):
  """Returns {key: {step: value}} from metrics.jsonl."""
  by_key = {}
  for line in metrics_log.read(directory):
    for key in line.keys() - {'step', 'epoch'}:
      by_key.setdefault(key, {})[line['step']] = line[key]
  return by_key


@pytest.mark.parametrize('crash', [None, 2, 8])
def test_tensorboard_shows_what_metrics_jsonl_holds(
  monkeypatch, compile_once, tmp_path, whole, crash
):
  directory = whole
  if crash is not None:
    directory = tmp_path
    _crash_at(monkeypatch, directory, crash, **{'log.tensorboard': True})
    tiny.train(directory, **{'log.tensorboard': True})
  points, lines = _points(directory), _lines_by_key(directory)
  assert points.keys() == lines.keys()
  for key in lines:
    # TensorBoard stores float32.
    assert points[key] == pytest.approx(lines[key], rel=1e-6), key


def test_sgd_logs_no_perturbation(tmp_path):
  result = tiny.train(tmp_path, method__name='sgd', num_steps=1)
  keys = {key for line in metrics_log.read(tmp_path) for key in line}
  assert 'train/loss' in keys and 'train/gradient_norm' in keys
  assert not [key for key in keys if 'perturbed' in key or 'sharp' in key]
  assert result['gradient_evaluations'] == 1


# --- Less than float32 -------------------------------------------------------

_EFFECTIVE = ('effective_perturbation_ratio', 'effective_perturbation_cosine')
_BFLOAT16 = {'compute_dtype': 'bfloat16', 'augmentation.name': 'none'}
_WARNING = 'rounding changes the perturbation'


def test_bfloat16_logs_what_is_left_of_the_perturbation(tmp_path, capsys):
  """And warns once, however many steps: of 0.001 next to nothing is left."""
  tiny.train(tmp_path, **_BFLOAT16, **{'method.rho': 0.001, 'num_epochs': 1})
  lines = metrics_log.read(tmp_path)
  (epoch,) = [line for line in lines if 'train/loss' in line]
  for name in _EFFECTIVE:
    values = [x[f'step/{name}'] for x in lines if f'step/{name}' in x]
    assert len(values) == tiny.STEPS_PER_EPOCH
    assert epoch[f'train/{name}'] == pytest.approx(np.mean(values))
  ratio, cosine = (epoch[f'train/{name}'] for name in _EFFECTIVE)
  assert ratio > 1.5 and 0 < cosine < 0.7
  printed = capsys.readouterr().out
  assert printed.count(_WARNING) == 1
  first = lines[0]
  assert (
    f'one {first[f"step/{_EFFECTIVE[0]}"]:.2f} times as long, at a cosine of '
    f'{first[f"step/{_EFFECTIVE[1]}"]:.2f}; use compute_dtype=float32'
  ) in printed
  dtypes = {x.dtype for x in jax.tree.leaves(tiny.state(tmp_path)['params'])}
  assert dtypes == {np.dtype('float32')}


def test_a_perturbation_that_survives_rounding_is_no_reason_to_warn(
  tmp_path, capsys
):
  tiny.train(tmp_path, **_BFLOAT16, **{'method.rho': 1.0, 'num_steps': 1})
  (line,) = [x for x in metrics_log.read(tmp_path) if 'step/loss' in x]
  assert 0.95 < line[f'step/{_EFFECTIVE[1]}'] < 1
  assert _WARNING not in capsys.readouterr().out


@pytest.mark.parametrize(
  'fields',
  [
    {**_BFLOAT16, 'method.name': 'sgd'},
    {'method.rho': 0.001},
    {'method.rho': 0.001, 'matmul_precision': 'bfloat16'},
  ],
  ids=['sgd', 'float32', 'matmul_precision on a CPU'],
)
def test_where_no_perturbation_is_rounded_none_of_it_is_logged(
  tmp_path, capsys, fields
):
  tiny.train(tmp_path, num_steps=1, **fields)
  keys = {key for line in metrics_log.read(tmp_path) for key in line}
  assert 'train/loss' in keys
  assert not [key for key in keys if 'effective' in key]
  assert _WARNING not in capsys.readouterr().out


def test_the_training_set_is_evaluated_if_asked_for(tmp_path):
  tiny.train(
    tmp_path,
    **{'eval_train': True, 'data.split': 'validation', 'num_epochs': 1},
  )
  (line,) = [x for x in metrics_log.read(tmp_path) if 'train/loss' in x]
  assert 0 <= line['train_eval/error_rate'] <= 1
  # 72 examples to train on, 8 to validate with.
  assert (line['train_eval/error_rate'] * 72) == pytest.approx(
    round(line['train_eval/error_rate'] * 72)
  )
  assert line['validation/error_rate'] * 8 in range(9)
  assert line['train_eval/loss'] != line['train/loss']
  assert not [key for key in line if key.startswith('test/')]


def test_evaluations_may_be_rarer_than_epochs(compile_once, tmp_path):
  tiny.train(tmp_path, eval_every_epochs=2)
  lines = [line for line in metrics_log.read(tmp_path) if 'train/loss' in line]
  assert ['test/loss' in line for line in lines] == [False, True]


def test_a_run_of_steps_ends_with_a_part_of_an_epoch(tmp_path):
  result = tiny.train(tmp_path, num_steps=7, eval_every_epochs=2)
  lines = [line for line in metrics_log.read(tmp_path) if 'train/loss' in line]
  assert [(x['step'], x['epoch']) for x in lines] == [(5, 1.0), (7, 1.4)]
  assert ['test/loss' in line for line in lines] == [False, True]
  steps = [x for x in metrics_log.read(tmp_path) if 'step/loss' in x][5:]
  mean = np.mean([x['step/loss'] for x in steps])
  assert lines[1]['train/loss'] == pytest.approx(mean, rel=1e-12)
  assert (result['steps'], result['epochs']) == (7, 1.4)
  assert tiny.steps(tmp_path)[-1] == 7


def test_num_epochs_times_steps_per_epoch_is_the_same_run_as_num_steps(
  compile_once, tmp_path, whole
):
  tiny.train(tmp_path, num_steps=NUM_STEPS, num_epochs=99)
  tiny.assert_same_run(tmp_path, whole)


def test_result_json_says_what_came_out_and_how(whole):
  result = json.loads((whole / 'result.json').read_text())
  errors = {
    line['step']: line['test/error_rate']
    for line in metrics_log.read(whole)
    if 'test/error_rate' in line
  }
  assert result['final_error_rate'] == errors[NUM_STEPS]
  assert result['best_error_rate'] == min(errors.values())
  assert errors[result['best_step']] == min(errors.values())
  assert result['split'] == 'test'
  # Two passes per step: examples through forward and backward, over B.
  assert result['gradient_evaluations'] == 2 * NUM_STEPS
  params = jax.tree.leaves(tiny.state(whole)['params'])
  assert result['parameters'] == sum(x.size for x in params)
  assert result['device'].startswith('8 x')
  assert result['versions']['jax'] == jax.__version__
  assert [start['device'] for start in result['starts']] == [result['device']]
  assert result['wall_seconds'] > 0


def test_without_a_terminal_there_are_plain_lines(
  compile_once, tmp_path, capsys
):
  tiny.train(tmp_path, **{'log.progress_seconds': 0.0})
  captured = capsys.readouterr()
  assert captured.err == ''
  lines = captured.out.splitlines()
  assert 'sam on digits: cnn' in lines[0]
  assert '10 steps of which 0 are made' in lines[0]
  assert '4 perturbation(s) of m = 4' in lines[1]
  assert lines[2].startswith('step 1/10: loss ')
  assert lines[-1].startswith('finished: test error ')
  assert sum(line.startswith('epoch ') for line in lines) == 2


# --- Checkpoints -------------------------------------------------------------


def _with_error_rates(monkeypatch, rates):
  """Makes the evaluations find these error rates."""
  left = list(rates)
  monkeypatch.setattr(
    evaluation,
    'summarize',
    lambda sums: {'loss': 0.5, 'error_rate': left.pop(0)},
  )


def test_the_newest_the_earliest_best_and_the_named_are_kept(
  monkeypatch, compile_once, tmp_path
):
  _with_error_rates(monkeypatch, [0.5, 0.2, 0.4, 0.2, 0.3])
  result = tiny.train(
    tmp_path,
    **{
      'num_epochs': 5,
      'checkpoint.every_steps': 4,
      'checkpoint.max_to_keep': 2,
      'checkpoint.at_epochs': (1, 3),
    },
  )
  assert (result['best_step'], result['best_error_rate']) == (10, 0.2)
  assert result['final_error_rate'] == 0.3
  assert tiny.steps(tmp_path) == [5, 10, 15, 24, 25]


def test_the_best_is_kept_over_a_restart(monkeypatch, compile_once, tmp_path):
  fields = {
    'num_epochs': 4,
    'checkpoint.every_steps': 1,
    'checkpoint.max_to_keep': 1,
  }
  _with_error_rates(monkeypatch, [0.2, 0.4, 0.3, 0.3])
  _crash_at(monkeypatch, tmp_path, 7, **fields)
  tiny.train(tmp_path, **fields)
  assert tiny.steps(tmp_path) == [5, 20]
  assert tiny.result(tmp_path)['best_step'] == 5


def test_the_best_is_not_kept_if_not_asked_for(
  monkeypatch, compile_once, tmp_path
):
  _with_error_rates(monkeypatch, [0.2, 0.4])
  result = tiny.train(
    tmp_path, **{'checkpoint.keep_best': False, 'checkpoint.max_to_keep': 1}
  )
  assert tiny.steps(tmp_path) == [10]
  assert result['best_step'] == 5


def test_checkpoints_come_every_so_many_epochs_without_a_step_count(
  compile_once, tmp_path
):
  tiny.train(
    tmp_path,
    **{
      'num_epochs': 5,
      'checkpoint.every_steps': None,
      'checkpoint.every_epochs': 2,
      'checkpoint.max_to_keep': 9,
      'checkpoint.keep_best': False,
    },
  )
  assert tiny.steps(tmp_path) == [10, 20, 25]


def test_without_a_cadence_only_the_end_is_saved(compile_once, tmp_path):
  tiny.train(
    tmp_path,
    **{
      'checkpoint.every_steps': None,
      'checkpoint.every_epochs': 0,
      'checkpoint.max_to_keep': 9,
      'checkpoint.keep_best': False,
    },
  )
  assert tiny.steps(tmp_path) == [10]


# --- The end of a run --------------------------------------------------------


def test_a_finished_run_says_so_and_trains_nothing(
  monkeypatch, compile_once, tmp_path, capsys
):
  expected = tiny.train(tmp_path)
  before = tiny.tree(tmp_path)
  capsys.readouterr()
  _before_step(monkeypatch, lambda step: pytest.fail('a step was made'))
  assert tiny.train(tmp_path) == expected
  assert 'is finished: test error' in capsys.readouterr().out
  assert tiny.tree(tmp_path) == before


@pytest.mark.parametrize('length', ['num_epochs', 'num_steps'])
def test_a_constant_schedule_goes_on_for_longer(tmp_path, length):
  constant = {'schedule.name': 'constant', 'schedule.warmup_epochs': 0.4}
  unit = 1 if length == 'num_epochs' else tiny.STEPS_PER_EPOCH
  tiny.train(tmp_path / 'longer', **constant, **{length: unit})
  tiny.train(tmp_path / 'longer', **constant, **{length: 2 * unit})
  tiny.train(tmp_path / 'at_once', **constant, **{length: 2 * unit})
  tiny.assert_same_run(tmp_path / 'longer', tmp_path / 'at_once')


def test_a_finished_run_of_another_length_is_refused(tmp_path, whole):
  before = tiny.tree(whole)
  with pytest.raises(ValueError, match='num_epochs is 3, was 2'):
    tiny.train(whole, **{'log.tensorboard': True}, num_epochs=3)
  assert tiny.tree(whole) == before


# --- What goes wrong while training ------------------------------------------

# Steps 1 to 5 are sound; then the learning rate is 0.1 * 1e30.
EXPLODES = {
  'schedule.name': 'piecewise',
  'schedule.boundaries': (0.5,),
  'schedule.factor': 1e30,
  'checkpoint.every_steps': 1,
}


def _numbers(directory):
  return [
    np.asarray(leaf)
    for step in tiny.steps(directory)
    for leaf in jax.tree.leaves(tiny.state(directory, step))
  ]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  with pytest.raises(
    train_loop.TrainingFailed, match=r'step 6: .*not finite.*is of step 5'
  ):
    tiny.train(tmp_path, **EXPLODES)
  assert tiny.steps(tmp_path)[-1] == 5
  assert all(np.isfinite(x).all() for x in _numbers(tmp_path))
  assert not (tmp_path / 'result.json').exists()
  logged = [v for line in tiny.log(tmp_path) for v in line.values()]
  assert all(math.isfinite(value) for value in logged)


def test_a_run_that_fails_at_once_has_no_checkpoint(tmp_path):
  with pytest.raises(train_loop.TrainingFailed, match='none was saved'):
    tiny.train(tmp_path, learning_rate=1e30)
  assert tiny.steps(tmp_path) == []


# --- The loop does not wait --------------------------------------------------


class _Value:
  """A scalar on a device that notes when the host waits for it."""

  def __init__(self, events, name):
    self._events, self._name = events, name

  def copy_to_host_async(self):
    pass

  def __array__(self, dtype=None, copy=None):
    if ('read', self._name) not in self._events:
      self._events.append(('read', self._name))
    return np.asarray(0.5, dtype)


@pytest.fixture
def events(monkeypatch):
  """What the loop dispatches and reads, in order; nothing is computed."""
  order = []
  steps = []

  def values(name, keys):
    order.append(('dispatch', name))
    return {key: _Value(order, name) for key in keys}

  def train_step(state, batch):
    steps.append(len(steps) + 1)
    return state, values(steps[-1], ('loss', 'error_rate'))

  def eval_step(variables, batch):
    name = f'evaluation after {steps[-1]}'
    return values(name, ('loss', 'error_rate', 'count'))

  for name, step in (('train', train_step), ('eval', eval_step)):
    monkeypatch.setattr(
      experiment.Experiment, f'compile_{name}_step', lambda self, f=step: f
    )
  return order


def test_a_step_is_dispatched_before_the_metrics_of_the_last_are_read(
  events, tmp_path
):
  tiny.train(tmp_path, **{'checkpoint.every_steps': None})
  for step in range(1, NUM_STEPS):
    read = events.index(('read', step))
    assert events.index(('dispatch', step + 1)) < read
    # Nor does the host run away from the device.
    assert ('dispatch', step + 5) not in events[:read]


def test_an_evaluation_is_read_while_training_goes_on(events, tmp_path):
  tiny.train(tmp_path, **{'checkpoint.every_steps': None})
  evaluation = 'evaluation after 5'
  order = [('dispatch', 5), ('dispatch', evaluation), ('dispatch', 6)]
  order += [('read', evaluation)]
  assert sorted(order, key=events.index) == order
  # All that an evaluation is made of is dispatched at a time.
  first = events.index(('dispatch', evaluation))
  assert events[first : first + 2] == [('dispatch', evaluation)] * 2


# --- Optimizers, one's own model and data ------------------------------------


def _first_update(directory, **fields):
  """Returns parameters before and after one step, as flat vectors."""
  tiny.train(
    directory,
    **{'num_steps': 1, 'learning_rate': 0.01, 'gradient_clipping': 0.0},
    **fields,
  )
  config = tiny.config(**fields)
  built = experiment.build(config)
  start = preparation.initial_state(config, built).params
  end = tiny.state(directory)['params']
  return [
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    for tree in (start, end)
  ]


@pytest.mark.parametrize('name', ['lion', 'adamw'])
def test_decoupled_decay_and_a_sign_step(tmp_path, name):
  """The first step of both: learning_rate * (sign(g) + decay * w)."""
  start, end = _first_update(
    tmp_path,
    **{
      'optimizer.name': name,
      'weight_decay.place': 'decoupled',
      'weight_decay.rate': 0.5,
    },
  )
  signs = (start - end) / 0.01 - 0.5 * start
  # AdamW's eps shortens the step where the gradient is nearly zero.
  is_moved = np.abs(signs) > 0.01
  assert np.mean(is_moved) > 0.8
  atol = 1e-4 if name == 'lion' else 1e-3
  is_sign = np.isclose(np.abs(signs), 1, rtol=0, atol=atol)
  assert np.mean(is_sign[is_moved]) > 0.95


_PLUGIN = """
import numpy as np
from flax import linen as nn
from sam_jax import datasets, models

@models.register('their_model')
class TheirModel(nn.Module):
  num_classes: int
  scale: float = 1.0

  @nn.compact
  def __call__(self, images, *, train, true_gradient=False):
    flat = images.reshape(images.shape[0], -1)
    return nn.Dense(self.num_classes)(self.scale * flat)

@datasets.register('their_data')
def load(directory, seed, *, size=32):
  rng = np.random.default_rng(seed)
  examples = datasets.Examples(
    rng.integers(256, size=(size, 2, 2, 1), dtype=np.uint8),
    rng.integers(3, size=size, dtype=np.int32))
  return datasets.Source(examples, examples, 3, (0.5,), (0.5,))
"""


def test_ones_own_model_and_data_set_are_used_by_name(
  monkeypatch, tmp_path, capsys
):
  (tmp_path / 'their_plugin.py').write_text(_PLUGIN)
  monkeypatch.syspath_prepend(tmp_path)
  config = tiny.config(num_steps=2, plugins=('their_plugin',))
  with config.unlocked():
    config.model = {'name': 'their_model', 'scale': 2.0}
    config.data = {'name': 'their_data', 'size': 48, 'split': 'test'}
    config.augmentation.name = 'none'
  result = train_loop.train_and_evaluate(config, tmp_path / 'run')
  assert result['parameters'] == 4 * 3 + 3
  assert 'sam on their_data: their_model' in capsys.readouterr().out
  # No top-5 error among three classes.
  keys = {key for line in metrics_log.read(tmp_path / 'run') for key in line}
  assert 'test/error_rate' in keys and 'test/top5_error_rate' not in keys


def test_a_plugin_that_is_not_there_is_one_line(tmp_path):
  with pytest.raises(ValueError, match="plugins names 'no_such_module'"):
    tiny.train(tmp_path / 'run', plugins=('no_such_module',))
  assert not (tmp_path / 'run').exists()
