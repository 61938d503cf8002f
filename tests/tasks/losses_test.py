import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.tasks import losses
from tests import reference


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


def test_the_sigmoid_loss_asks_of_each_class_alone():
  logits = np.array([[2.0, 0.0, -1.0], [0.5, 80.0, -90.0]])
  labels = np.array([0, 2])
  p = 1 / (1 + np.exp(-logits))
  p = np.clip(p, 1e-300, 1 - 1e-16)
  for smoothing in (0.0, 0.3):
    targets = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    expected = -targets * np.log(p) - (1 - targets) * -np.logaddexp(0, logits)
    expected = expected.sum(-1)
    for given in (labels, np.eye(3)[labels]):
      found = losses.sigmoid_cross_entropy(
        jnp.float32(logits), jnp.asarray(given), smoothing
      )
      np.testing.assert_allclose(found, expected, rtol=1e-6)
