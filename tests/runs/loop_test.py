import itertools
import json
import math
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from sam_jax.runs import (
  build,
  evaluation,
  interrupts,
  journal,
  loop,
  metrics_log,
  workdir,
)
from sam_jax.training import diagnostics
from tests import tiny

NUM_STEPS = 2 * tiny.STEPS_PER_EPOCH


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
  """Lets runs of the config of `whole` share their programs, for speed."""
  tiny.share_programs(monkeypatch, _compiled)


# --- Resuming ----------------------------------------------------------------


@pytest.mark.slow
def test_a_signal_after_every_single_step_changes_nothing(
  monkeypatch, compile_once, tmp_path, whole
):
  tiny.before_step(monkeypatch, lambda _: os.kill(os.getpid(), signal.SIGTERM))
  for step in range(1, NUM_STEPS):
    with pytest.raises(interrupts.Interrupted, match=f'step {step} by SIGTERM'):
      tiny.train(tmp_path)
    assert tiny.steps(tmp_path)[-1] == step
  tiny.train(tmp_path)
  tiny.assert_same_run(tmp_path, whole)


# Before the first checkpoint, and after one within the second epoch.
@pytest.mark.parametrize(('step', 'resumed'), [(2, 1), (8, 7)])
def test_a_crash_changes_nothing_and_loses_the_steps_since_the_checkpoint(
  monkeypatch, compile_once, tmp_path, whole, step, resumed
):
  fields = {'log.tensorboard': True}
  tiny.crash_at(monkeypatch, tmp_path, step, **fields)
  made = []
  tiny.before_step(monkeypatch, made.append)
  tiny.train(tmp_path, **fields)
  assert made == [*range(resumed, NUM_STEPS + 1)]
  tiny.assert_same_run(tmp_path, whole)
  _assert_tensorboard_shows_the_lines(tmp_path)


def test_what_a_crash_leaves_half_written_does_not_matter(
  monkeypatch, compile_once, tmp_path, whole
):
  """Nor is a step made again if the end was not written."""
  tiny.crash_at(monkeypatch, tmp_path, 8)
  saved = tmp_path / 'checkpoints'
  shutil.copytree(saved / '6', saved / '9.partial')
  (saved / '9.partial' / 'checkpoint.json').unlink()
  with (tmp_path / 'metrics.jsonl').open('a') as stream:
    stream.write('{"step": 9, "epo')
  tiny.train(tmp_path)
  tiny.assert_same_run(tmp_path, whole)
  assert not list(saved.glob('*partial*'))
  (tmp_path / 'result.json').unlink()
  tiny.before_step(monkeypatch, lambda step: pytest.fail('a step was made'))
  tiny.train(tmp_path)
  tiny.assert_same_run(tmp_path, whole)


def test_a_damaged_checkpoint_changes_nothing(
  monkeypatch, compile_once, tmp_path, whole
):
  """The steps since the one before it are made again, and it is saved again."""
  tiny.crash_at(monkeypatch, tmp_path, 8)
  damaged = tmp_path / 'checkpoints' / '6' / 'checkpoint.json'
  damaged.write_bytes(damaged.read_bytes().replace(b'0', b'1'))
  made = []
  tiny.before_step(monkeypatch, made.append)
  tiny.train(tmp_path)
  assert made == [*range(6, NUM_STEPS + 1)]
  tiny.assert_same_run(tmp_path, whole)
  assert not [p for p in tiny.steps(tmp_path) if p not in tiny.steps(whole)]


@pytest.mark.slow
def test_a_run_is_resumed_as_pmap_with_other_operational_fields(
  monkeypatch, compile_once, tmp_path, whole
):
  tiny.crash_at(monkeypatch, tmp_path, 4)
  monkeypatch.undo()
  fields = {
    'parallel': 'pmap',
    'checkpoint.every_steps': 2,
    'eval_batch_size': 64,
    'log.every_steps': 2,
  }
  tiny.train(tmp_path, **fields)
  # Rounding only: another order of sums.
  _assert_close(tmp_path, whole)


