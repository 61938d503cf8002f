"""Architectures through the real loop and the real step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import datasets, models
from sam_jax.datasets import registry as datasets_registry
from sam_jax.models import registry as models_registry
from tests import reference, tiny, zoo

CLASSES = 3
BATCH = 8


def _images_and_labels(size):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)
  return images, np.arange(BATCH, dtype=np.int32) % CLASSES


def _load(directory, seed, *, size=8):
  """A loader whose training data are one batch."""
  del directory, seed
  examples = datasets.Examples(*_images_and_labels(size))
  return datasets.Source(examples, examples, CLASSES, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(autouse=True)
def one_batch(monkeypatch):
  """Registers the data set, and makes room for models."""
  for registry, name in (
    (datasets_registry, '_LOADERS'),
    (models_registry, '_REGISTRY'),
  ):
    monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
  datasets.register('one_batch')(_load)


# The fields of tiny's network, which no other one has.
_NO_CNN = dict.fromkeys(
  f'model.{name}'
  for name in ('features', 'hidden', 'norm', 'activation', 'dropout_rate')
)


def _fields(**fields):
  """The fields of 4 steps of SAM, each on the whole data set."""
  return (
    _NO_CNN
    | {
      'data.name': 'one_batch',
      'data.train_size': None,
      'batch_size': BATCH,
      'm': BATCH,
      'microbatch_size': BATCH,
      'num_epochs': 4,
      'learning_rate': 0.003,
      'schedule.name': 'constant',
      'augmentation.name': 'none',
      'augmentation.cutout_length': 0,
      'weight_decay.rate': 0.0,
      'checkpoint.every_steps': 1,
      'checkpoint.max_to_keep': 4,
    }
    | fields
  )


# The release's numbers hold the gradients of the others.
_COMPILED_SLOWLY = ('cifar_resnet', 'preact_resnet_wide')


def _mean_loss_fn(model, size):
  """Returns a compiled function of a state: the loss that training sees.

  What a step logs of a stochastic network is the loss under draws of its own,
  in which a small step drowns. Here all states meet the same draws, and the
  loss is the mean over 16. Statistics are those of the batch, as in the step:
  the running ones have hardly begun to move.
  """
  images, labels = _images_and_labels(size)
  images = jnp.float32(images) / 255 / 0.25 - 2
  keys = jax.random.split(jax.random.key(1), 16)

  @jax.jit
  def mean_loss(variables):
    def loss(key):
      logits, _ = model.apply(
        variables,
        images,
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': key},
      )
      log_probs = jax.nn.log_softmax(logits)
      return -jnp.take_along_axis(log_probs, labels[:, None], -1).mean()

    return jax.vmap(loss)(keys).mean()

  names = ('params', 'batch_stats')
  return lambda state: float(mean_loss({name: state[name] for name in names}))


@pytest.mark.slow
@pytest.mark.parametrize(
  'architecture',
  ['cnn', *(pytest.param(a, marks=pytest.mark.slow) for a in _COMPILED_SLOWLY)],
)
def test_every_step_on_one_batch_lowers_its_loss(
  monkeypatch, tmp_path, architecture
):
  tiny.use_devices(monkeypatch, 1)
  name, settings, size = zoo.TINY[architecture]
  models.register('reduced')(functools.partial(models.create, name, **settings))
  fields = _fields(**{'model.name': 'reduced', 'data.size': size})
  tiny.train(tmp_path, **fields)
  states = [tiny.state(tmp_path, step) for step in (1, 2, 3, 4)]
  model, _ = zoo.tiny(architecture)
  walked = list(map(_mean_loss_fn(model, size), states))
  assert np.isfinite(walked).all()
  assert (np.diff(walked) < 0).all()
  first, last = (reference.flatten(states[i]['params']) for i in (0, -1))
  assert first.keys() == last.keys()
  assert [k for k in first if np.array_equal(first[k], last[k])] == []
