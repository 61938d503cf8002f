"""What the tests of the models share: variables, fixtures, comparisons."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import models
from sam_jax.models import efficientnet, shake
from tests import reference

# Every architecture, reduced in depth and width: (name, arguments, image size).
TINY = {
  'cnn': ('cnn', {'features': (4,), 'hidden': 8, 'norm': 'batch'}, 8),
  'wide_resnet': ('WideResnet10x1', {}, 8),
  'shake_shake': ('ShakeShake8_2x4d', {}, 8),
  'pyramidnet': ('PyramidNet11', {'alpha': 12}, 8),
  'shake_drop': (
    'pyramidnet',
    {'depth': 11, 'alpha': 12, 'shake_drop': True},
    8,
  ),
  'resnet': ('resnet', {'stage_sizes': (1, 1), 'width': 4}, 16),
  'cifar_resnet': ('CifarResnet8', {}, 8),
  'preact_resnet': (
    'preact_resnet',
    {'stage_sizes': (1, 1), 'stage_channels': (4, 8), 'stem_channels': 4},
    8,
  ),
  'preact_resnet_wide': (
    'preact_resnet',
    {
      'stage_sizes': (1, 1),
      'stage_channels': (8, 16),
      'stem_channels': 4,
      'shortcut': 'zero_pad',
      'activate_first': True,
      'negative_slope': 0.1,
      'epsilon': 1e-3,
    },
    8,
  ),
  # Three blocks: without expansion, with strides, with a residual to drop.
  'efficientnet': (
    'efficientnet',
    {
      'width': 0.25,
      'depth': 1.0,
      'resolution': 16,
      'dropout_rate': 0.1,
      'stages': efficientnet.STAGES[:2],
    },
    16,
  ),
}


def tiny(architecture, num_classes=3, **kwargs):
  """Returns a reduced model and its image size."""
  name, settings, size = TINY[architecture]
  return models.create(name, num_classes=num_classes, **settings | kwargs), size


def abstract_variables(model, image_shape, dtype=jnp.float32):
  """Returns the shapes and dtypes of the variables, computing nothing."""
  init = functools.partial(model.init, train=False)
  images = jax.ShapeDtypeStruct(image_shape, dtype)
  return jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), images)


def shapes(model, image_shape=(1, 32, 32, 3)):
  """Returns {collection: {name: shape}} without computing anything."""
  # Tracing a large model takes seconds: once for all batch sizes.
  return _shapes(model, (1, *image_shape[1:]))


@functools.cache
def _shapes(model, image_shape):
  return {
    collection: {k: v.shape for k, v in reference.flatten(tree).items()}
    for collection, tree in abstract_variables(model, image_shape).items()
  }


def size(flat_shapes):
  """Returns the number of elements."""
  return sum(int(np.prod(shape)) for shape in flat_shapes.values())


def initialise(model, images, seed=0):
  """Returns freshly initialised variables."""
  init = jax.jit(functools.partial(model.init, train=False))
  # This generator compiles several times faster than threefry.
  return init(jax.random.key(seed, impl='unsafe_rbg'), images)


def hash_filled(model, image_shape, salt, gain):
  """Returns the variables of a hash-filled fixture."""
  found = shapes(model, image_shape)
  params = {
    k: reference.fill(k, shape, int(salt), round(float(gain), 6))
    for k, shape in found['params'].items()
  }
  stats = {
    k: reference.fill(k, shape, int(salt))
    for k, shape in found['batch_stats'].items()
  }
  return {
    'params': reference.unflatten(params),
    'batch_stats': reference.unflatten(stats),
  }


def predict(model, variables, images):
  """Returns the logits of evaluation, compiled."""
  return jax.jit(functools.partial(model.apply, train=False))(variables, images)


def loss_and_grad(model, images, one_hot, **kwargs):
  """Returns a compiled `(variables, seed) -> ((loss, aux), grads)`.

  aux is (logits, updated batch_stats).
  """

  def loss_fn(params, batch_stats, seed):
    logits, updated = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      images,
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(seed)},
      **kwargs,
    )
    loss = -(one_hot * jax.nn.log_softmax(logits)).sum(-1).mean()
    return loss, (logits, updated.get('batch_stats', {}))

  grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))

  def run(variables, seed=0):
    return grad_fn(
      variables['params'], variables.get('batch_stats', {}), np.uint32(seed)
    )

  return run


def random_images(size, batch_size=4):
  """Returns the same standard normal images each time."""
  return jax.random.normal(jax.random.key(1), (batch_size, size, size, 3))


@functools.cache
def tiny_variables(architecture):
  """Returns the initial variables of a reduced model."""
  model, size = tiny(architecture)
  return initialise(model, random_images(size))


@functools.cache
def tiny_pass(architecture, true_gradient=False, **kwargs):
  """Returns a compiled training pass of a reduced model on random images.

  `(variables, seed) -> {loss, logits, stats, grads}`; compiled once for all
  tests.
  """
  model, size = tiny(architecture, **kwargs)
  one_hot = jax.nn.one_hot(jnp.arange(4) % 3, 3)
  grad_fn = loss_and_grad(
    model, random_images(size), one_hot, true_gradient=true_gradient
  )

  def run(variables, seed=0):
    (loss, (logits, stats)), grads = grad_fn(variables, seed)
    return {'loss': loss, 'logits': logits, 'stats': stats, 'grads': grads}

  return run


def assert_close(actual, expected, relative):
  """Compares to a fraction of the largest expected magnitude."""
  atol = relative * np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def inject_gates(monkeypatch, gates):
  """Replaces the draws of Shake-Shake and ShakeDrop by a fixture's.

  The fixtures' rows are in the order of execution, as the blocks are.
  """

  def draw_weights(key, num_blocks, batch_size):
    del key
    draws = gates['gate_forward'], gates['gate_backward']
    assert draws[0].shape == (num_blocks, batch_size)
    return tuple(map(jnp.asarray, draws))

  def draw_drops(key, keep_probabilities, batch_size):
    del key
    assert gates['mask'].shape == (len(keep_probabilities), batch_size)
    kept, alpha, beta = (gates[name] for name in ('mask', 'alpha', 'beta'))
    return jnp.asarray(kept > 0), jnp.asarray(alpha), jnp.asarray(beta)

  monkeypatch.setattr(shake, 'shake_shake_draws', draw_weights)
  monkeypatch.setattr(shake, 'shake_drop_draws', draw_drops)
