"""From a config to the objects of a run, and what is refused."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sam_jax import augmentation, models, tasks
from sam_jax.models import registry
from sam_jax.runs import build, dry_run, factories, initialization, validation
from sam_jax.training import parallel, train_step
from tests import tiny


@pytest.fixture(scope='module')
def built():
  return build.build(tiny.config())


def test_steps_follow_from_data_and_batch_size(built):
  assert (built.steps_per_epoch, built.num_steps) == (5, 10)
  assert build.build(tiny.config(num_steps=7)).num_steps == 7
  # 80 examples in batches of 24: the remainder is dropped.
  fields = {'batch_size': 24, 'm': 24, 'microbatch_size': 3}
  assert build.build(tiny.config(**fields)).num_steps == 6


@pytest.mark.parametrize(('asked', 'got'), [(1, 8), (64, 64), (100, 104)])
def test_the_evaluation_batch_is_rounded_up_to_the_devices(asked, got):
  built = build.build(tiny.config(eval_batch_size=asked))
  assert built.eval_batch_size == got


def test_the_layout_is_that_of_the_config(built):
  layout = built.layout
  assert (layout.batch_size, layout.m, layout.microbatch_size) == (16, 4, 2)
  assert layout.num_devices == jax.device_count()


def test_state_shapes_are_those_of_a_state(built):
  state = initialization.initial_state(built, seed=0)
  shapes = built.state_shapes()
  assert jax.tree.structure(shapes) == jax.tree.structure(state)
  for shape, leaf in zip(
    jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True
  ):
    assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)


def test_initial_weights_follow_from_the_seed_alone(built):
  def init(seed):
    return initialization.initial_state(built, seed=seed).params

  jax.tree.map(np.testing.assert_array_equal, init(3), init(3))
  kernels = [np.asarray(init(s)['Dense_0']['kernel']) for s in (3, 4)]
  assert not np.any(kernels[0] == kernels[1])


def test_the_average_is_the_configs(built):
  assert built.fns.ema_fn is None
  fields = {'ema.decay': 0.2, 'ema.warmup_steps': 3}
  ema_fn = build.build(tiny.config(**fields)).fns.ema_fn
  # From 1 to 0: the decay, a tenth at first and then 2/11, 3/12, ...
  decays = [ema_fn(1.0, 0.0, step) for step in (2, 3, 4, 5)]
  np.testing.assert_allclose(decays, [0, 1 / 10, 2 / 11, 0.2], rtol=1e-6)


@pytest.mark.parametrize('split', ['test', 'validation'])
def test_data_seed_fixes_split_and_noise_while_the_seed_varies(split):
  def dataset(**fields):
    noisy = {'data.label_noise': 0.4, 'data.split': split}
    return build.build(tiny.config(**noisy, **fields)).dataset

  def arrays(data):
    return [*data.train, *data.evaluation]

  first = dataset(seed=0)
  for a, b in zip(arrays(first), arrays(dataset(seed=1)), strict=True):
    np.testing.assert_array_equal(a, b)
  other = dataset(**{'data.seed': 1})
  assert np.any(first.train.images != other.train.images)
  clean = build.build(tiny.config(**{'data.split': split})).dataset
  assert np.mean(first.train.labels != clean.train.labels) == pytest.approx(
    0.4, abs=0.01
  )
  np.testing.assert_array_equal(
    first.evaluation.labels, clean.evaluation.labels
  )


@pytest.mark.parametrize(
  ('devices', 'asked', 'settled'),
  [
    (8, (None, None), (2, 2)),
    (2, (None, None), (8, 8)),
    (2, (4, None), (4, 4)),
    (2, (None, 2), (8, 2)),
    (4, (16, None), (16, 4)),
    (4, (4, 2), (4, 2)),
  ],
)
def test_unset_sizes_become_the_batch_per_device(devices, asked, settled):
  config = tiny.config(**{'m': asked[0], 'microbatch_size': asked[1]})
  resolved = build.resolve(config, devices)
  assert (resolved.m, resolved.microbatch_size) == settled
  assert (config.m, config.microbatch_size) == asked


@pytest.mark.parametrize(
  ('data', 'model', 'asked', 'settled'),
  [
    ('image_folder', 'efficientnet-b3', None, 300),
    ('image_folder', 'efficientnet-b3', 64, 64),
    ('imagenet2012', 'Resnet50', None, 224),
    ('digits', 'efficientnet-b3', None, None),
  ],
)
def test_images_are_decoded_to_the_size_of_the_model(
  data, model, asked, settled
):
  config = tiny.config(model={'name': model}, **{'data.name': data})
  config.data.image_size = asked
  assert build.resolve(config, 8).data.image_size == settled


def test_only_fields_that_are_set_reach_a_factory():
  section = tiny.config().model
  assert factories.fields(section) == {
    'name': 'cnn',
    'features': (4,),
    'hidden': 8,
    'norm': 'batch',
    'activation': 'tanh',
    'dropout_rate': 0.3,
  }


# --- Models that are meant for a resolution ----------------------------------


class _Sized(nn.Module):
  """Linear in images of one size; its statistics are the images it saw."""

  num_classes: int
  resolution: int = 12

  @nn.compact
  def __call__(self, images, *, train, true_gradient=False):
    del train, true_gradient
    seen = self.variable('batch_stats', 'seen', jnp.zeros, images.shape[1:])
    if self.is_mutable_collection('batch_stats'):
      seen.value = images[0]
    return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))


@pytest.fixture
def sized(monkeypatch):
  """Returns what builds a run with that model, all in one microbatch."""
  monkeypatch.setattr(registry, '_REGISTRY', dict(registry._REGISTRY))
  models.register('sized_here')(_Sized)
  tiny.use_devices(monkeypatch, 1)
  fields = tiny.PLAIN | {'method.name': 'sgd', 'model.norm': None}

  def config(**others):
    return tiny.config(model={'name': 'sized_here'}, **fields, **others)

  return config


def _batch(built, size=16):
  examples = built.dataset.train
  return {
    'image': examples.images[:size],
    'label': examples.labels[:size],
    'position': np.arange(size, dtype=np.int32),
  }


def test_training_images_are_resized_to_the_models_resolution(sized):
  built = build.build(sized())
  batch = _batch(built)
  augmented = built.task.augment(built.fns.stream(0, 0), batch)['image']
  # Not yet: a microbatch of large images needs less memory than all of them.
  assert augmented.shape == (16, 8, 8, 1)
  by_hand = augmentation.resize(augmented, 12)
  state = initialization.initial_state(built, seed=0)
  state = built.parallel.replicate(state)
  after, _ = built.compile_train_step()(state, built.parallel.shard(batch))
  # Two programs on values of order 1.
  np.testing.assert_allclose(after.batch_stats['seen'], by_hand[0], atol=1e-5)


def test_evaluation_images_are_resized_without_augmentation(sized):
  built = build.build(sized())
  assert built.task.input_shape == (12, 12, 1)
  assert built.task.info['image_shape'] == [8, 8, 1]
  kernel = built.state_shapes().params['Dense_0']['kernel']
  assert kernel.shape == (12 * 12, 10)
  images = built.dataset.evaluation.images[:16]
  normal = augmentation.normalize(images, built.dataset.mean, built.dataset.std)
  resized = augmentation.resize(normal, 12)
  state = initialization.initial_state(built, seed=0)
  variables = built.parallel.replicate(built.eval_variables(state))
  batch = {
    'image': images,
    'label': built.dataset.evaluation.labels[:16],
    'mask': np.float32(np.arange(16) < 11),
  }
  sums = built.compile_eval_step()(variables, built.parallel.shard(batch))
  logits = built.task.model.apply(variables, resized, train=False)
  errors = np.argmax(logits, -1) != batch['label']
  assert sums['count'] == 11
  assert sums['error_rate'] == errors[:11].sum()


# --- BatchNorm over all devices ----------------------------------------------


@pytest.mark.parametrize(
  ('devices', 'sizes', 'pieces', 'remedy'),
  [
    (4, {'m': 16, 'microbatch_size': 2}, 2, {'microbatch_size': 4}),
    (1, {'m': 16, 'microbatch_size': 4}, 4, {'microbatch_size': 16}),
    (8, {'m': 1, 'microbatch_size': 1}, 2, {'m': 2}),
  ],
)
def test_synced_norm_is_refused_for_microbatches_in_turn(
  monkeypatch, devices, sizes, pieces, remedy
):
  tiny.use_devices(monkeypatch, devices)
  fields = {'model.norm': 'synced', **sizes}
  with pytest.raises(ValueError, match='all microbatches at once') as error:
    build.build(tiny.config(**fields))
  message = str(error.value)
  assert '\n' not in message
  assert f'each of {devices} devices has {pieces} of them' in message
  assert f'use {devices * pieces} devices' in message
  for name, size in remedy.items():
    assert f'{name}={size}' in message
  # What it says would do, does.
  remedy = {'microbatch_size': 16 // devices, **remedy}
  assert f'microbatch_size={16 // devices}' in message
  build.build(tiny.config(**fields | remedy))
  build.build(tiny.config(**fields | {'model.norm': 'batch'}))


@pytest.mark.parametrize('name', ['shard_map', 'pmap'])
def test_synced_norm_gets_the_axes_that_the_step_is_mapped_over(name):
  sizes = {'m': 16, 'microbatch_size': 2}
  config = tiny.config(**{'model.norm': 'synced', 'parallel': name}, **sizes)
  built = build.build(config)
  assert built.layout.device_microbatches == built.layout.device_groups == 1
  runs_on = parallel.create(name, built.layout)
  assert built.task.model.norm_axes == runs_on.collectives.axes != ()


def test_no_other_norm_gets_axes(built):
  assert built.task.model.norm_axes is None


@pytest.mark.slow
def test_a_dry_run_compiles_synced_norm_for_pmap(tmp_path, capsys):
  sizes = {'m': 16, 'microbatch_size': 2}
  fields = {'model.norm': 'synced', 'parallel': 'pmap', 'method.name': 'sgd'}
  config = tiny.config(**fields, **sizes)
  dry_run.run(config, tmp_path / 'run')
  assert 'memory of a step' in capsys.readouterr().out


# --- Precision ---------------------------------------------------------------


@pytest.mark.parametrize(
  ('fields', 'bits'),
  [
    ({}, 23),
    ({'compute_dtype': 'bfloat16'}, 7),
    # A CPU multiplies in float32 whatever is asked for.
    ({'matmul_precision': 'bfloat16'}, 23),
  ],
)
def test_the_step_knows_how_much_is_rounded(fields, bits):
  assert build.build(tiny.config(**fields)).fns.mantissa_bits == bits


# --- Every field that says how to train does something -----------------------

_EFFECTS = (
  {'seed': 1},
  {'method.name': 'sgd'},
  {'method.rho_schedule': 'linear'},
  {'method.rho': 0.5},
  {'method.p': float('inf')},
  {'m': 8, 'microbatch_size': 8},
  {'method.ascent_steps': 2},
  {'microbatch_size': 4},
  {'learning_rate': 0.05},
  {'schedule.name': 'exponential'},
  {'schedule.warmup_epochs': 0.2},
  {'schedule.warmup_steps': 2},
  {'schedule.end_fraction': 0.1},
  {'optimizer.name': 'lion'},
  {'optimizer.name': 'rmsprop_tf'},
  {'optimizer.momentum': 0.5},
  {'optimizer.nesterov': False},
  {'gradient_clipping': 0.1},
  {'weight_decay.rate': 0.1},
  {'label_smoothing': 0.2},
  {'on_nonfinite': 'skip'},
  {'compute_dtype': 'bfloat16'},
  {'augmentation.name': 'none'},
  {'augmentation.name': 'autoaugment'},
  {'augmentation.name': 'randaugment'},
  {'augmentation.padding': 2},
  {'augmentation.cutout_length': 4},
  {'mixing.name': 'mixup'},
  {'mixing.name': 'cutmix'},
  {'augmentation.cutout_per': 'example'},
  {'model.dropout_rate': 0.0},
  {'data.seed': 1},
  {'data.label_noise': 0.9},
)
_DECAYED = {'weight_decay.rate': 0.5}
_RMSPROP = {'optimizer.name': 'rmsprop_tf'}
_AUTO = {'augmentation.name': 'autoaugment'}
_EFFECTS_ON_AUTO = (
  {'augmentation.name': 'aa-only'},
  {'augmentation.policy': 'svhn'},
  {'augmentation.constants': 'cifar'},
)
_RAND = {'augmentation.name': 'randaugment'}
_EFFECTS_ON_RAND = (
  {'augmentation.num_layers': 3},
  {'augmentation.magnitude': 3},
)
_MIXUP = {'mixing.name': 'mixup'}
_EFFECTS_ON_MIXUP = (
  {'mixing.alpha': 0.1},
  {'mixing.probability': 0.0},
)
_EFFECTS_ON_RMSPROP = (
  {'optimizer.decay': 0.5},
  {'optimizer.eps': 0.1},
  {'optimizer.lr_in_momentum': False},
)
_EFFECTS_ON_DECAY = (
  {'weight_decay.place': 'descent'},
  {'weight_decay.place': 'gradient'},
  {'weight_decay.exclude': '(scale|bias)$'},
)


# One microbatch, so that the programs are short.
_SIZES = {'m': 16, 'microbatch_size': 16}
# Fields of the data change arrays, and not the program.
_OF_THE_DATA = ('data.seed', 'data.label_noise')


@functools.cache
def _program(items):
  """Returns the program of a step and the labels that it is trained on."""
  built = build.build(tiny.config(**_SIZES | dict(items)))
  step = functools.partial(train_step.train_step, fns=built.fns)
  traced = jax.make_jaxpr(step)(
    built.state_shapes(), built.task.batch_shapes(16)
  )
  text = re.sub(' at 0x[0-9a-f]+', '', str(traced))
  text += str([np.asarray(x).tolist() for x in traced.consts])
  return text, built.dataset.train.labels.tobytes()


@pytest.mark.slow
def test_a_program_is_traced_the_same_twice(monkeypatch):
  tiny.use_devices(monkeypatch, 1)
  first = _program(())
  _program.cache_clear()
  assert _program(()) == first


@pytest.mark.slow
@pytest.mark.parametrize(
  ('fields', 'base'),
  [
    *[(fields, {}) for fields in _EFFECTS],
    *[(fields, _DECAYED) for fields in _EFFECTS_ON_DECAY],
    *[(fields, _RMSPROP) for fields in _EFFECTS_ON_RMSPROP],
    *[(fields, _AUTO) for fields in _EFFECTS_ON_AUTO],
    *[(fields, _RAND) for fields in _EFFECTS_ON_RAND],
    *[(fields, _MIXUP) for fields in _EFFECTS_ON_MIXUP],
  ],
  ids=str,
)
def test_a_field_that_says_how_to_train_changes_the_program_or_the_data(
  monkeypatch, fields, base
):
  tiny.use_devices(monkeypatch, 1)
  before = _program(tuple(base.items()))
  after = _program(tuple((base | fields).items()))
  is_of_the_data = next(iter(fields)) in _OF_THE_DATA
  assert (before[0] != after[0]) == (not is_of_the_data)
  assert (before[1] != after[1]) == is_of_the_data


# --- Bad values --------------------------------------------------------------

BAD = (
  ({'seed': -1}, r'seed is -1; it must be in \[0'),
  ({'learning_rate': -0.1}, r'learning_rate is -0\.1'),
  ({'learning_rate': float('nan')}, 'learning_rate is nan'),
  ({'label_smoothing': 1.5}, r'label_smoothing is 1\.5'),
  ({'weight_decay.rate': -1.0}, r'weight_decay\.rate is -1'),
  ({'eval_batch_size': 0}, 'eval_batch_size is 0'),
  ({'eval_every_epochs': 0}, 'eval_every_epochs is 0'),
  ({'checkpoint.every_epochs': -1}, r'checkpoint\.every_epochs is -1'),
  ({'checkpoint.max_to_keep': 0}, r'checkpoint\.max_to_keep is 0'),
  ({'checkpoint.every_steps': -3}, r'checkpoint\.every_steps is -3'),
  ({'log.every_steps': -1}, r'log\.every_steps is -1'),
  ({'num_epochs': 0}, 'num_steps if it is set, asks for 0 steps'),
  ({'num_steps': 0}, 'num_steps if it is set, asks for 0 steps'),
  ({'num_epochs': -1}, 'asks for -5 steps; a run has at least 1'),
  ({'model.name': 'lenet'}, r"unknown model 'lenet'.*known: .*cnn"),
  ({'model.depth': 28}, r"'cnn' takes no argument 'depth'"),
  ({'model.norm': 'layer'}, 'batch'),
  ({'model.features': (4,) * 4}, 'images of at least 16x16'),
  ({'data.name': 'mnist'}, r"unknown data set 'mnist'.*digits"),
  ({'data.split': 'train'}, "split 'train'.*validation"),
  ({'data.label_noise': 1.5}, r'label noise is 1\.5'),
  ({'data.label_noise_kind': 'pairs'}, 'symmetric'),
  ({'data.train_size': 1797}, 'train_size is 1797'),
  ({'data.train_size': 12}, 'only 12 training'),
  ({'task.name': 'images'}, r"unknown task 'images'.*image_classification"),
  ({'method.name': 'asam2'}, r"unknown method 'asam2'.*sam.*sgd"),
  ({'method.rho': -0.1}, r'rho is -0\.1'),
  ({'method.rho': float('inf')}, 'rho is inf'),
  ({'method.p': 0.5}, r'p is 0\.5'),
  ({'method.ascent_steps': 0}, 'ascent_steps is 0'),
  ({'method.eta': 0.1}, "'sam' takes no eta, and eta is 0.1"),
  ({'method.name': 'disam'}, "'disam'.*needs examples of several domains"),
  (
    {'method.name': 'imb_sam', 'labels_from': 'another/run'},
    "'imb_sam'.* needs examples of classes.* labels_from leaves them unknown",
  ),
  ({'plugins': ('no_such_module',)}, "plugins names 'no_such_module'"),
  ({'init_from': 'gs://bucket/run'}, 'not a path on this machine'),
  ({'data.directory': 'gs://bucket'}, 'not a path on this machine'),
  ({'schedule.name': 'step'}, r"unknown schedule 'step'.*cosine"),
  ({'schedule.factor': 0.5}, r"'cosine' takes no"),
  ({'schedule.warmup_epochs': 3.0}, 'warm-up takes 15 of 10'),
  ({'schedule.warmup_epochs': -1.0}, 'warm-up takes -5'),
  ({'optimizer.name': 'sdg'}, "unknown optimizer 'sdg'"),
  ({'optimizer.b1': 0.5}, r"'sgd' takes no.* b1"),
  ({'optimizer.decay': 0.9}, r"'sgd' takes no.* decay"),
  ({'ema.decay': 1.0}, r'ema\.decay is 1\.0; it must be in \[0, 1\)'),
  ({'ema.decay': -0.1}, r'ema\.decay is -0\.1'),
  ({'ema.warmup_steps': -1}, r'ema\.warmup_steps is -1'),
  ({'gradient_clipping': -5.0}, r'gradient_clipping is -5'),
  ({'weight_decay.place': 'before'}, r"place 'before'.*descent"),
  ({'weight_decay.place': 'decoupled'}, "'sgd' has no decoupled"),
  ({'weight_decay.exclude': 'bn1'}, 'matches no parameter'),
  ({'weight_decay.exclude': '('}, 'no regular expression'),
  ({'augmentation.name': 'trivialaugment'}, r'trivialaugment.*autoaugment'),
  ({'augmentation.padding': -1}, 'padding is -1'),
  ({'augmentation.padding': 99}, 'pixels cannot be padded'),
  ({'augmentation.policy': 'mnist'}, r"policy 'mnist'.*cifar"),
  ({'augmentation.constants': 'mine'}, r"constants 'mine'.*official"),
  ({'augmentation.num_layers': 0}, 'num_layers is 0'),
  ({'augmentation.magnitude': 31}, 'magnitude 31'),
  ({'mixing.name': 'manifold'}, r"mixing 'manifold'.*mixup"),
  ({'mixing.alpha': -1.0}, 'alpha=-1'),
  (
    {'method.name': 'saf', 'method.examples': 3},
    r'examples is 3 and classes is 10, .* set examples=\d+ and classes=10',
  ),
  (
    {'method.name': 'saf', 'method.classes': 9},
    r'examples is 50000 and classes is 9, .* set examples=\d+ and classes=10',
  ),
  (
    {'method.name': 'saf', 'mixing.name': 'cutmix'},
    r"'saf'.* not mixed with each other, see mixing\.name=\"none\"",
  ),
  ({'mixing.probability': 2.0}, 'probability=2'),
  (
    {'mixing.name': 'mixup', 'microbatch_size': 1},
    'microbatch_size is 1; it must be at least 2',
  ),
  ({'augmentation.cutout_length': -1}, 'cutout_length is -1'),
  ({'augmentation.cutout_per': 'image'}, 'cutout_per'),
  ({'on_nonfinite': 'ignore'}, r"unknown on_nonfinite 'ignore'.*stop, skip"),
  ({'max_skipped_steps': 0}, 'max_skipped_steps is 0'),
  ({'allow_change': ('seed',)}, "field in allow_change 'seed'; .*method.rho"),
  ({'num_epochs': 2**31 - 1}, 'a run has at least 1 and at most 2147483647'),
  ({'data.workers': -1}, 'data.workers is -1'),
  ({'compute_dtype': 'float16'}, r"unknown compute_dtype 'float16'.*bfloat16"),
  ({'matmul_precision': 'tf32'}, r"matmul_precision 'tf32'.*tensorfloat32"),
  ({'parallel': 'pjit'}, r"unknown parallel 'pjit'.*shard_map"),
  ({'microbatch_loop': 'for'}, r"microbatch_loop 'for'.*unroll"),
  ({'batch_size': 0}, 'batch_size is 0'),
  ({'batch_size': 12}, '12 is not divisible by 8 devices'),
  ({'batch_size': 24}, r'microbatch_size|perturbations'),
  ({'m': 3}, r'm 3 does not divide batch_size 16'),
  ({'m': 0}, 'm is 0'),
  ({'microbatch_size': 3}, 'microbatch_size 3 does not divide'),
  ({'microbatch_size': 4}, 'no multiple of microbatch_size 4'),
  ({'microbatch_size': 0}, 'microbatch_size is 0'),
)


@pytest.mark.parametrize(('fields', 'message'), BAD, ids=lambda x: str(x)[:50])
def test_a_bad_value_is_one_line_before_anything_is_written(
  tmp_path, fields, message
):
  with pytest.raises(ValueError, match=message) as raised:
    tiny.train(tmp_path / 'run', **fields)
  assert '\n' not in str(raised.value)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'fields',
  [
    {'data.train_size': 12, 'batch_size': 64},
    {'batch_size': 24, 'm': 32, 'microbatch_size': 32},
  ],
)
def test_sizes_that_do_not_fit_are_refused_with_three_that_do(fields):
  with pytest.raises(ValueError, match='These fit together: ') as raised:
    build.resolve(tiny.config(**fields), 8)
    build.build(tiny.config(**fields))
  flags = re.findall(r'--config\.(\w+)=(\d+)', str(raised.value))
  assert [name for name, _ in flags] == ['batch_size', 'm', 'microbatch_size']
  pasted = fields | {name: int(size) for name, size in flags}
  assert build.build(tiny.config(**pasted)).steps_per_epoch > 0


class _Unmeasured(tasks.ImageClassification):
  """A task that forgets to measure something."""

  def __init__(self, metrics):
    info = {
      'num_classes': 2,
      'image_shape': (2, 2, 1),
      'mean': (0,),
      'std': (1,),
    }
    super().__init__(None, info)
    self._metrics = metrics

  def example_metrics(self, outputs, batch):
    return {name: jnp.zeros(shape) for name, shape in self._metrics.items()}


@pytest.mark.parametrize(
  ('metrics', 'message'),
  [
    ({'loss': (1,)}, "example_metrics of _Unmeasured has no 'error_rate'"),
    ({'error_rate': (1,)}, "example_metrics of _Unmeasured has no 'loss'"),
    ({'loss': (), 'error_rate': (1,)}, r"it returns {'loss': \(\)}"),
  ],
)
def test_a_task_that_does_not_measure_is_refused(metrics, message):
  outputs = jax.ShapeDtypeStruct((1, 2), jnp.float32)
  with pytest.raises(ValueError, match=message):
    validation.check_task(_Unmeasured(metrics), outputs)
