import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import zoo
from flax import linen as nn

from sam_jax import models
from sam_jax.models import layers, registry


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
    (16, 1, None),
    (28, 1, None),
    (16, 4, None),
    (40, 2, 2.2),
    (40, 4, 8.9),
    (16, 8, 11.0),
    (28, 10, 36.5),
    (40, 10, None),
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


def test_batch_stats_start_at_mean_0_and_variance_1():
  model = models.create('WideResnet_mini', num_classes=10)
  variables = zoo.initialise(model, jnp.ones((2, 32, 32, 3)))
  for name, value in reference.flatten(variables['batch_stats']).items():
    assert np.all(np.asarray(value) == (1.0 if name.endswith('var') else 0.0))


def test_wide_resnet_without_batch_norm_keeps_its_scale_at_depth_40():
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
    return [float(jnp.std(value[0])) for value in outputs.values()]

  deep, shallow = scales(40), scales(10)
  assert np.all(np.isfinite(deep)) and min(deep) > 1e-3
  # 18 unscaled branches would multiply the largest scale by tens.
  assert max(deep) < 2 * max(shallow)


def test_wide_resnet_without_batch_norm_learns():
  images = jax.random.normal(jax.random.key(1), (8, 8, 8, 1))
  labels = jnp.arange(8) % 4
  model = models.create(
    'wide_resnet', num_classes=4, depth=10, width=1, norm='none'
  )
  params = zoo.initialise(model, images)['params']

  def loss_fn(params):
    logits = model.apply({'params': params}, images, train=True)
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probs, labels[:, None], -1).mean()

  @jax.jit
  def step(params):
    loss, grads = jax.value_and_grad(loss_fn)(params)
    return jax.tree.map(lambda p, g: p - 0.2 * g, params, grads), loss

  losses = []
  for _ in range(40):
    params, loss = step(params)
    losses.append(float(loss))
  assert losses[-1] < 0.5 * losses[0]


def test_additional_skip_connections_change_the_output():
  images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  without = models.create('WideResnet10x1', num_classes=3)
  added = models.create(
    'WideResnet10x1', num_classes=3, use_additional_skip_connections=True
  )
  variables = zoo.initialise(without, images)
  logits = zoo.predict(without, variables, images)
  logits_added = zoo.predict(added, variables, images)
  assert np.abs(logits - logits_added).max() > 1e-3


@pytest.mark.parametrize(
  ('name', 'kwargs'),
  [
    ('WideResnet10x1', {'dropout_rate': 0.5}),
    ('cnn', {'dropout_rate': 0.5, 'norm': 'batch', 'activation': 'tanh'}),
  ],
)
def test_dropout_follows_its_key_in_training_only(name, kwargs):
  images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
  model = models.create(name, num_classes=3, **kwargs)
  variables = zoo.initialise(model, images)

  @jax.jit
  def train_logits(seed):
    rngs = {'dropout': jax.random.key(seed, impl='unsafe_rbg')}
    logits, _ = model.apply(
      variables, images, train=True, rngs=rngs, mutable=['batch_stats']
    )
    return logits

  np.testing.assert_array_equal(train_logits(0), train_logits(0))
  assert np.abs(train_logits(0) - train_logits(1)).max() > 1e-3
  zoo.predict(model, variables, images)  # no key


@pytest.mark.parametrize('image_shape', [(8, 8, 1), (28, 28, 1)])
def test_cnn_takes_small_images_and_gives_float32_logits(image_shape):
  model = models.create('cnn', num_classes=7, features=(4, 8), hidden=16)
  images = jnp.ones((3, *image_shape))
  variables = zoo.initialise(model, images)
  assert set(variables) == {'params'}
  side = image_shape[0] // 4
  shapes = {
    k: v.shape for k, v in reference.flatten(variables['params']).items()
  }
  assert shapes['Dense_0/kernel'] == (side * side * 8, 16)
  assert shapes['Conv_1/kernel'] == (3, 3, 4, 8)
  logits = model.apply(variables, images, train=True)
  assert logits.shape == (3, 7)
  assert logits.dtype == jnp.float32


