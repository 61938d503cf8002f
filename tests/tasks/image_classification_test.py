import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import reference

from sam_jax import tasks

_INFO = {'num_classes': 10, 'image_shape': (8, 8, 1), 'mean': (0,), 'std': (1,)}


def _metrics(logits, labels):
  """Returns the metrics of each example."""
  task = tasks.ImageClassification(None, _INFO)
  return task.example_metrics(logits, {'label': labels})


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
