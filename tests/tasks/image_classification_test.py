import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import tasks
from sam_jax.tasks import losses
from tests import oracle, reference

_INFO = {'num_classes': 10, 'image_shape': (8, 8, 1), 'mean': (0,), 'std': (1,)}


def _task(**fields):
  return tasks.ImageClassification(None, _INFO, **fields)


def _metrics(logits, labels):
  """Returns the metrics of each example."""
  return _task().example_metrics(logits, {'label': labels})


def test_example_metrics_are_those_of_an_oracle():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(200, 8)).astype(np.float32)
  labels = rng.integers(8, size=200)
  expected = oracle.metrics(logits, labels)
  actual = _metrics(jnp.array(logits), jnp.array(labels))
  assert actual.keys() == expected.keys()
  for name, values in expected.items():
    # Float32 logarithms; the rates are exact.
    np.testing.assert_allclose(actual[name], values, atol=2e-6, err_msg=name)
  assert 0 < expected['top5_error_rate'].mean() < expected['error_rate'].mean()


def test_the_value_of_a_class_is_weighed_for_mixed_labels():
  values = jnp.arange(10.0)
  plain = _task().class_values(values, {'label': jnp.array([3, 0])})
  assert plain.tolist() == [3, 0]
  mixed = jnp.zeros((1, 10)).at[0, 2].set(0.75).at[0, 6].set(0.25)
  assert _task().class_values(values, {'label': mixed}).tolist() == [3.0]


def test_a_task_offers_what_is_known_of_its_data():
  assert _task().offers == {'logits': 10}
  more = {'class_counts': [5] * 10, 'domains': ['a', 'b']}
  task = tasks.ImageClassification(None, _INFO | more)
  known = {'logits': 10, 'classes': [5] * 10, 'domains': 2}
  assert task.offers == known | {'examples': 50}
  mixing = {'name': 'mixup', 'alpha': 1.0, 'probability': 1.0}
  mixed = tasks.ImageClassification(None, _INFO | more, mixing=mixing)
  assert mixed.offers == known
  assert task.batch_shapes(3)['domain'].shape == (3,)
  assert 'domain' not in _task().batch_shapes(3)


def test_five_classes_or_fewer_have_no_top5_error():
  metrics = _metrics(jnp.zeros((3, 5)), jnp.zeros(3, int))
  assert set(metrics) == {'loss', 'error_rate'}


def test_logits_that_are_nan_are_no_hit():
  metrics = _metrics(jnp.full((2, 6), jnp.nan), jnp.arange(2))
  np.testing.assert_array_equal(metrics['error_rate'], 1)
  np.testing.assert_array_equal(metrics['top5_error_rate'], 1)


def _official_metrics(logits, targets, weights):
  """Our metrics for the release's targets, one of which is a mixture."""
  every_class = np.arange(logits.shape[-1])
  class_losses = np.stack(
    [_metrics(logits, jnp.full(len(logits), k))['loss'] for k in every_class],
    axis=-1,
  )
  metrics = _metrics(logits, jnp.argmax(targets, axis=-1))
  values = {**metrics, 'loss': (class_losses * targets).sum(-1)}
  return {k: np.average(v, weights=weights) for k, v in values.items()}


@pytest.mark.parametrize('masked', [False, True])
def test_loss_and_error_rate_are_the_official_ones_and_top5_is_not(masked):
  """Finding 24 of reference/README.md: the release's top-k is wrong."""
  official = reference.select(reference.load('misc.npz'), 'metrics')
  logits, targets = official['logits'], official['labels']
  weights = official['mask'] if masked else np.ones(len(logits))
  suffix = 'mask' if masked else 'nomask'
  actual = _official_metrics(jnp.array(logits), targets, weights)
  top5 = oracle.metrics(logits, targets.argmax(-1))['top5_error_rate']
  expected = {
    'loss': official[f'ce/ls0/{suffix}'],
    'error_rate': official[f'error_rate/{suffix}'],
    'top5_error_rate': np.average(top5, weights=weights),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol=1e-6, err_msg=name)
  assert official[f'top5_error/{suffix}'] < 0 < expected['top5_error_rate']


def test_the_loss_of_training_is_smoothed_and_that_of_an_evaluation_is_not():
  logits, labels = jnp.array([[2.0, 0.0, -1.0]]), jnp.array([1])
  batch = {'label': labels}
  plain = losses.cross_entropy(logits, labels)
  smoothed = losses.cross_entropy(logits, labels, 0.1)
  task = _task(label_smoothing=0.1)
  np.testing.assert_array_equal(task.example_losses(logits, batch), smoothed)
  metrics = task.example_metrics(logits, batch)
  np.testing.assert_array_equal(metrics['loss'], plain)
  assert smoothed[0] != plain[0]


def test_the_sigmoid_loss_is_trained_and_evaluated():
  logits, batch = jnp.array([[2.0, 0.0, -1.0]]), {'label': jnp.array([1])}
  task = _task(loss='sigmoid')
  expected = losses.sigmoid_cross_entropy(logits, batch['label'])
  for found in (
    task.example_losses(logits, batch),
    task.example_metrics(logits, batch)['loss'],
  ):
    np.testing.assert_array_equal(found, expected)
  table = task.predictions(np.asarray(logits), {'label': np.array([1])})
  np.testing.assert_allclose(table['probability'], 1 / (1 + np.exp(-2.0)))
  assert 'logits' in _task().offers and 'logits' not in task.offers
  with pytest.raises(ValueError, match="unknown loss 'hinge'; known: softmax"):
    _task(loss='hinge')


def test_errors_of_mixed_images_are_those_of_the_larger_weight():
  targets = jnp.array([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3]])
  for logits, expected in ((jnp.eye(2, 3), 0), (jnp.eye(2, 3)[::-1], 1)):
    metrics = _task().train_metrics(logits, {'label': targets})
    assert metrics['error_rate'] == expected


def test_predictions_are_a_table_of_classes_and_probabilities():
  outputs = np.array([[0.0, np.log(3.0)], [1.0, 0.0]])
  table = _task().predictions(outputs, {'label': np.array([1, 1])})
  np.testing.assert_array_equal(table['label'], [1, 1])
  np.testing.assert_array_equal(table['prediction'], [1, 0])
  np.testing.assert_allclose(table['probability'][0], 0.75)


def test_images_are_normalised_and_nothing_is_random_in_an_evaluation():
  info = _INFO | {'mean': (0.5,), 'std': (0.25,)}
  task = tasks.ImageClassification(None, info, augmentation={'name': 'basic'})
  images = np.full((1, 8, 8, 1), 255, np.uint8)
  batch = task.preprocess({'image': images, 'label': np.zeros(1, np.int32)})
  np.testing.assert_allclose(batch['image'], 2.0, rtol=1e-6)
  assert set(batch) == {'image', 'label'}


def test_a_single_class_is_refused():
  with pytest.raises(ValueError, match='1 class.*one folder level too many'):
    tasks.ImageClassification(None, _INFO | {'num_classes': 1})


@pytest.mark.parametrize('classes', [None, ['cat', 'dog', 'fish']])
def test_predictions_have_the_names_of_classes_that_have_any(classes):
  task = tasks.ImageClassification(None, _INFO | {'classes': classes})
  outputs = np.array([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
  columns = task.predictions(outputs, {'label': np.array([2, 0])})
  assert columns['prediction'].tolist() == [1, 0]
  if classes is None:
    assert list(columns) == ['label', 'prediction', 'probability']
  else:
    assert columns['label_name'].tolist() == ['fish', 'cat']
    assert columns['prediction_name'].tolist() == ['dog', 'cat']