def test_cnn_with_batch_norm_normalises_and_keeps_moving_averages():
  model = models.create('cnn', num_classes=3, features=(4, 8), norm='batch')
  images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
  variables = zoo.initialise(model, images)
  assert 'bias' not in variables['params']['Conv_0']
  logits, updated = model.apply(
    variables, images, train=True, mutable=['batch_stats']
  )
  # An output of BatchNorm does not depend on the scale of its input.
  scaled, _ = model.apply(
    variables, 5 * images, train=True, mutable=['batch_stats']
  )
  np.testing.assert_allclose(scaled, logits, rtol=1e-3, atol=1e-3)  # eps
  kernel = variables['params']['Conv_0']['kernel']
  convolved = jax.lax.conv_general_dilated(
    images, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  mean = updated['batch_stats']['BatchNorm_0']['mean']
  expected = 0.1 * convolved.mean((0, 1, 2))
  np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-6)


def test_cnn_with_tanh_and_batch_norm_is_smooth():
  model = models.create(
    'cnn',
    num_classes=3,
    features=(4,),
    hidden=8,
    activation='tanh',
    norm='batch',
  )
  with jax.enable_x64(True):
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1), jnp.float64)
    variables = zoo.initialise(model, images)
    params = jax.tree.map(lambda x: x.astype(jnp.float64), variables['params'])

    def loss_fn(t):
      moved = jax.tree.map(lambda p: p + t * jnp.cos(9 * p), params)
      logits, _ = model.apply(
        {**variables, 'params': moved},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      return jax.nn.logsumexp(logits, axis=-1).mean()

    slope_fn = jax.grad(loss_fn)
    points = jnp.linspace(-0.5, 0.5, 401)
    slopes = np.asarray(jax.jit(jax.vmap(slope_fn))(points))
    curvature_fn = jax.jit(jax.vmap(jax.grad(slope_fn)))
    curvatures = np.asarray(curvature_fn(points))
  # Where the network has a kink the slope jumps, by more than the curvature on
  # both sides accounts for: by the trapezoidal rule, whose own error is O(h^3).
  curvatures = (curvatures[1:] + curvatures[:-1]) / 2
  jumps = np.abs(np.diff(slopes) - curvatures / 400)
  assert jumps.max() < 1e-5 * np.abs(slopes).max()


def _apply_shape(model, variables, images, **kwargs):
  """Traces a training pass; returns the shape and dtype of the logits."""

  def apply(variables, images, seed):
    return model.apply(
      variables,
      images,
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(seed)},
      **kwargs,
    )

  seed = jax.ShapeDtypeStruct((), jnp.uint32)
  return jax.eval_shape(apply, variables, images, seed)


@pytest.mark.parametrize('architecture', zoo.TINY)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.float64, jnp.bfloat16])
def test_models_compute_in_the_precision_of_params_and_images(
  architecture, dtype
):
  model, size = zoo.tiny(architecture)
  with jax.enable_x64(True):
    images = jax.ShapeDtypeStruct((2, size, size, 1), dtype)
    key = jax.eval_shape(jax.random.key, 0)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, key, images)
    params = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, dtype), variables['params']
    )
    for true_gradient in (False, True):
      logits, updated = _apply_shape(
        model,
        {**variables, 'params': params},
        images,
        true_gradient=true_gradient,
      )
      assert logits.dtype == dtype and logits.shape == (2, 3)
      # Running statistics are never rounded.
      for statistic in jax.tree.leaves(updated['batch_stats']):
        assert statistic.dtype in (jnp.float32, dtype)


@pytest.mark.parametrize('architecture', zoo.TINY)
def test_channels_of_one_and_three_and_any_batch_are_taken(architecture):
  model, size = zoo.tiny(architecture)
  for channels in (1, 3):
    images = jax.ShapeDtypeStruct((5, size, size, channels), jnp.float32)
    variables = jax.eval_shape(
      functools.partial(model.init, train=False), jax.random.key(0), images
    )
    logits, _ = _apply_shape(model, variables, images)
    assert logits.shape == (5, 3)


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


def _slow_but(fast, architectures=tuple(zoo.TINY)):
  """Marks architectures slow, except for some: XLA:CPU compiles slowly."""
  return [
    name if name in fast else pytest.param(name, marks=pytest.mark.slow)
    for name in architectures
  ]


_REMAT = [name for name in zoo.TINY if name != 'cnn']


@pytest.mark.parametrize(
  'architecture', _slow_but(('wide_resnet', 'shake_drop'), _REMAT)
)
def test_remat_changes_memory_only(architecture):
  variables = zoo.tiny_variables(architecture)
  actual = zoo.tiny_pass(architecture, remat=True)(variables)
  expected = zoo.tiny_pass(architecture)(variables)
  # The same random draws; sums may be fused otherwise.
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale),
    actual,
    expected,
  )


