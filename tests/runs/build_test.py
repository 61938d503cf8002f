import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn

from sam_jax import augmentation, models
from sam_jax.models import registry
from sam_jax.runs import dry_run, experiment, preparation
from sam_jax.training import parallel


@pytest.fixture(scope='module')
def built():
  return experiment.build(tiny.config())


def test_steps_follow_from_data_and_batch_size(built):
  assert (built.steps_per_epoch, built.num_steps) == (5, 10)
  assert experiment.build(tiny.config(num_steps=7)).num_steps == 7
  # 80 examples in batches of 24: the remainder is dropped.
  fields = {'batch_size': 24, 'm': 24, 'microbatch_size': 3}
  assert experiment.build(tiny.config(**fields)).num_steps == 6


@pytest.mark.parametrize(('asked', 'got'), [(1, 8), (64, 64), (100, 104)])
def test_the_evaluation_batch_is_rounded_up_to_the_devices(asked, got):
  built = experiment.build(tiny.config(eval_batch_size=asked))
  assert built.eval_batch_size == got


def test_the_layout_is_that_of_the_config(built):
  layout = built.layout
  assert (layout.batch_size, layout.m, layout.microbatch_size) == (16, 4, 2)
  assert layout.num_devices == jax.device_count()


def test_state_shapes_are_those_of_a_state(built):
  state = preparation.initial_state(tiny.config(), built)
  shapes = built.state_shapes()
  assert jax.tree.structure(shapes) == jax.tree.structure(state)
  for shape, leaf in zip(
    jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True
  ):
    assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)


def test_initial_weights_follow_from_the_seed_alone(built):
  def init(seed):
    return preparation.initial_state(tiny.config(seed=seed), built).params

  jax.tree.map(np.testing.assert_array_equal, init(3), init(3))
  kernels = [np.asarray(init(s)['Dense_0']['kernel']) for s in (3, 4)]
  assert not np.any(kernels[0] == kernels[1])


def test_the_seed_reaches_augmentation_dropout_and_method():
  """`train_step` draws all of them from this one."""
  assert experiment.build(tiny.config(seed=3)).fns.seed == 3


def test_the_average_is_the_configs(built):
  assert built.fns.ema_fn is None
  fields = {'ema.decay': 0.2, 'ema.warmup_steps': 3}
  ema_fn = experiment.build(tiny.config(**fields)).fns.ema_fn
  # From 1 to 0: the decay, a tenth at first and then 2/11, 3/12, ...
  decays = [ema_fn(1.0, 0.0, step) for step in (2, 3, 4, 5)]
  np.testing.assert_allclose(decays, [0, 1 / 10, 2 / 11, 0.2], rtol=1e-6)


@pytest.mark.parametrize('split', ['test', 'validation'])
def test_data_seed_fixes_split_and_noise_while_the_seed_varies(split):
  def dataset(**fields):
    noisy = {'data.label_noise': 0.4, 'data.split': split}
    return experiment.build(tiny.config(**noisy, **fields)).dataset

  def arrays(data):
    return [*data.train, *data.evaluation]

  first = dataset(seed=0)
  for a, b in zip(arrays(first), arrays(dataset(seed=1)), strict=True):
    np.testing.assert_array_equal(a, b)
  other = dataset(**{'data.seed': 1})
  assert np.any(first.train.images != other.train.images)
  clean = experiment.build(tiny.config(**{'data.split': split})).dataset
  assert np.mean(first.train.labels != clean.train.labels) == pytest.approx(
    0.4, abs=0.01
  )
  np.testing.assert_array_equal(
    first.evaluation.labels, clean.evaluation.labels
  )


def test_the_info_is_what_it_takes_to_use_the_model(built):
  assert built.info == {
    'num_classes': 10,
    'image_shape': [8, 8, 1],
    'mean': [0.3053],
    'std': [0.3759],
  }


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
  resolved = experiment.resolve(config, devices)
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
  assert experiment.resolve(config, 8).data.image_size == settled