def _assert_close(directory, other):
  """The same run up to rounding, which ten steps let grow to 1e-5."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
    tiny.state(directory)['params'],
    tiny.state(other)['params'],
  )
  assert tiny.result(directory)['steps'] == tiny.result(other)['steps']


UNSET = tiny.PLAIN | {
  'method.name': 'sgd',
  'm': None,
  'microbatch_size': None,
}


@pytest.mark.slow
def test_unset_m_is_settled_at_the_first_start(monkeypatch, tmp_path, capsys):
  with monkeypatch.context() as patch:
    tiny.use_devices(patch, 2)
    tiny.train(tmp_path / 'whole', **UNSET)
    assert 'come from the number of devices, 2' in capsys.readouterr().err
    tiny.crash_at(patch, tmp_path / 'moved', 4, **UNSET)
  capsys.readouterr()
  before = tiny.tree(tmp_path / 'moved')
  with pytest.raises(ValueError, match=r'no multiple of microbatch_size 8'):
    tiny.train(tmp_path / 'moved', **UNSET)
  assert tiny.tree(tmp_path / 'moved') == before
  tiny.use_devices(monkeypatch, 1)
  result = tiny.train(tmp_path / 'moved', **UNSET)
  assert 'come from' not in capsys.readouterr().err
  config = workdir.read_config(tmp_path / 'moved')
  assert (config.m, config.microbatch_size) == (8, 8)
  assert result['device'].startswith('1 x')
  _assert_close(tmp_path / 'moved', tmp_path / 'whole')


# A method that remembers, an average, and weights that are decayed apart.
STATEFUL = tiny.PLAIN | {
  'method.name': 'looksam',
  'method.every': 3,
  'optimizer.name': 'adamw',
  'ema.decay': 0.9,
  'ema.warmup_steps': 2,
}


def test_a_run_with_all_kinds_of_state_is_resumed_bit_for_bit(
  monkeypatch, tmp_path
):
  tiny.use_devices(monkeypatch, 1)
  tiny.share_programs(monkeypatch, {})
  tiny.train(tmp_path / 'whole', **STATEFUL)
  tiny.crash_at(monkeypatch, tmp_path / 'crashed', 5, **STATEFUL)
  tiny.train(tmp_path / 'crashed', **STATEFUL)
  tiny.assert_same_run(tmp_path / 'crashed', tmp_path / 'whole')
  state = tiny.state(tmp_path / 'whole')
  assert jax.tree.leaves(state['method_state']['memory'])
  for a, newest in zip(
    jax.tree.leaves(state['ema']['params']),
    jax.tree.leaves(state['params']),
    strict=True,
  ):
    assert np.any(a != newest)
  _assert_perturbed_at(tmp_path / 'whole', [1, 4, 7, 10])


def test_a_run_that_remembers_each_example_is_resumed_bit_for_bit(
  monkeypatch, tmp_path
):
  """Of 95 examples an epoch leaves out 15, and two epochs not the same."""
  fields = tiny.PLAIN | {
    'data.train_size': 95,
    'method.name': 'saf',
    'method.epochs': 1,
    'method.start': 0.0,
    'method.examples': 95,
  }
  tiny.use_devices(monkeypatch, 1)
  tiny.share_programs(monkeypatch, {})
  tiny.train(tmp_path / 'whole', **fields)
  tiny.crash_at(monkeypatch, tmp_path / 'crashed', 7, **fields)
  tiny.train(tmp_path / 'crashed', **fields)
  tiny.assert_same_run(tmp_path / 'crashed', tmp_path / 'whole')
  memory = tiny.state(tmp_path / 'whole')['method_state']['memory']
  assert memory['seen'].sum() == 160
  assert set(memory['seen'].tolist()) == {0, 1, 2}
  is_empty = ~np.any(memory['logits'], axis=(1, 2))
  np.testing.assert_array_equal(is_empty, memory['seen'] == 0)


def _assert_perturbed_at(directory, steps):
  """Only these steps log a perturbation, and the means are over them."""
  lines = metrics_log.read(directory)
  values = {
    x['step']: x['step/sharpness'] for x in lines if 'step/sharpness' in x
  }
  assert list(values) == steps
  for epoch in (1, 2):
    own = [v for s, v in values.items() if 5 * (epoch - 1) < s <= 5 * epoch]
    (line,) = [x for x in lines if x['epoch'] == epoch and 'train/loss' in x]
    assert line['train/sharpness'] == pytest.approx(np.mean(own), rel=1e-12)


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
    'train/perturbation_norm',
    'train/curvature',
    'train/gradient_norm',
    'train/clipped_gradient_norm',
    'train/param_norm',
    'train/learning_rate',
    'test/loss',
    'test/error_rate',
    'test/top5_error_rate',
    'examples_per_second',
  } | {'step', 'epoch'} == set(epochs[0])


def _assert_tensorboard_shows_the_lines(directory):
  """The same keys, steps and values; each once."""
  events = event_accumulator.EventAccumulator(str(directory))
  events.Reload()
  points = {
    key: [(point.step, point.value) for point in events.Scalars(key)]
    for key in events.Tags()['scalars']
  }
  lines = {}
  for line in metrics_log.read(directory):
    for key in line.keys() - {'step', 'epoch'}:
      lines.setdefault(key, []).append((line['step'], line[key]))
  assert points.keys() == lines.keys()
  for key in lines:
    # TensorBoard stores float32.
    np.testing.assert_allclose(points[key], lines[key], rtol=1e-6, err_msg=key)


@pytest.mark.slow
def test_a_run_of_bfloat16_logs_what_is_left_of_the_perturbation(
  monkeypatch, tmp_path, capsys
):
  tiny.use_devices(monkeypatch, 1)
  fields = {'compute_dtype': 'bfloat16', 'method.rho': 0.001, 'num_steps': 1}
  tiny.train(tmp_path, **tiny.PLAIN, **fields)
  line, _ = metrics_log.read(tmp_path)
  assert line['step/effective_perturbation_ratio'] > 1.5
  assert 0 < line['step/effective_perturbation_cosine'] < 0.7
  assert 'rounding changes the perturbation' in capsys.readouterr().out
  dtypes = {x.dtype for x in jax.tree.leaves(tiny.state(tmp_path)['params'])}
  assert dtypes == {np.dtype('float32')}


def test_the_training_set_is_evaluated_if_asked_for(monkeypatch, tmp_path):
  """By SGD, which logs no perturbation."""
  tiny.use_devices(monkeypatch, 1)
  fields = {
    'method.name': 'sgd',
    'eval_train': True,
    'data.split': 'validation',
    'num_steps': 1,
  }
  result = tiny.train(tmp_path, **tiny.PLAIN, **fields)
  line = metrics_log.read(tmp_path)[-1]
  assert result['gradient_evaluations'] == 1
  assert not [key for key in line if 'perturbed' in key or 'sharp' in key]
  # 72 examples to train on, 8 to validate with.
  assert line['train_eval/error_rate'] * 72 == pytest.approx(
    round(line['train_eval/error_rate'] * 72)
  )
  assert line['validation/error_rate'] * 8 in range(9)
  assert line['train_eval/loss'] != line['train/loss']
  assert not [key for key in line if key.startswith('test/')]


def test_the_seed_reaches_the_order_of_the_examples(
  monkeypatch, tmp_path, whole
):
  """With the same weights and nothing random, the first loss tells."""
  tiny.use_devices(monkeypatch, 1)
  tiny.share_programs(monkeypatch, {})
  fields = tiny.PLAIN | {
    'init_from': str(whole),
    'model.norm': 'batch',
    'method.name': 'sgd',
    'num_steps': 1,
  }
  losses = []
  for seed in (0, 1):
    tiny.train(tmp_path / str(seed), **fields, seed=seed)
    losses.append(tiny.log(tmp_path / str(seed))[0]['step/loss'])
  assert losses[0] != losses[1]


def test_result_json_says_what_came_out_and_how(whole):
  result = json.loads((whole / 'result.json').read_text())
  errors = {
    line['step']: line['test/error_rate']
    for line in metrics_log.read(whole)
    if 'test/error_rate' in line
  }
  assert result['final_score'] == errors[NUM_STEPS]
  assert result['best_score'] == min(errors.values())
  assert errors[result['best_step']] == min(errors.values())
  assert result['split'] == 'test'
  params = jax.tree.leaves(tiny.state(whole)['params'])
  assert result['parameters'] == sum(x.size for x in params)
  assert result['device'].startswith('8 x')
  assert result['versions']['jax'] == jax.__version__
  assert result['wall_seconds'] > 0


# --- A loop around steps that compute nothing --------------------------------


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

  def __float__(self):
    return 0.5


@pytest.fixture
def events(monkeypatch):
  """What the loop dispatches and reads, in order; nothing is computed."""
  tiny.use_devices(monkeypatch, 1)
  order = []
  count = itertools.count(1)
  last = [0]

  def values(name, keys):
    order.append(('dispatch', name))
    return {key: _Value(order, name) for key in keys}

  def train_step(state, batch):
    last[0] = next(count)
    metrics = values(last[0], ('loss', 'error_rate'))
    return state, diagnostics.Metrics(metrics, {}, _Value(order, last[0]))

  def eval_step(variables, batch):
    name = f'evaluation after {last[0]}'
    return values(name, ('loss', 'error_rate', 'count'))

  for name, step in (('train', train_step), ('eval', eval_step)):
    monkeypatch.setattr(
      build.Experiment, f'compile_{name}_step', lambda self, f=step: f
    )
  return order


def _train(directory, **fields):
  return tiny.train(directory, **tiny.PLAIN | fields)


def test_a_step_is_dispatched_before_the_metrics_of_the_last_are_read(
  events, tmp_path
):
  _train(tmp_path, **{'checkpoint.every_steps': None})
  for step in range(1, NUM_STEPS):
    read = events.index(('read', step))
    assert events.index(('dispatch', step + 1)) < read
    # Nor does the host run away from the device.
    assert ('dispatch', step + 5) not in events[:read]


def test_an_evaluation_is_read_while_training_continues(events, tmp_path):
  _train(tmp_path, **{'checkpoint.every_steps': None})
  evaluation = 'evaluation after 5'
  order = [('dispatch', 5), ('dispatch', evaluation), ('dispatch', 6)]
  order += [('read', evaluation)]
  assert sorted(order, key=events.index) == order
  # All that an evaluation is made of is dispatched at a time.
  first = events.index(('dispatch', evaluation))
  assert events[first : first + 2] == [('dispatch', evaluation)] * 2


def test_without_a_terminal_there_are_plain_lines(events, tmp_path, capsys):
  _train(tmp_path, **{'log.progress_seconds': 0.0})
  captured = capsys.readouterr()
  assert captured.err == ''
  lines = captured.out.splitlines()
  assert 'sam on digits: cnn' in lines[0]
  assert lines[0].endswith(', 10 steps')
  assert 'one perturbation per step from all 16' in lines[1]
  assert lines[2] == 'compiling the first step'
  assert lines[3] == 'step 1/10: loss 0.5000, error 50.00 %'
  assert lines[-1].startswith('finished: test error ')
  assert sum(line.startswith('epoch ') for line in lines) == 2


def test_a_run_of_steps_ends_with_a_part_of_an_epoch(events, tmp_path):
  result = _train(tmp_path, num_steps=12, eval_every_epochs=2)
  lines = [line for line in metrics_log.read(tmp_path) if 'train/loss' in line]
  assert [(x['step'], x['epoch']) for x in lines] == [
    (5, 1),
    (10, 2),
    (12, 2.4),
  ]
  # Every second epoch, and at the end.
  assert ['test/loss' in line for line in lines] == [False, True, True]
  assert (result['steps'], result['epochs']) == (12, 2.4)
  assert tiny.steps(tmp_path)[-1] == 12


# --- Checkpoints -------------------------------------------------------------


def _with_error_rates(monkeypatch, rates):
  """Makes the evaluations find these error rates."""
  left = list(rates)
  monkeypatch.setattr(
    evaluation,
    'summarize',
    lambda sums, task: {'loss': 0.5, 'error_rate': left.pop(0)},
  )


def test_the_newest_the_earliest_best_and_the_named_are_kept(
  monkeypatch, events, tmp_path
):
  _with_error_rates(monkeypatch, [0.5, 0.2, 0.4, 0.2, 0.3])
  fields = {
    'num_epochs': 5,
    'checkpoint.every_steps': 4,
    'checkpoint.max_to_keep': 2,
    'checkpoint.at_epochs': (1, 3),
  }
  result = _train(tmp_path, **fields)
  assert (result['best_step'], result['best_score']) == (10, 0.2)
  assert result['final_score'] == 0.3
  assert tiny.steps(tmp_path) == [5, 10, 15, 24, 25]


def test_the_best_is_not_kept_if_not_asked_for(monkeypatch, events, tmp_path):
  _with_error_rates(monkeypatch, [0.2, 0.4])
  result = _train(
    tmp_path, **{'checkpoint.keep_best': False, 'checkpoint.max_to_keep': 1}
  )
  assert tiny.steps(tmp_path) == [10]
  assert result['best_step'] == 5


@pytest.mark.parametrize(
  ('every_steps', 'every_epochs', 'saved'),
  [
    (4, 1, [4, 8, 12, 16, 20, 24, 25]),
    (None, 2, [10, 20, 25]),
    (None, 0, [25]),  # the end alone
  ],
)
def test_checkpoints_come_as_often_as_asked(
  events, tmp_path, every_steps, every_epochs, saved
):
  fields = {
    'num_epochs': 5,
    'checkpoint.every_steps': every_steps,
    'checkpoint.every_epochs': every_epochs,
    'checkpoint.max_to_keep': 9,
    'checkpoint.keep_best': False,
  }
  _train(tmp_path, **fields)
  assert tiny.steps(tmp_path) == saved


# --- The end of a run --------------------------------------------------------


def test_a_finished_run_says_so_and_trains_nothing(
  monkeypatch, events, tmp_path, capsys
):
  expected = _train(tmp_path)
  before = tiny.tree(tmp_path)
  capsys.readouterr()
  tiny.before_step(monkeypatch, lambda step: pytest.fail('a step was made'))
  assert _train(tmp_path) == expected
  assert 'is finished: test error' in capsys.readouterr().out
  assert tiny.tree(tmp_path) == before


@pytest.mark.slow
def test_a_constant_schedule_is_made_longer(monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 1)
  fields = tiny.PLAIN | {
    'method.name': 'sgd',
    'schedule.name': 'constant',
    'schedule.warmup_epochs': 0.4,
  }
  tiny.train(tmp_path / 'longer', **fields, num_epochs=1)
  tiny.train(tmp_path / 'longer', **fields, num_epochs=2)
  tiny.train(tmp_path / 'at_once', **fields, num_epochs=2)
  tiny.assert_same_run(tmp_path / 'longer', tmp_path / 'at_once')


def _explode_at(monkeypatch, broken):
  """Makes the perturbed loss of a step infinite, as the loop reads it."""
  original, count = journal.StepValues.of, itertools.count(1)

  def of(metrics):
    values = original(metrics)
    if next(count) < broken:
      return values
    return values._replace(perturbed={'perturbed_loss': math.inf}, share=1.0)

  monkeypatch.setattr(journal.StepValues, 'of', of)


@pytest.mark.parametrize(
  ('broken', 'kept'), [(6, 'the last is of step 5'), (1, 'none was saved')]
)
def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_kept(
  monkeypatch, events, tmp_path, broken, kept
):
  _explode_at(monkeypatch, broken)
  message = f'step {broken}: perturbed_loss not finite; checkpoints: {kept}'
  with pytest.raises(loop.TrainingFailed, match=message):
    _train(tmp_path, **{'checkpoint.every_steps': 1})
  assert (tiny.steps(tmp_path) or [0])[-1] == broken - 1
  assert not (tmp_path / 'result.json').exists()
  logged = [v for line in tiny.log(tmp_path) for v in line.values()]
  assert all(math.isfinite(value) for value in logged)


# --- One's own model and data ------------------------------------------------

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


@pytest.mark.slow
def test_ones_own_model_and_data_set_are_used_by_name(
  monkeypatch, tmp_path, capsys
):
  tiny.use_devices(monkeypatch, 1)
  (tmp_path / 'their_plugin.py').write_text(_PLUGIN)
  monkeypatch.syspath_prepend(tmp_path)
  config = tiny.config(
    **tiny.PLAIN,
    num_steps=3,
    plugins=('their_plugin',),
    schedule__name='constant',
  )
  with config.unlocked():
    config.model = {'name': 'their_model', 'scale': 2.0}
    config.data = {'name': 'their_data', 'size': 48, 'split': 'test'}
  result = loop.train_and_evaluate(config, tmp_path / 'run')
  assert result['parameters'] == 4 * 3 + 3
  assert 'sam on their_data: their_model' in capsys.readouterr().out
  # No top-5 error among three classes.
  keys = {key for line in metrics_log.read(tmp_path / 'run') for key in line}
  assert 'test/error_rate' in keys and 'test/top5_error_rate' not in keys
  config.num_steps = 6
  assert loop.train_and_evaluate(config, tmp_path / 'run')['steps'] == 6