@pytest.mark.parametrize('architecture', _REMAT)
def test_remat_keeps_less_for_the_backward_pass(architecture):
  def kept(remat):
    model, size = zoo.tiny(architecture, remat=remat)
    images = jax.ShapeDtypeStruct((4, size, size, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)

    def backward(variables, images):
      def loss_fn(params):
        logits, _ = model.apply(
          {**variables, 'params': params},
          images,
          train=True,
          rngs={'dropout': jax.random.key(0)},
          mutable=['batch_stats'],
        )
        return logits

      return jax.vjp(loss_fn, variables['params'])[1]

    residuals = jax.eval_shape(backward, variables, images)
    return sum(leaf.size for leaf in jax.tree.leaves(residuals))

  assert kept(remat=True) < 0.8 * kept(remat=False)


@pytest.mark.parametrize(
  'architecture', _slow_but(('cnn', 'wide_resnet', 'resnet', 'shake_drop'))
)
def test_frozen_statistics_are_used_in_training_and_stay(architecture):
  variables = zoo.tiny_variables(architecture)
  stats = jax.tree.map(
    lambda x: x + jax.random.uniform(jax.random.key(2), x.shape),
    variables['batch_stats'],
  )
  variables = {**variables, 'batch_stats': stats}
  found = zoo.tiny_pass(architecture, norm='frozen')(variables)
  jax.tree.map(np.testing.assert_array_equal, found['stats'], stats)
  if architecture not in ('shake_shake', 'shake_drop', 'efficientnet'):
    # Nothing is random, so training computes what evaluation does.
    model, size = zoo.tiny(architecture)
    logits = zoo.predict(model, variables, zoo.random_images(size))
    zoo.assert_close(found['logits'], logits, 1e-5)


@pytest.mark.parametrize(
  'architecture',
  _slow_but(('wide_resnet',), ('wide_resnet', 'efficientnet')),
)
def test_synced_statistics_are_those_of_the_whole_batch(architecture):
  # Without chance, so that one pass and the shards of it can be compared.
  calm = {'drop_connect_rate': 0} if architecture == 'efficientnet' else {}
  settings = {**zoo.TINY[architecture][1], **calm}
  settings |= {'dropout_rate': 0}
  name, _, size = zoo.TINY[architecture]
  images = zoo.random_images(size, 8)
  whole = models.create(name, num_classes=3, **settings)
  synced = models.create(
    name, num_classes=3, norm='synced', norm_axes=('d',), **settings
  )
  variables = zoo.initialise(whole, images)

  def apply(model, variables, images):
    return model.apply(variables, images, train=True, mutable=['batch_stats'])

  logits, updated = jax.jit(functools.partial(apply, whole))(variables, images)
  shards = images.reshape(4, 2, *images.shape[1:])
  shard_logits, shard_updated = jax.vmap(
    functools.partial(apply, synced, variables), axis_name='d'
  )(shards)
  zoo.assert_close(shard_logits.reshape(logits.shape), logits, 1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-4, atol=1e-5),
    shard_updated['batch_stats'],
    updated['batch_stats'],
  )


def test_synced_statistics_need_axes_in_training_only():
  model = models.create('cnn', num_classes=3, norm='synced')
  images = jnp.ones((2, 8, 8, 1))
  variables = zoo.initialise(model, images)
  zoo.predict(model, variables, images)
  with pytest.raises(ValueError, match="norm='synced' needs norm_axes"):
    model.apply(variables, images, train=True, mutable=['batch_stats'])


def test_gray_images_are_shown_to_an_efficientnet_in_three_channels():
  model, size = zoo.tiny('efficientnet')
  gray = jax.random.normal(jax.random.key(0), (2, size, size, 1))
  variables = zoo.initialise(model, gray)
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
  def make(num_classes, a, b=0):
    return (num_classes, a, b)

  models.register('net{a}.{b}')(make)
  models.register('net7.7', a=-1)(make)
  assert models.create('net12.3', num_classes=2) == (2, 12, 3)
  assert models.create('net7.7', num_classes=2, b=4) == (2, -1, 4)
  with pytest.raises(ValueError, match='unknown model'):
    models.create('net12x3', num_classes=2)


@pytest.mark.usefixtures('empty_registry')
def test_a_taken_name_is_refused():
  models.register('mine')(nn.Dense)
  with pytest.raises(ValueError, match="'mine' is registered already"):
    models.register('mine')(nn.Dense)


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
