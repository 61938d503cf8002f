import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import linen as nn

from sam_jax import models
from sam_jax.models import registry

# All WideResNets that the release's tables hold.
OFFICIAL_WIDE_RESNETS = (
  'WideResnet28x10/10',
  'WideResnet28x10/100',
  'WideResnet_mini/10',
  'WideResnet_mini/100',
)


def _shapes(model, image_shape=(1, 32, 32, 3)):
  """Returns {collection: {name: shape}} without computing anything."""
  init = functools.partial(model.init, train=False)
  images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
  variables = jax.eval_shape(init, jax.random.key(0), images)
  return {
    collection: {k: v.shape for k, v in reference.flatten(tree).items()}
    for collection, tree in variables.items()
  }


def _size(shapes):
  return sum(int(np.prod(shape)) for shape in shapes.values())


def _initialise(model, images, seed=0):
  init = jax.jit(functools.partial(model.init, train=False))
  # This generator compiles several times faster than threefry.
  return init(jax.random.key(seed, impl='unsafe_rbg'), images)


def _predict(model, variables, images):
  return model.apply(variables, images, train=False)


def _hash_filled(model, image_shape, salt, gain):
  shapes = _shapes(model, image_shape)
  params = {
    k: reference.fill(k, shape, salt, round(float(gain), 6))
    for k, shape in shapes['params'].items()
  }
  stats = {
    k: reference.fill(k, shape, salt)
    for k, shape in shapes['batch_stats'].items()
  }
  return {
    'params': reference.unflatten(params),
    'batch_stats': reference.unflatten(stats),
  }


def _assert_close(actual, expected, relative):
  """Compares to a fraction of the largest expected magnitude."""
  atol = relative * np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def _load_mini(skip):
  """Returns model, variables and expected arrays of a 16x1 fixture."""
  if skip:
    arrays = reference.load('model_variants.npz')
    arrays = reference.select(arrays, 'skip')
  else:
    arrays = reference.load('model_WideResnet_mini.npz')
  model = models.create(
    'WideResnet_mini', num_classes=10, use_additional_skip_connections=skip
  )
  params = reference.unflatten(reference.select(arrays, 'params'))
  stats = reference.unflatten(reference.select(arrays, 'state'))
  return model, {'params': params, 'batch_stats': stats}, arrays


@pytest.mark.parametrize('skip', [False, True])
def test_mini_gives_the_official_eval_logits(skip):
  model, variables, expected = _load_mini(skip)
  logits = _predict(model, variables, expected['x'])
  assert logits.dtype == jnp.float32
  # Two XLA versions sum in different orders: seen 4e-7.
  _assert_close(logits, expected['eval_logits'], 1e-5)


@pytest.mark.parametrize('skip', [False, True])
def test_mini_trains_as_the_official_one(skip):
  model, variables, expected = _load_mini(skip)

  def loss_fn(params, batch_stats):
    logits, updated = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      expected['x'],
      train=True,
      mutable=['batch_stats'],
    )
    log_probs = jax.nn.log_softmax(logits)
    loss = -(expected['y'] * log_probs).sum(-1).mean()
    return loss, (logits, updated['batch_stats'])

  grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  (loss, (logits, stats)), grads = grad_fn(
    variables['params'], variables['batch_stats']
  )
  grads = reference.flatten(grads)

  np.testing.assert_allclose(loss, expected['train/loss'], rtol=1e-5)
  _assert_close(logits, expected['train/logits'], 1e-5)
  _assert_same_statistics(reference.flatten(stats), expected)
  _assert_same_gradients(grads, expected)


def _assert_same_statistics(stats, expected):
  expected = reference.select(expected, 'train/state')
  assert set(stats) == set(expected)
  for name, value in expected.items():
    _assert_close(stats[name], value, 1e-4)  # reference/README.md, section 2


def _assert_same_gradients(grads, expected):
  names, norms, dots = reference.grad_summary(grads)
  assert names == expected['train/grad_names'].tolist()
  # ReLU units near zero flip (reference/README.md, section 2): seen 2e-4 of
  # the norm and 2e-3 of the projection.
  np.testing.assert_allclose(norms, expected['train/grad_norm'], rtol=1e-2)
  assert np.all(np.abs(dots - expected['train/grad_dot']) < 3e-2 * norms)
  for name, grad in reference.select(expected, 'train/grad').items():
    error = np.linalg.norm(grads[name] - grad)
    assert error <= 3e-2 * np.linalg.norm(grad), name


def test_mini_on_fashion_mnist_gives_the_official_logits():
  expected = reference.load('model_variants.npz')
  fixture = reference.select(expected, 'fmnist_WideResnet_mini')
  model = models.create('WideResnet_mini', num_classes=10)
  variables = _hash_filled(
    model, fixture['x'].shape, expected['fill_salt'], expected['fill_gain']
  )
  logits = _predict(model, variables, fixture['x'])
  _assert_close(logits, fixture['eval_logits'], 1e-4)


def test_full_size_wide_resnet_gives_the_official_logits():
  fixture = reference.load('big_WideResnet28x10.npz')
  model = models.create('WideResnet28x10', num_classes=10)
  variables = _hash_filled(
    model, fixture['x'].shape, fixture['fill_salt'], fixture['fill_gain']
  )
  logits = _predict(model, variables, fixture['x'])
  _assert_close(logits, fixture['eval_logits'], 1e-4)


