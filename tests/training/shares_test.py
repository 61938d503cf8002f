"""Methods that look at some of a group's examples, in the training step.

Two microbatches of four examples in a group, against a program in NumPy.
"""

import numpy as np
import pytest

from sam_jax import methods
from tests import steps

RATE, RHO = 0.5, 0.3
EVALUATED = np.array([6.0, 0.2, 0.1, 5.0, 1.0], np.float32)
FEATURES, CLASSES = 3, 5
PIECES = (np.arange(4), np.arange(4, 8))
RNG = np.random.default_rng(0)
START = RNG.normal(size=(FEATURES, CLASSES)).astype(np.float32)
BATCH = {
  'image': RNG.normal(size=(8, FEATURES)).astype(np.float32),
  'label': RNG.integers(0, CLASSES, 8).astype(np.int32),
}


def _apply(variables, images, *, train, mutable=None, **_):
  """Linear logits, that are scaled in evaluation."""
  logits = images @ variables['params']['w']
  logits = logits if train else logits * EVALUATED[None]
  return logits if mutable is None else (logits, {})


def _losses(w, scale=1):
  logits = scale * (np.float64(BATCH['image']) @ w)
  shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
  probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
  return -np.log(probabilities[np.arange(8), BATCH['label']]), probabilities


def _gradients(w, scale=1):
  """The gradients of the examples, `[8, FEATURES, CLASSES]`."""
  _, probabilities = _losses(w, scale)
  errors = probabilities - np.eye(CLASSES)[BATCH['label']]
  return scale * np.einsum('ni,nj->nij', BATCH['image'], errors)


def _gradient(w, rows):
  return _gradients(w)[rows].mean(axis=0)


def _moved(w, rows):
  g = _gradient(w, rows)
  return w + RHO * g / np.linalg.norm(g)


def _largest(scores):
  return np.concatenate([p[np.argsort(-scores[p])[:2]] for p in PIECES])


def _quarter(w):
  rows = np.array([0, 4])
  return _gradient(_moved(w, rows), np.arange(8)), rows, np.arange(8)


def _esam(w):
  everything = np.arange(8)
  moved = _moved(w, everything)
  sharpest = _largest(_losses(moved)[0] - _losses(w)[0])
  return _gradient(moved, sharpest), everything, sharpest


def _k_sam(w):
  hardest = _largest(_losses(w)[0])
  return _gradient(_moved(w, hardest), hardest), hardest, hardest


@pytest.mark.parametrize(
  ('method', 'formula'),
  [
    (methods.quarter_sam(RHO), _quarter),
    (methods.esam(RHO, beta=1.0), _esam),
    (methods.k_sam(RHO), _k_sam),
  ],
  ids=['quarter_sam', 'esam', 'k_sam'],
)
def test_a_step_is_of_its_examples_and_says_of_how_many(method, formula):
  (step,) = steps.run(
    _apply,
    {'params': {'w': START}},
    [BATCH],
    m=8,
    b=4,
    method=method,
    learning_rate=RATE,
  )
  w = np.float64(START)
  gradient, first, second = formula(w)
  # Nesterov's momentum of 0.9: the first update is 1.9 times the gradient.
  np.testing.assert_allclose(
    step.state.params['w'], w - 1.9 * RATE * gradient, atol=1e-6
  )
  assert step.metrics['metric_examples'] == len(first)
  assert step.metrics['perturbed_metric_examples'] == len(second)
  assert step.metrics['loss'] == pytest.approx(
    _losses(w)[0][first].mean(), rel=1e-5
  )


@pytest.mark.parametrize('b', [2, 4])
def test_esam_keeps_its_share_where_all_rise_alike(b):
  """Efficient_SAM keeps what rises strictly more than the k-th: nothing."""
  (step,) = steps.run(
    _apply,
    {'params': {'w': START}},
    [{name: np.repeat(x[:1], 8, axis=0) for name, x in BATCH.items()}],
    m=8,
    b=b,
    method=methods.esam(RHO, beta=1.0, descent_share=0.5),
    learning_rate=RATE,
  )
  w, rows = np.float64(START), np.array([0])
  gradient = _gradient(_moved(w, rows), rows)
  np.testing.assert_allclose(
    step.state.params['w'], w - 1.9 * RATE * gradient, atol=1e-6
  )
  assert step.metrics['perturbed_metric_examples'] == 4


@pytest.mark.parametrize('loop', ['unroll', 'scan'])
def test_fisher_information_is_of_single_examples_as_they_are_evaluated(loop):
  """Of the first two of each microbatch, where three are asked for."""
  method = methods.ssam_f(RHO, sparsity=0.6, samples=3)
  (step,) = steps.run(
    _apply,
    {'params': {'w': START}},
    [BATCH],
    m=8,
    b=4,
    method=method,
    loop=loop,
  )
  rows = np.array([0, 1, 4, 5])
  fisher = (_gradients(np.float64(START), EVALUATED)[rows] ** 2).mean(axis=0)
  threshold = np.sort(fisher.ravel())[-6]
  np.testing.assert_array_equal(
    step.state.method_state.memory['mask']['w'], fisher >= threshold
  )
  assert 'metric_examples' not in step.metrics


def test_a_method_of_all_examples_logs_no_number():
  assert methods.sam().measures_all
  assert not methods.looksam(ascent_share=0.5).measures_all
