"""Each mistake is said once, and what is no mistake is not said."""

import math

import jax.numpy as jnp
import pytest

from sam_jax import tasks
from sam_jax.runs import loop, misuse
from tests import tiny

_STEPS = 100


def _watch(**fields):
  """Returns a watch over a run with these fields, and what it says."""
  lines = []
  return misuse.Watch(tiny.config(**fields), [], lines.append), lines


def _walk(values, steps=3 * _STEPS, **fields):
  """Returns what is said of as many steps with these metrics."""
  watch, lines = _watch(**fields)
  for _ in range(steps):
    watch.step(values)
  return lines


_ZERO = {'perturbation_norm': 0.0, 'sharpness': 0.0}
_LOST = {'perturbation_norm': 1e-9, 'sharpness': 0.0}
_ROUNDED = {
  'perturbation_norm': 0.05,
  'sharpness': 0.1,
  'effective_perturbation_ratio': 2.5,
  'effective_perturbation_cosine': 0.4,
}


@pytest.mark.parametrize(
  'values, message',
  [
    (_ZERO, 'has been zero for 100 steps'),
    (_LOST, '1e-09 long, has changed no loss for 100 steps: it is lost to'),
    (_ROUNDED, 'see one 2.50 times as long, at a cosine of 0.40'),
    # It is said once, why nothing changes.
    (_ROUNDED | {'sharpness': 0.0}, 'see one 2.50 times as long'),
  ],
)
def test_a_perturbation_that_is_none_is_said_once(values, message):
  (line,) = _walk(values)
  assert line.startswith('warning: ') and message in line and '\n' not in line


@pytest.mark.parametrize(
  'values, fields',
  [
    ({}, {}),  # no group was perturbed, as in the cheap steps of LookSAM
    ({}, {'method.name': 'sgd'}),
    (_ZERO, {'method.rho': 0.0}),
    # The radius may be small, and is not where a warning could be right.
    (_ZERO, {'method.rho': 0.05, 'method.rho_schedule': 'cosine'}),
    (_ZERO, {'method.name': 'gsam'}),  # a schedule by default
    (
      _ROUNDED | {'perturbation_norm': 0.02},
      {'method.rho': 0.05, 'method.rho_schedule': 'linear'},
    ),
    ({'perturbation_norm': 0.05, 'sharpness': -1e-9}, {}),
  ],
)
def test_nothing_is_said_of_what_is_meant(values, fields):
  assert _walk(values, **fields) == []


def test_a_schedule_is_judged_where_its_radius_is_large():
  fields = {'method.rho': 0.05, 'method.rho_schedule': 'linear'}
  assert len(_walk(_ROUNDED, **fields)) == 1


def test_a_few_steps_without_effect_are_no_mistake():
  watch, lines = _watch()
  for _ in range(5):
    for _ in range(_STEPS - 1):
      watch.step(_ZERO)
    watch.step({})  # one that does not perturb proves nothing
    watch.step({'perturbation_norm': 0.05, 'sharpness': 0.1})
  assert lines == []


_PAPER = {'data.name': 'cifar10', 'batch_size': 256, 'm': 256}


@pytest.mark.parametrize(
  'fields, is_said',
  [
    ({}, True),
    ({'method.name': 'asam'}, True),
    ({'m': 32}, False),
    ({'batch_size': 128, 'm': 128}, False),  # no size of the paper's
    ({'data.name': 'digits'}, False),
    ({'method.name': 'sgd'}, False),
    ({'method.rho': 0.0}, False),
  ],
)
def test_m_of_a_config_of_the_paper_is_compared_with_its(fields, is_said):
  watch, lines = _watch(**_PAPER | fields)
  watch.start()
  watch.start()
  assert [x.startswith('warning: m = B = 256: ') for x in lines] == [
    True
  ] * is_said


@pytest.mark.parametrize(
  'loss, norm, perturbed, is_rho',
  [
    (1.0, 3.0, math.nan, True),
    (1.0, 3.0, math.inf, True),
    (math.nan, 3.0, math.nan, False),  # not finite without a perturbation
    (1.0, math.nan, math.nan, False),  # nor is the gradient there
    (1.0, 0.0, math.nan, False),
    (1.0, 3.0, 2.0, False),  # another metric
  ],
)
def test_rho_is_blamed_for_what_only_the_perturbation_breaks(
  loss, norm, perturbed, is_rho
):
  watch, lines = _watch()
  values = {'perturbation_norm': norm, 'perturbed_loss': perturbed}
  for _ in range(3):
    watch.failed({'loss': loss}, values)
  assert len(lines) == is_rho
  assert not lines or 'which is 3 long; use a smaller method.rho' in lines[0]


def test_a_step_that_has_no_metrics_of_a_perturbation_blames_nothing():
  assert misuse.too_large({'loss': 1.0}, {}) is None


def test_a_run_that_fails_by_its_rho_says_so(monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 1)
  original = tasks.ImageClassification.example_losses

  def example_losses(self, outputs, batch):
    is_large = jnp.max(jnp.abs(outputs)) > 1e3
    return jnp.where(is_large, jnp.nan, original(self, outputs, batch))

  monkeypatch.setattr(
    tasks.ImageClassification, 'example_losses', example_losses
  )
  message = (
    'not finite, as the loss is [0-9.]+ at the parameters and nan at the end '
    r'of the perturbation, which is 1e\+10 long; checkpoints'
  )
  with pytest.raises(loop.TrainingFailed, match=message):
    tiny.train(tmp_path, **tiny.PLAIN, **{'method.rho': 1e10})
