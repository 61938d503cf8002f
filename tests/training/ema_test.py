import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.training import ema
from tests import reference


def _effective_decay(step, decay, warmup_steps):
  """The rule in float64, with a branch where ours selects."""
  if step < warmup_steps:
    return 0.0
  elapsed = step - warmup_steps
  return min(decay, (1 + elapsed) / (10 + elapsed))


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('name', ['a', 'b', 'c'])
def test_the_average_is_that_of_the_compiled_release(name, compiled):
  arrays = reference.select(reference.load('misc.npz'), f'ema/{name}')
  decay, warmup_steps = map(float, arrays['decay_warmup'])
  update = ema.create(decay, int(warmup_steps))
  update = jax.jit(update) if compiled else update
  average, *inputs = map(jnp.asarray, arrays['inputs'])
  for step, (new, expected) in enumerate(
    zip(inputs, arrays['trajectory'], strict=True), start=1
  ):
    average = update(average, new, step)
    np.testing.assert_allclose(average, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('decay, warmup_steps', [(0.9, 0), (0.3, 12)])
def test_the_decay_rises_from_a_tenth_once_the_warm_up_is_over(
  decay, warmup_steps
):
  # From 1 to 0, the average is the decay itself.
  actual = [
    ema.update(1.0, 0.0, step, decay=decay, warmup_steps=warmup_steps)
    for step in range(120)
  ]
  expected = [
    _effective_decay(step, decay, warmup_steps) for step in range(120)
  ]
  np.testing.assert_allclose(actual, expected, rtol=1e-6)
  assert max(expected) == decay


@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit], ids=['eager', 'jit'])
def test_in_the_warm_up_the_average_is_the_newest_value_bit_for_bit(wrap):
  # At step 15 of 25, (1 + t) / (10 + t) would be -14 / 0.
  update = wrap(ema.create(0.9, warmup_steps=25))
  new = {'a': jnp.array([0.1, -3.7]), 'b': {'c': jnp.float32(1e-8)}}
  old = jax.tree.map(lambda x: x + 5, new)
  for step in range(25):
    average = update(old, new, jnp.int32(step))
    jax.tree.map(np.testing.assert_array_equal, average, new)
  assert update(old, new, jnp.int32(25))['b']['c'] == pytest.approx(0.5)


def test_no_decay_keeps_no_average():
  assert ema.create(0.0) is None
  assert ema.create(0.0, warmup_steps=10) is None


@pytest.mark.parametrize('decay', [-0.1, 1.0, 1.5, float('nan')])
def test_a_decay_outside_0_to_1_is_refused(decay):
  with pytest.raises(
    ValueError, match=rf'ema\.decay is {decay}; it must be in'
  ):
    ema.create(decay)


def test_a_negative_warm_up_is_refused():
  with pytest.raises(ValueError, match=r'ema\.warmup_steps is -1'):
    ema.create(0.9, -1)
