"""A step that is not finite leaves no trace where such steps are skipped."""

import functools

import jax
import numpy as np
import pytest

from sam_jax.training import train_step
from tests import steps

_ROWS, _NAN, _NUM_STEPS = 8, (1, 2), 5


def _batches(broken=_NAN):
  """Returns batches of which some have a NaN in a single example."""
  rng = np.random.default_rng(0)
  batches = []
  for step in range(_NUM_STEPS):
    images = rng.standard_normal((_ROWS, 6)).astype(np.float32)
    if step in broken:
      images[-1, 0] = np.nan
    labels = rng.integers(5, size=_ROWS).astype(np.int32)
    batches.append({'image': images, 'label': labels})
  return batches


@functools.cache
def _stepper(devices=1, parallel_name='shard_map', **options):
  """Returns a run with BatchNorm, momentum, a method's state and an average."""
  model = steps.Mlp()
  variables = jax.device_get(
    model.init(jax.random.key(0), np.zeros((1, 6)), train=False)
  )
  stepper = steps.make(
    model.apply,
    variables['params'],
    _ROWS,
    devices=devices,
    m=4,
    b=2,
    parallel_name=parallel_name,
    method='looksam',
    every=2,
    **{'schedule': 'cosine', 'ema_decay': 0.9, 'skips_nonfinite': True}
    | options,
  )
  return stepper, variables


def _run(broken=_NAN, **options):
  stepper, variables = _stepper(**options)
  return stepper.run(variables, _batches(broken))


def _assert_equal(state, expected):
  """Bit for bit, but for the number of steps."""
  jax.tree.map(
    np.testing.assert_array_equal,
    state.replace(step=0),
    expected.replace(step=0),
  )


def test_a_step_that_is_not_finite_changes_the_step_counter_alone():
  states = [step.state for step in _run()]
  for i in _NAN:
    _assert_equal(states[i], states[0])
  assert [int(state.step) for state in states] == [1, 2, 3, 4, 5]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(states[-1]))
  with pytest.raises(AssertionError):
    _assert_equal(states[3], states[0])


def test_the_learning_rate_is_that_of_the_updates_that_are_made():
  """What is logged and told to the method is what the optimizer uses."""
  rates = [step.metrics['learning_rate'] for step in _run()]
  expected = [step.metrics['learning_rate'] for step in _run(broken=())]
  assert [rates[0], *rates[3:]] == expected[:3]


def test_randomness_and_the_rest_of_the_run_are_those_of_the_step_counter():
  """The third step from a state of a run is its third step, skipped or not."""
  stepper, _ = _stepper()
  after = _run()
  before = after[0].state.replace(step=np.int32(3))
  (again,) = stepper.resume(before, _batches()[3:4])
  _assert_equal(again.state, after[3].state)


@pytest.mark.parametrize('name', ['shard_map', 'pmap'])
def test_devices_agree_on_what_is_skipped(name):
  """Two devices share a group, and one of the four has the NaN."""
  found, reference = _run(devices=4, parallel_name=name), _run()
  for i in _NAN:
    _assert_equal(found[i].state, found[0].state)
  difference = steps.largest_difference(
    found[-1].state.params, reference[-1].state.params
  )
  assert difference < 1e-5  # rounding; a step changes parameters by 0.01


def test_without_skipping_the_program_has_nothing_of_it():
  stepper, variables = _stepper(skips_nonfinite=False)
  state = jax.eval_shape(
    functools.partial(train_step.init_state, fns=stepper.fns), variables
  )
  batch = _batches()[0] | {'position': np.arange(_ROWS, dtype=np.int32)}
  program = jax.make_jaxpr(
    functools.partial(train_step.train_step, fns=stepper.fns)
  )(state, batch)
  assert 'is_finite' not in str(program)
