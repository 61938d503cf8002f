import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sam_jax import models
from sam_jax.models import layers, registry
from tests import reference, zoo


def _expected_parameters(depth, width, num_classes):
  """Counts the parameters of a WideResNet by hand."""
  total = 9 * 3 * 16  # first convolution
  channels = 16
  for group_channels in (16 * width, 32 * width, 64 * width):
    for _ in range((depth - 4) // 6):
      total += 2 * channels + 9 * channels * group_channels
      total += 2 * group_channels + 9 * group_channels**2
      channels = group_channels
  return total + 2 * channels + (channels + 1) * num_classes


# Millions of parameters as the WideResNet paper's tables print them; its
# learned 1x1 shortcuts, which these have not, are less than 5 % of them.
@pytest.mark.parametrize(
  ('depth', 'width', 'millions'),
  [
    (10, 1, None),
    (40, 2, 2.2),
    (16, 8, 11.0),
    (28, 10, 36.5),
  ],
)
def test_parameter_counts_follow_from_depth_and_width(depth, width, millions):
  by_name = models.create(f'WideResnet{depth}x{width}', num_classes=10)
  by_arguments = models.create(
    'wide_resnet', num_classes=10, depth=depth, width=width
  )
  assert by_name == by_arguments
  count = zoo.size(zoo.shapes(by_name)['params'])
  assert count == _expected_parameters(depth, width, 10)
  if millions is not None:
    assert 0.95 * millions < count / 1e6 < 1.02 * millions


@pytest.mark.slow
def test_wide_resnet_without_batch_norm_keeps_its_scale_with_depth():
  images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))

  def scales(depth):
    model = models.create(
      'wide_resnet', num_classes=10, depth=depth, width=1, norm='none'
    )
    variables = zoo.initialise(model, images)
    assert set(variables) == {'params'}
    apply = functools.partial(
      model.apply, train=True, capture_intermediates=True
    )
    _, state = jax.jit(apply)(variables, images)
    outputs = reference.flatten(state['intermediates'])
    return [np.std(np.asarray(value[0])) for value in outputs.values()]

  deep, shallow = scales(22), scales(10)
  assert np.all(np.isfinite(deep)) and min(deep) > 1e-3
  # 9 branches without a factor would multiply the largest scale by ten.
  assert max(deep) < 2 * max(shallow)


@pytest.mark.parametrize(
  'architecture', ['cnn', pytest.param('wide_resnet', marks=pytest.mark.slow)]
)
def test_dropout_follows_its_key_in_training_only(architecture):
  model, size = zoo.tiny(architecture, dropout_rate=0.5)
  variables = zoo.tiny_variables(architecture)
  images = zoo.random_images(size, 2)

  @jax.jit
  def train_logits(seed):
    rngs = {'dropout': jax.random.key(seed, impl='unsafe_rbg')}
    logits, _ = model.apply(
      variables, images, train=True, rngs=rngs, mutable=['batch_stats']
    )
    return logits

  first, again, other = map(np.asarray, map(train_logits, (0, 0, 1)))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3
  evaluate = functools.partial(model.apply, train=False)
  jax.eval_shape(evaluate, variables, images)  # no key