def test_only_fields_that_are_set_reach_a_factory():
  section = tiny.config().model
  assert experiment.factory_kwargs(section) == {
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
  fields = {'m': 16, 'microbatch_size': 16, 'augmentation.name': 'none'}

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
  config = sized()
  built = experiment.build(config)
  batch = _batch(built)
  augmented = built.fns.augment(
    built.fns.stream(0, 0), batch['image'], batch['position']
  )
  # Not yet: a microbatch of large images needs less memory than all of them.
  assert augmented.shape == (16, 8, 8, 1)
  by_hand = augmentation.resize(augmented, 12)
  state = built.parallel.replicate(preparation.initial_state(config, built))
  after, _ = built.compile_train_step()(state, built.parallel.shard(batch))
  # Two programs on values of order 1.
  np.testing.assert_allclose(after.batch_stats['seen'], by_hand[0], atol=1e-5)


def test_evaluation_images_are_resized_without_augmentation(sized):
  config = sized()
  built = experiment.build(config)
  assert built.input_shape == (12, 12, 1)
  images = built.dataset.evaluation.images[:16]
  preprocessed = built.preprocess(images)
  normal = augmentation.normalize(images, built.dataset.mean, built.dataset.std)
  np.testing.assert_allclose(
    preprocessed, augmentation.resize(normal, 12), atol=1e-5
  )
  state = built.parallel.replicate(preparation.initial_state(config, built))
  batch = {
    'image': images,
    'label': built.dataset.evaluation.labels[:16],
    'mask': np.float32(np.arange(16) < 11),
  }
  sums = built.compile_eval_step()(
    built.variables(state), built.parallel.shard(batch)
  )
  logits = built.model.apply(built.variables(state), preprocessed, train=False)
  errors = np.argmax(logits, -1) != batch['label']
  assert sums['count'] == 11
  assert sums['error_rate'] == errors[:11].sum()


def test_the_info_keeps_the_size_of_the_data_sets_images(sized):
  built = experiment.build(sized())
  assert built.info['image_shape'] == [8, 8, 1]
  assert experiment.resolution(built.model) == 12
  kernel = built.state_shapes().params['Dense_0']['kernel']
  assert kernel.shape == (12 * 12, 10)


def test_a_model_without_resolution_takes_images_as_they_are(built):
  assert experiment.resolution(built.model) is None
  assert built.input_shape == (8, 8, 1)
  images = built.dataset.evaluation.images[:2]
  np.testing.assert_array_equal(
    built.preprocess(images),
    augmentation.normalize(images, built.dataset.mean, built.dataset.std),
  )


def test_a_dry_run_knows_the_resolution(sized, tmp_path, capsys):
  dry_run.run(sized(), tmp_path / 'run')
  assert 'parameters: 1,450' in capsys.readouterr().out  # (12 * 12 + 1) * 10


@pytest.mark.slow
def test_an_efficientnet_trains_at_its_resolution(monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 1)
  model = {
    'name': 'efficientnet',
    'width': 0.25,
    'depth': 0.3,
    'resolution': 16,
    'dropout_rate': 0.1,
  }
  sizes = {'m': 16, 'microbatch_size': 16, 'num_steps': 1}
  tiny.train(tmp_path, model=model, method__name='sgd', **sizes)
  assert 'test/error_rate' in tiny.log(tmp_path)[-1]


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
    experiment.build(tiny.config(**fields))
  message = str(error.value)
  assert '\n' not in message
  assert f'each of {devices} devices has {pieces} of them' in message
  assert f'use {devices * pieces} devices' in message
  for name, size in remedy.items():
    assert f'{name}={size}' in message
  # What it says would do, does.
  remedy = {'microbatch_size': 16 // devices, **remedy}
  assert f'microbatch_size={16 // devices}' in message
  experiment.build(tiny.config(**fields | remedy))
  experiment.build(tiny.config(**fields | {'model.norm': 'batch'}))


@pytest.mark.parametrize('name', ['shard_map', 'pmap'])
def test_synced_norm_gets_the_axes_that_the_step_is_mapped_over(name):
  sizes = {'m': 16, 'microbatch_size': 2}
  config = tiny.config(**{'model.norm': 'synced', 'parallel': name}, **sizes)
  built = experiment.build(config)
  assert built.layout.device_microbatches == built.layout.device_groups == 1
  runs_on = parallel.create(name, built.layout)
  assert built.model.norm_axes == runs_on.collectives.axes != ()


def test_no_other_norm_gets_axes(built):
  assert built.model.norm_axes is None


@pytest.mark.parametrize('name', ['shard_map', 'pmap'])
def test_a_dry_run_compiles_synced_norm(name, tmp_path, capsys):
  sizes = {'m': 16, 'microbatch_size': 2}
  config = tiny.config(**{'model.norm': 'synced', 'parallel': name}, **sizes)
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
  assert experiment.build(tiny.config(**fields)).fns.mantissa_bits == bits


# --- Every field that says how to train does something -----------------------

_EFFECTS = (
  {'seed': 1},
  {'method.name': 'sgd'},
  {'method.rho': 0.5},
  {'method.p': float('inf')},
  {'m': 8},
  {'method.ascent_steps': 2},
  {'microbatch_size': 1},
  {'learning_rate': 0.05},
  {'schedule.name': 'exponential'},
  {'schedule.warmup_epochs': 0.2},
  {'optimizer.name': 'lion'},
  {'optimizer.name': 'rmsprop_tf'},
  {'optimizer.momentum': 0.5},
  {'optimizer.nesterov': False},
  {'gradient_clipping': 0.1},
  {'weight_decay.rate': 0.1},
  {'label_smoothing': 0.2},
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


def _two_steps(directory, **fields):
  """Returns the parameters after two steps."""
  tiny.train(directory, num_steps=2, **fields)
  return tiny.state(directory)['params']


@pytest.fixture(scope='module')
def baselines(tmp_path_factory):
  return {
    str(fields): _two_steps(tmp_path_factory.mktemp('baseline'), **fields)
    for fields in ({}, _DECAYED, _RMSPROP, _AUTO, _RAND, _MIXUP)
  }


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
def test_a_field_that_says_how_to_train_changes_the_weights(
  baselines, tmp_path, fields, base
):
  baseline = baselines[str(base)]
  params = _two_steps(tmp_path, **base | fields)
  largest = max(
    np.max(np.abs(a - b))
    for a, b in zip(
      jax.tree.leaves(params), jax.tree.leaves(baseline), strict=True
    )
  )
  # Ten times what rounding makes of two steps.
  assert largest > 1e-5


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
  ({'num_epochs': 0}, 'the run is 0 steps long'),
  ({'num_steps': 0}, 'the run is 0 steps long'),
  ({'num_epochs': -1}, 'the run is -5 steps long'),
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
  ({'method.name': 'asam2'}, r"unknown method 'asam2'.*sam.*sgd"),
  ({'method.rho': -0.1}, r'rho is -0\.1'),
  ({'method.rho': float('inf')}, 'rho is inf'),
  ({'method.p': 0.5}, r'p is 0\.5'),
  ({'method.ascent_steps': 0}, 'ascent_steps is 0'),
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
  ({'mixing.probability': 2.0}, 'probability=2'),
  (
    {'mixing.name': 'mixup', 'microbatch_size': 1},
    'microbatch_size is 1; it must be at least 2',
  ),
  ({'augmentation.cutout_length': -1}, 'cutout_length is -1'),
  ({'augmentation.cutout_per': 'image'}, 'cutout_per'),
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


def test_an_experiment_is_not_changed_by_accident(built):
  with pytest.raises(dataclasses.FrozenInstanceError):
    built.num_steps = 3
