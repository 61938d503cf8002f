import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import datasets, models, tasks
from sam_jax.runs import evaluation
from sam_jax.training import layout, parallel
from tests import oracle, reference

NUM_EXAMPLES = 797
CLASSES = 10


def _task(preprocess=lambda images: images.astype(jnp.float32)):
  """Returns the classification of any arrays."""
  info = {
    'num_classes': CLASSES,
    'image_shape': (2, 2, 1),
    'mean': (0,),
    'std': (1,),
  }
  task = tasks.ImageClassification(None, info)
  task.preprocess = lambda batch: {**batch, 'image': preprocess(batch['image'])}
  return task


def _compile(apply_fn, num_devices, parallel_name='shard_map', preprocess=None):
  """Returns the compiled step and how to put a batch on the devices."""
  runs_on = parallel.create(
    parallel_name,
    layout.create(num_devices, num_devices, 1, 1),
    jax.devices()[:num_devices],
  )
  step = functools.partial(
    evaluation.eval_step,
    apply_fn=apply_fn,
    task=_task(preprocess) if preprocess else _task(),
    collectives=runs_on.collectives,
  )
  return runs_on, runs_on.compile(step, num_replicated=1, num_donated=0)


@pytest.mark.parametrize('masked', [False, True])
def test_the_step_sums_as_the_official_one(masked):
  official = reference.select(reference.load('misc.npz'), 'eval_step')
  model = models.create('WideResnet_mini', num_classes=10)
  shapes = jax.eval_shape(
    functools.partial(model.init, train=False),
    jax.random.key(0),
    jnp.zeros((1, 32, 32, 3)),
  )
  variables = _hash_filled(shapes, official['fill_salt'], official['fill_gain'])
  runs_on, step = _compile(model.apply, 4)
  mask = official['mask'] if masked else np.ones(12)
  batch = {
    'image': official['x'],
    'label': official['y'].argmax(-1).astype(np.int32),
    'mask': mask.astype(np.float32),
  }
  sums = step(variables, runs_on.shard(batch))
  expected = reference.select(official, 'mask' if masked else 'nomask')
  # 1e-4 of the logits is what two backends agree to (reference/README.md).
  np.testing.assert_allclose(sums['loss'], expected['loss'], rtol=1e-4)
  assert sums['error_rate'] == expected['error_rate']
  assert sums['count'] == mask.sum()
  assert expected['top_5_error_rate'] < 0 <= sums['top5_error_rate']


def _hash_filled(shapes, salt, gain):
  """Returns the reference's variables for a model's shapes."""
  flat = {
    collection: reference.flatten(tree) for collection, tree in shapes.items()
  }
  gains = {'params': round(float(gain), 6), 'batch_stats': 1.0}
  return {
    collection: reference.unflatten(
      {
        name: reference.fill(name, leaf.shape, salt, gains[collection])
        for name, leaf in leaves.items()
      }
    )
    for collection, leaves in flat.items()
  }


@pytest.fixture(scope='module')
def examples():
  rng = np.random.default_rng(1)
  return datasets.Examples(
    rng.integers(256, size=(NUM_EXAMPLES, 2, 2, 1), dtype=np.uint8),
    rng.integers(CLASSES, size=NUM_EXAMPLES, dtype=np.int32),
  )


WEIGHTS = np.random.default_rng(2).normal(size=(4, CLASSES)).astype(np.float32)


def _linear(variables, images, train):
  """A model in one line."""
  assert not train
  return images.reshape(images.shape[0], -1) @ variables['w'] / 100


@pytest.mark.parametrize('parallel_name', ['shard_map', 'pmap'])
@pytest.mark.parametrize('num_devices', [1, 2, 8])
def test_evaluation_is_exact_for_any_batch_size_and_device_count(
  examples, num_devices, parallel_name
):
  images, labels, _ = examples
  logits = images.reshape(NUM_EXAMPLES, -1).astype(np.float64) @ WEIGHTS / 100
  expected = {k: v.mean() for k, v in oracle.metrics(logits, labels).items()}
  runs_on, step = _compile(_linear, num_devices, parallel_name)
  variables = runs_on.replicate({'w': WEIGHTS})
  for batch_size in (64, 104, 1000):
    sums = evaluation.run(
      step,
      variables,
      datasets.eval_batches(examples, batch_size),
      runs_on.shard,
    )
    fetched = runs_on.unreplicate(jax.device_get(sums))
    actual = evaluation.summarize(fetched, _task())
    assert actual.keys() == expected.keys()
    assert actual['error_rate'] == expected['error_rate']
    assert actual['top5_error_rate'] == expected['top5_error_rate']
    # Sums of a thousand float32 numbers.
    np.testing.assert_allclose(actual['loss'], expected['loss'], rtol=1e-6)


def test_what_fills_up_a_batch_does_not_count_even_if_it_gives_nan():
  def apply_fn(variables, images, train):
    flat = images.reshape(images.shape[0], -1)
    return jnp.where(flat[:, :1] == 255, jnp.nan, flat @ variables['w'])

  runs_on, step = _compile(apply_fn, 1)
  batch = {
    'image': np.array([1, 2, 255, 255], np.uint8).reshape(4, 1, 1, 1),
    'label': np.zeros(4, np.int32),
    'mask': np.array([1, 1, 0, 0], np.float32),
  }
  sums = step({'w': jnp.ones((1, 6))}, runs_on.shard(batch))
  assert sums['count'] == 2
  np.testing.assert_allclose(sums['loss'], 2 * np.log(6), rtol=1e-6)
  assert sums['error_rate'] == sums['top5_error_rate'] == 0


def test_images_are_normalised_before_the_model_sees_them():
  seen = []

  def apply_fn(variables, images, train):
    seen.append(images)
    return images.reshape(-1, 1) + variables['b'][None]

  runs_on, step = _compile(apply_fn, 1, preprocess=lambda images: images - 7.0)
  batch = {
    'image': np.full((1, 1, 1, 1), 9, np.uint8),
    'label': np.zeros(1, np.int32),
    'mask': np.ones(1, np.float32),
  }
  sums = step({'b': jnp.array([0.0, 1.0])}, runs_on.shard(batch))
  # Logits 2 and 3, whatever is added to both.
  np.testing.assert_allclose(sums['loss'], np.log1p(np.e), rtol=1e-6)
  assert len(seen) == 1


@pytest.mark.parametrize('batch_size', [64, 1000])
def test_predictions_are_one_row_per_example_in_order(examples, batch_size):
  batches = datasets.eval_batches(examples, batch_size)
  parts = list(evaluation.predict(_linear, {'w': WEIGHTS}, _task(), batches))
  outputs = np.concatenate([part.outputs for part in parts])
  flat = examples.images.reshape(NUM_EXAMPLES, -1).astype(np.float32)
  assert outputs.dtype == np.float32
  # Float32 sums of four products of up to 255 * 3 / 100.
  np.testing.assert_allclose(outputs, flat @ WEIGHTS / 100, atol=1e-5)
  errors = np.concatenate([part.metrics['error_rate'] for part in parts])
  np.testing.assert_array_equal(errors, outputs.argmax(-1) != examples.labels)