@pytest.mark.parametrize('skip', [False, True])
@pytest.mark.parametrize('key', OFFICIAL_WIDE_RESNETS)
def test_wide_resnets_have_the_official_names_and_shapes(key, skip):
  name, num_classes = key.split('/')
  model = models.create(
    name, num_classes=int(num_classes), use_additional_skip_connections=skip
  )
  shapes = _shapes(model)
  expected = reference.names_shapes()[key]
  counts = reference.load_json('param_counts.json')[key]
  assert shapes['params'] == {k: tuple(s) for k, s in expected['params']}
  assert shapes['batch_stats'] == {
    k: tuple(s) for k, s in expected['batch_stats_in_call_order']
  }
  assert _size(shapes['params']) == counts['total']
  assert _size(shapes['batch_stats']) == counts['batch_stats_total']


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
  count = _size(_shapes(by_name)['params'])
  assert count == _expected_parameters(depth, width, 10)
  if millions is not None:
    assert 0.95 * millions < count / 1e6 < 1.02 * millions


def test_initialisation_has_the_official_statistics():
  expected = reference.load('model_WideResnet_mini.npz')
  model = models.create('WideResnet_mini', num_classes=10)
  variables = _initialise(model, jnp.zeros((1, 32, 32, 3)))
  params = reference.flatten(variables['params'])
  assert sorted(params) == sorted(expected['init_names'].tolist())
  for i, name in enumerate(expected['init_names'].tolist()):
    _assert_same_distribution(
      np.asarray(params[name]),
      expected['init_mean'][i],
      expected['init_std'][i],
      expected['init_max'][i],
    )


def _assert_same_distribution(sample, mean, std, largest):
  if std == 0:
    assert np.all(sample == mean)
    return
  # Two samples of n values: means differ by std sqrt(2/n), standard deviations
  # by at most std/sqrt(n); five of those is never met by chance.
  bound = 5 * std * (2 / sample.size) ** 0.5
  assert abs(sample.mean() - mean) < bound
  assert abs(sample.std() - std) < bound
  # Tells a uniform, a normal and a truncated normal distribution apart.
  assert 0.7 < np.abs(sample).max() / largest < 1.4


def test_batch_stats_start_at_mean_0_and_variance_1():
  model = models.create('WideResnet_mini', num_classes=10)
  variables = _initialise(model, jnp.ones((2, 32, 32, 3)))
  for name, value in reference.flatten(variables['batch_stats']).items():
    assert np.all(np.asarray(value) == (1.0 if name.endswith('var') else 0.0))


def test_wide_resnet_without_batch_norm_keeps_its_scale_at_depth_40():
  images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))

  def scales(depth):
    model = models.create(
      'wide_resnet', num_classes=10, depth=depth, width=1, norm='none'
    )
    variables = _initialise(model, images)
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
  params = _initialise(model, images)['params']

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
  variables = _initialise(without, images)
  predict = jax.jit(_predict, static_argnums=0)
  logits = predict(without, variables, images)
  logits_added = predict(added, variables, images)
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
  variables = _initialise(model, images)

  @jax.jit
  def train_logits(seed):
    rngs = {'dropout': jax.random.key(seed, impl='unsafe_rbg')}
    logits, _ = model.apply(
      variables, images, train=True, rngs=rngs, mutable=['batch_stats']
    )
    return logits

  np.testing.assert_array_equal(train_logits(0), train_logits(0))
  assert np.abs(train_logits(0) - train_logits(1)).max() > 1e-3
  jax.jit(_predict, static_argnums=0)(model, variables, images)  # no key


@pytest.mark.parametrize('image_shape', [(8, 8, 1), (28, 28, 1)])
def test_cnn_takes_small_images_and_gives_float32_logits(image_shape):
  model = models.create('cnn', num_classes=7, features=(4, 8), hidden=16)
  images = jnp.ones((3, *image_shape))
  variables = _initialise(model, images)
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
  variables = _initialise(model, images)
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
    variables = _initialise(model, images)
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


@pytest.mark.parametrize('name', ['cnn', 'WideResnet10x1'])
def test_every_model_takes_true_gradient(name):
  images = jnp.ones((2, 8, 8, 1))
  model = models.create(name, num_classes=3)
  variables = _initialise(model, images)
  plain, true = (
    model.apply(variables, images, train=False, true_gradient=flag)
    for flag in (False, True)
  )
  np.testing.assert_array_equal(plain, true)


@pytest.mark.parametrize('name', ['cnn', 'WideResnet10x1'])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.float64])
def test_models_compute_in_the_precision_of_params_and_images(name, dtype):
  model = models.create(name, num_classes=3)
  with jax.enable_x64(True):
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), dtype)
    key = jax.eval_shape(jax.random.key, 0)
    init = functools.partial(model.init, train=False)
    variables = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, dtype),
      jax.eval_shape(init, key, images),
    )
    apply = functools.partial(model.apply, train=False)
    logits = jax.eval_shape(apply, variables, images)
  assert logits.dtype == dtype


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
    ('WideResnet28x10', {'norm': 'layer'}, 'known: batch, none'),
    ('WideResnet28x10', {'nrom': 'none'}, "no argument 'nrom'; accepted: use"),
    ('cnn', {'wdith': 3}, "'wdith'; accepted: features, hidden, activation"),
    ('cnn', {'parent': None}, "no argument 'parent'"),
    ('cnn', {'activation': 'rleu'}, 'known: relu, tanh'),
    ('cnn', {'norm': 'group'}, 'known: batch, none'),
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
    ('cnn', (1, 3, 8, 1), 'at least 4x4, got 3x8'),
  ],
)
def test_images_that_do_not_fit_are_refused(name, shape, message):
  with pytest.raises(ValueError, match=message):
    _shapes(models.create(name, num_classes=10), shape)


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