@pytest.mark.parametrize('side', [8, 28])
def test_cnn_takes_small_images(side):
  model = models.create('cnn', num_classes=7, features=(4, 8), hidden=16)
  variables = zoo.shapes(model, (1, side, side, 1))
  assert set(variables) == {'params'}
  assert variables['params']['Dense_0/kernel'] == ((side // 4) ** 2 * 8, 16)
  assert variables['params']['Conv_1/kernel'] == (3, 3, 4, 8)


@pytest.mark.slow
def test_batch_norm_of_a_cnn_follows_each_convolution():
  model = models.create('cnn', num_classes=3, features=(4, 8), norm='batch')
  images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
  variables = zoo.initialise(model, images)
  assert 'bias' not in variables['params']['Conv_0']
  assert set(variables['batch_stats']) == {'BatchNorm_0', 'BatchNorm_1'}

  @jax.jit
  def apply(factor):
    # An output of BatchNorm does not depend on the scale of its input.
    conv = {'kernel': factor * variables['params']['Conv_1']['kernel']}
    params = variables['params'] | {'Conv_1': conv}
    scaled = {**variables, 'params': params}
    return model.apply(scaled, images, train=True, mutable=['batch_stats'])[0]

  np.testing.assert_allclose(apply(5.0), apply(1.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('activation', ['tanh', 'relu'])
def test_a_cnn_with_tanh_has_no_kinks(activation):
  model = models.create(
    'cnn', num_classes=3, features=(4,), hidden=8, activation=activation
  )
  variables = zoo.abstract_variables(model, (4, 8, 8, 1))
  images = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32)
  apply = functools.partial(model.apply, train=False)
  program = str(jax.make_jaxpr(apply)(variables, images))
  kinks = re.findall(r'\b(?:max|min|abs|reduce_window_max|relu)\b', program)
  assert bool(kinks) == (activation == 'relu')


def _trained(model, **kwargs):
  """Returns `(variables, images) -> (logits, updated)` of a training pass."""
  rngs = {'dropout': jax.random.key(0)}

  def apply(variables, images):
    return model.apply(
      variables,
      images,
      train=True,
      mutable=['batch_stats'],
      rngs=rngs,
      **kwargs,
    )

  return apply


@pytest.mark.parametrize('architecture', zoo.TINY)
@pytest.mark.parametrize(
  ('dtype', 'channels'), [(jnp.float64, 1), (jnp.bfloat16, 3)]
)
def test_any_precision_and_one_or_three_channels_are_taken(
  architecture, dtype, channels
):
  model, size = zoo.tiny(architecture)
  with jax.enable_x64(True):
    shape = (5, size, size, channels)
    variables = zoo.abstract_variables(model, shape, dtype)
    params = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, dtype), variables['params']
    )
    logits, updated = jax.eval_shape(
      _trained(model, true_gradient=True),
      {**variables, 'params': params},
      jax.ShapeDtypeStruct(shape, dtype),
    )
    assert logits.dtype == dtype and logits.shape == (5, 3)
    # Running statistics are never rounded.
    for statistic in jax.tree.leaves(updated['batch_stats']):
      assert statistic.dtype in (jnp.float32, dtype)


# Published: He et al. print .27, .46, .85 M for the thin ResNets; the decimals,
# and PreAct-18's, are those of widely used PyTorch versions (the latter's plus
# the last BatchNorm, 1,024, which He et al. have and it has not).
@pytest.mark.parametrize(
  ('name', 'count'),
  [
    ('CifarResnet20', 269_722),
    ('CifarResnet32', 464_154),
    ('CifarResnet56', 853_018),
    ('PreactResnet18', 11_171_146 + 1_024),
  ],
)
def test_cifar_resnets_have_the_published_numbers_of_parameters(name, count):
  model = models.create(name, num_classes=10)
  assert zoo.size(zoo.shapes(model)['params']) == count


def test_the_wide_resnet_32_has_the_size_of_mentormix():
  model = models.create('PreactResnet32_wide', num_classes=10)
  count = zoo.size(zoo.shapes(model)['params'])
  assert round(count / 1e6, 1) == 29.4  # PAPER.md derives it from its code


def test_pyramidnet_with_and_without_shake_drop_have_the_same_parameters():
  plain = zoo.shapes(models.create('PyramidNet11', num_classes=10))
  dropping = zoo.shapes(models.create('Pyramid_ShakeDrop_mini', num_classes=10))
  assert plain == dropping


_REMAT = [name for name in zoo.TINY if name != 'cnn']


@pytest.mark.slow
def test_remat_changes_memory_only():
  architecture = 'efficientnet'  # whose blocks draw while they are recomputed
  variables = zoo.tiny_variables(architecture)
  actual = zoo.tiny_pass(architecture, remat=True)(variables)
  expected = zoo.tiny_pass(architecture)(variables)
  # The same random draws; sums may be fused otherwise.
  scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale),
    actual,
    expected,
  )


@pytest.mark.parametrize('architecture', _REMAT)
def test_remat_keeps_less_for_the_backward_pass(architecture):
  _, size = zoo.tiny(architecture)
  images = jax.ShapeDtypeStruct((4, size, size, 3), jnp.float32)
  variables = zoo.abstract_variables(zoo.tiny(architecture)[0], images.shape)

  def kept(remat):
    model, _ = zoo.tiny(architecture, remat=remat)

    def backward(variables, images):
      apply = lambda p: _trained(model)({**variables, 'params': p}, images)[0]
      return jax.vjp(apply, variables['params'])[1]

    # Variables of the same names fit both.
    residuals = jax.eval_shape(backward, variables, images)
    return sum(leaf.size for leaf in jax.tree.leaves(residuals))

  assert kept(remat=True) < 0.8 * kept(remat=False)


