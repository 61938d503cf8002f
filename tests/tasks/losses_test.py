import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from sam_jax.tasks import losses


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_is_that_of_the_release(smoothing):
  misc = reference.load('misc.npz')
  targets = misc['metrics/labels']  # one of them soft: an average of two
  logits = np.repeat(misc['metrics/logits'][:, None], targets.shape[1], axis=1)
  classes = np.broadcast_to(np.arange(targets.shape[1]), targets.shape)
  by_class = losses.cross_entropy(jnp.asarray(logits), classes, smoothing)
  assert by_class.shape == targets.shape
  values = (by_class * targets).sum(-1)
  mask = misc['metrics/mask']
  tag = f'metrics/ce/ls{smoothing or 0}'
  np.testing.assert_allclose(values.mean(), misc[f'{tag}/nomask'], rtol=1e-6)
  np.testing.assert_allclose(
    (values * mask).sum() / mask.sum(), misc[f'{tag}/mask'], rtol=1e-6
  )


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_mixed_labels_give_the_releases_cross_entropy(smoothing):
  misc = reference.load('misc.npz')
  targets = jnp.asarray(misc['metrics/labels'])
  values = losses.cross_entropy(misc['metrics/logits'], targets, smoothing)
  expected = misc[f'metrics/ce/ls{smoothing or 0}/nomask']
  np.testing.assert_allclose(values.mean(), expected, rtol=1e-6)


def test_label_smoothing_spreads_over_all_classes():
  logits = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
  labels = np.array([0, 1])
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  targets = 0.7 * np.eye(3)[labels] + 0.3 / 3
  np.testing.assert_allclose(
    losses.cross_entropy(jnp.float32(logits), labels, 0.3),
    -(targets * log_probs).sum(-1),
    rtol=1e-6,
  )


def test_cross_entropy_takes_half_precision_and_huge_logits():
  logits = jnp.array([[1e4, -1e4, 0.0]], jnp.bfloat16)
  values = losses.cross_entropy(logits, jnp.array([1]))
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(values, [2e4], rtol=1e-2)  # bfloat16 inputs


def test_the_penalty_counts_what_the_mask_selects():
  params = {'kernel': jnp.array([3.0, 4.0]), 'bias': jnp.array([7.0])}
  penalty = lambda **mask: float(losses.l2_penalty(params, 0.1, mask))
  assert penalty(kernel=True, bias=False) == pytest.approx(0.05 * 25)
  assert penalty(kernel=True, bias=True) == pytest.approx(0.05 * 74)
  assert penalty(kernel=False, bias=False) == 0
  assert losses.l2_penalty(params, 0, None) == 0


def _apply(variables, images, **kwargs):
  """Linear logits; hands back how it was called."""
  logits = images.reshape(len(images), -1) @ variables['params']['kernel']
  return logits, {'batch_stats': {'mean': logits.mean()}, 'call': kwargs}


@pytest.mark.parametrize('true_gradient', [False, True])
def test_the_model_is_called_in_training_mode_with_its_key(true_gradient):
  calls = []

  def apply_fn(variables, images, **kwargs):
    calls.append(kwargs)
    assert set(variables) == {'params', 'batch_stats'}
    return _apply(variables, images)

  key = jax.random.key(3)
  loss_fn = losses.classification_loss(apply_fn, true_gradient=true_gradient)
  loss_fn(
    {'kernel': jnp.ones((4, 3))}, {}, key, jnp.ones((2, 4)), jnp.arange(2)
  )
  assert calls == [
    {
      'train': True,
      'true_gradient': true_gradient,
      'mutable': ['batch_stats'],
      'rngs': {'dropout': key},
    }
  ]


def test_the_penalty_is_in_the_value_and_not_in_the_log():
  params = {'kernel': jnp.array([[1.0, 0.0], [0.0, 1.0]])}
  images, labels = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([0, 0])
  loss_fn = losses.classification_loss(
    _apply, label_smoothing=0.1, penalty_fn=lambda p: 5 * jnp.sum(p['kernel'])
  )
  value, aux = loss_fn(params, {'mean': 1.0}, None, images, labels)
  plain = losses.cross_entropy(images, labels, 0.1).mean()
  np.testing.assert_allclose(aux['loss'], plain, rtol=1e-6)
  np.testing.assert_allclose(value, plain + 10, rtol=1e-6)
  np.testing.assert_allclose(aux['error_rate'], 0.5)
  np.testing.assert_allclose(aux['batch_stats']['mean'], 0.75)


def test_a_model_without_batchnorm_has_no_statistics():
  apply_fn = lambda variables, images, **_: (images, {})
  loss_fn = losses.classification_loss(apply_fn)
  _, aux = loss_fn({}, {}, None, jnp.eye(2), jnp.arange(2))
  assert aux['batch_stats'] == {}


def test_errors_of_mixed_images_are_those_of_the_larger_weight():
  apply_fn = lambda variables, images, **_: (images, {})
  loss_fn = losses.classification_loss(apply_fn)
  targets = jnp.array([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3]])
  _, aux = loss_fn({}, {}, None, jnp.eye(2, 3), targets)
  assert aux['error_rate'] == 0
  _, aux = loss_fn({}, {}, None, jnp.eye(2, 3)[::-1], targets)
  assert aux['error_rate'] == 1