@pytest.mark.parametrize('architecture', zoo.TINY)
def test_frozen_statistics_are_used_in_training_and_stay(architecture):
  model, size = zoo.tiny(architecture, norm='frozen')
  if architecture == 'efficientnet':
    model = model.clone(dropout_rate=0.0, drop_connect_rate=0.0)
  images = jax.ShapeDtypeStruct((4, size, size, 3), jnp.float32)
  variables = zoo.abstract_variables(model, images.shape)
  trained = jax.make_jaxpr(_trained(model))(variables, images).jaxpr
  # What comes out as statistics is what went in.
  assert len(trained.outvars) > 1
  assert set(trained.outvars[1:]) <= set(trained.invars)
  if not architecture.startswith('shake'):
    # Nothing is random, so training computes what evaluation does.
    evaluate = functools.partial(model.apply, train=False)
    evaluated = jax.make_jaxpr(evaluate)(variables, images).jaxpr
    names = [[str(e.primitive) for e in j.eqns] for j in (trained, evaluated)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_synced_statistics_are_those_of_the_whole_batch():
  # Without chance, so that one pass and the shards of it can be compared.
  calm = {'drop_connect_rate': 0.0, 'dropout_rate': 0.0}
  whole, size = zoo.tiny('efficientnet', **calm)
  synced, _ = zoo.tiny('efficientnet', norm='synced', norm_axes=('d',), **calm)
  images = zoo.random_images(size, 8)
  variables = zoo.tiny_variables('efficientnet')

  def apply(model, images):
    return model.apply(variables, images, train=True, mutable=['batch_stats'])

  logits, updated = jax.jit(functools.partial(apply, whole))(images)
  shards = images.reshape(4, 2, *images.shape[1:])
  on_shards = jax.vmap(functools.partial(apply, synced), axis_name='d')
  shard_logits, shard_updated = jax.jit(on_shards)(shards)
  zoo.assert_close(shard_logits.reshape(logits.shape), logits, 1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-4, atol=1e-5),
    shard_updated['batch_stats'],
    updated['batch_stats'],
  )


def test_synced_statistics_need_axes_in_training_only():
  model = models.create('cnn', num_classes=3, norm='synced')
  images = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
  variables = zoo.abstract_variables(model, images.shape)
  jax.eval_shape(functools.partial(model.apply, train=False), variables, images)
  with pytest.raises(ValueError, match="norm='synced' needs norm_axes"):
    jax.eval_shape(_trained(model), variables, images)


@pytest.mark.slow
def test_gray_images_are_shown_to_an_efficientnet_in_three_channels():
  model, size = zoo.tiny('efficientnet')
  variables = zoo.tiny_variables('efficientnet')
  gray = zoo.random_images(size)[..., :1]
  np.testing.assert_array_equal(
    zoo.predict(model, variables, gray),
    zoo.predict(model, variables, jnp.repeat(gray, 3, axis=-1)),
  )


@pytest.mark.parametrize(
  ('name', 'kwargs', 'message'),
  [
    ('WideResnet27x10', {}, r'depth must be 6n \+ 4 .*, got 27'),
    ('WideResnet4x10', {}, r'depth must be 6n \+ 4 .*, got 4'),
    ('WideResnet28x0', {}, 'width must be positive, got 0'),
    ('wide_resnet', {'depth': 28}, "'wide_resnet' needs width"),
    ('wide_resnet', {}, 'needs depth, width'),
    ('WideResnet28x10', {'depth': 40}, 'settles depth=28; do not give depth'),
    ('WideResnet_mini', {'width': 2}, 'settles width=1'),
    (
      'WideResnet28x10',
      {'norm': 'layer'},
      'known: batch, synced, frozen, none',
    ),
    ('WideResnet28x10', {'nrom': 'none'}, "no argument 'nrom'; accepted: use"),
    ('cnn', {'wdith': 3}, "'wdith'; accepted: norm, features, hidden"),
    ('cnn', {'parent': None}, "no argument 'parent'"),
    ('cnn', {'activation': 'rleu'}, 'known: relu, tanh'),
    ('cnn', {'norm': 'group'}, 'known: batch, synced, frozen, none'),
    ('PyramidNet270', {}, r'depth must be 9n \+ 2 .*, got 270'),
    ('pyramidnet', {'alpha': -1}, 'alpha must be >= 0, got -1'),
    ('PyramidNet20', {'shake_drop': True}, 'settles shake_drop=False'),
    ('ShakeShake28_2x96d', {}, r'depth must be 6n \+ 2 .*, got 28'),
    ('ShakeShake26_2x95d', {}, 'width must be even and positive, got 95'),
    ('CifarResnet18', {}, r'depth must be 6n \+ 2 .*, got 18'),
    ('resnet', {'stage_sizes': ()}, r'positive numbers of blocks, got \(\)'),
    ('resnet', {'stage_sizes': (1, 0)}, r'got \(1, 0\)'),
    ('resnet', {'stage_sizes': (1,), 'width': 0}, 'width must be positive'),
    (
      'preact_resnet',
      {'stage_sizes': (1, 1), 'stage_channels': (8,)},
      '2 stages and 1 stage_channels',
    ),
    (
      'preact_resnet',
      {'stage_sizes': (1,), 'stage_channels': (8,), 'shortcut': 'pad'},
      'known: projection, zero_pad',
    ),
    ('Resnet50', {'norm': 'none'}, 'known: batch, synced, frozen'),
    ('efficientnet-b0', {'width': 2}, 'settles width=1.0'),
    ('efficientnet-b0', {'resolution': 0}, 'must be positive, got 1.0, 1.0, 0'),
    ('efficientnet-b0', {'drop_connect_rate': 1}, r'in \[0, 1\), got 1'),
    ('efficientnet-b9', {}, "did you mean 'efficientnet-b"),
    ('cnn', {'dropout_rate': 1.0}, r'must be in \[0, 1\), got 1.0'),
    ('cnn', {'dropout_rate': -0.1}, r'must be in \[0, 1\), got -0.1'),
    ('WideResnet10x1', {'dropout_rate': 2}, 'got 2'),
    ('wideresnet_mini', {}, "did you mean 'WideResnet_mini'"),
    ('cn', {}, "did you mean 'cnn'"),
    ('transformer', {}, r'known: .*cnn.*wide_resnet'),
    ('WideResnet28x', {}, "unknown model 'WideResnet28x'"),
    ('WideResnet28x10b', {}, "unknown model 'WideResnet28x10b'"),
    ('WideResnet{depth}x{width}', {}, 'unknown model'),
  ],
)
def test_bad_names_and_arguments_are_refused_in_one_line(name, kwargs, message):
  with pytest.raises(ValueError, match=message) as error:
    models.create(name, num_classes=10, **kwargs)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('name', 'shape', 'message'),
  [
    ('WideResnet10x1', (1, 30, 32, 3), r'multiples of 4, got \[1, 30, 32, 3\]'),
    ('WideResnet10x1', (1, 32, 3), 'height, width, channels'),
    ('PyramidNet11', (1, 30, 32, 3), 'PyramidNet needs images .* of 4'),
    ('PreactResnet32_wide', (1, 30, 32, 3), 'multiples of 4, got 30x32'),
    ('cnn', (1, 3, 8, 1), 'at least 4x4, got 3x8'),
  ],
)
def test_images_that_do_not_fit_are_refused(name, shape, message):
  with pytest.raises(ValueError, match=message):
    zoo.shapes(models.create(name, num_classes=10), shape)


@pytest.fixture
def empty_registry(monkeypatch):
  monkeypatch.setattr(registry, '_REGISTRY', {})


@pytest.mark.usefixtures('empty_registry')
def test_a_class_and_a_function_register_and_create():
  @models.register('dense')
  class Dense(nn.Module):
    num_classes: int
    hidden: int = 3

  @models.register('any')
  def make(num_classes, **kwargs):
    return Dense(num_classes, **kwargs)

  assert models.names() == ['any', 'dense']
  assert models.create('dense', num_classes=2) == Dense(2)
  assert models.create('any', num_classes=2, hidden=5) == Dense(2, hidden=5)


@pytest.mark.usefixtures('empty_registry')
def test_a_pattern_passes_its_numbers_and_loses_to_an_exact_name():
  class Net(nn.Module):
    num_classes: int
    a: int
    b: int = 0

  models.register('net{a}.{b}')(Net)
  models.register('net7.7', a=-1)(Net)
  assert models.create('net12.3', num_classes=2) == Net(2, 12, 3)
  assert models.create('net7.7', num_classes=2, b=4) == Net(2, -1, 4)
  with pytest.raises(ValueError, match='unknown model'):
    models.create('net12x3', num_classes=2)


@pytest.mark.usefixtures('empty_registry')
def test_a_taken_name_is_refused():
  def make(num_classes):
    return nn.Dense(num_classes)

  models.register('mine')(make)
  with pytest.raises(ValueError, match="'mine' is registered already"):
    models.register('mine')(make)


@pytest.mark.parametrize('use_bias', [False, True])
def test_a_1x1_convolution_equals_the_general_one(use_bias):
  images = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
  layer = layers.conv(7, size=1, use_bias=use_bias)
  variables = layer.init(jax.random.key(1), images)
  if use_bias:
    variables['params']['bias'] += jnp.arange(7.0)
  general = nn.Conv(7, (1, 1), use_bias=use_bias)
  np.testing.assert_allclose(
    layer.apply(variables, images),
    general.apply(variables, images),
    rtol=1e-5,
    atol=1e-6,
  )
