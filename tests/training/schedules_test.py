import jax
import numpy as np
import pytest

from sam_jax.training import schedules
from tests import reference


def _evaluate(schedule, steps):
  return np.array([jax.jit(schedule)(step) for step in np.int32(steps)])


def _release(name, tag):
  """Steps within the run, their learning rates, and what made them."""
  misc = reference.load('misc.npz')
  epochs, base, examples, batch_size = np.float64(
    misc[f'lr/{name}/{tag}/args_epochs_lr_n_bs']
  )
  num_steps = int(examples // batch_size) * int(epochs)
  steps = misc[f'lr/{name}/{tag}/steps']
  rates = misc[f'lr/{name}/{tag}/lr']
  inside = steps <= num_steps
  return steps[inside], rates[inside], float(np.float32(base)), num_steps


@pytest.mark.parametrize('tag', ['a', 'b'])
def test_cosine_is_that_of_the_release(tag):
  steps, rates, base, num_steps = _release('cosine', tag)
  schedule = schedules.create('cosine', learning_rate=base, num_steps=num_steps)
  # Near the end 1 + cos cancels: relative to the base.
  np.testing.assert_allclose(
    _evaluate(schedule, steps), rates, rtol=1e-6, atol=1e-6 * base
  )
  assert float(schedule(num_steps + 5)) == 0  # the release's rises again


def test_cosine_ends_at_a_share_of_its_base():
  schedule = schedules.create(
    'cosine', learning_rate=6e-4, num_steps=600, end_fraction=0.1
  )
  rates = _evaluate(schedule, [0, 300, 600, 700])
  np.testing.assert_allclose(rates, [6e-4, 3.3e-4, 6e-5, 6e-5], rtol=1e-6)
  with pytest.raises(ValueError, match='end_fraction is -0.1; .* in .0, 1'):
    schedules.create(
      'cosine', learning_rate=6e-4, num_steps=600, end_fraction=-0.1
    )


@pytest.mark.parametrize('tag', ['a', 'b'])
def test_exponential_is_that_of_the_release_but_starts_at_its_base(tag):
  steps, rates, base, num_steps = _release('exponential', tag)
  ours = _evaluate(
    schedules.create('exponential', learning_rate=base, num_steps=num_steps),
    steps,
  )
  assert steps[0] == 0 and np.isnan(rates[0])
  assert ours[0] == np.float32(base)
  np.testing.assert_allclose(ours[1:], rates[1:], rtol=1e-6)


def test_warmup_is_that_of_the_release():
  misc = reference.load('misc.npz')
  # Its arguments are not stored; they follow from the numbers: base 0.1,
  # exp(-step / 300), 500 steps of warm-up.
  schedule = schedules.create(
    'exponential',
    learning_rate=0.1,
    num_steps=3000,
    warmup_steps=500,
    end_fraction=float(np.exp(-10)),
  )
  np.testing.assert_allclose(
    _evaluate(schedule, misc['lr/exponential_warmup5/steps']),
    misc['lr/exponential_warmup5/lr'],
    rtol=2e-6,  # a power here, an exponential there
  )


@pytest.mark.parametrize('name', ['constant', 'cosine', 'exponential'])
def test_warmup_multiplies_a_schedule_that_decays_from_the_start(name):
  make = lambda **kw: schedules.create(
    name, learning_rate=0.2, num_steps=100, **kw
  )
  warm, plain = make(warmup_steps=10), make()
  steps = np.arange(0, 101, 5)
  np.testing.assert_allclose(
    _evaluate(warm, steps),
    _evaluate(plain, steps) * np.minimum(1, steps / 10),
    rtol=1e-6,
  )


def test_constant_is_constant():
  schedule = schedules.create('constant', learning_rate=0.3, num_steps=7)
  assert {float(schedule(s)) for s in (0, 3, 7, 100)} == {0.3}


def test_piecewise_changes_at_shares_of_the_run():
  schedule = schedules.create(
    'piecewise',
    learning_rate=1.0,
    num_steps=10,
    boundaries=(0.3, 0.6, 0.8),
    factor=0.5,
  )
  np.testing.assert_allclose(
    _evaluate(schedule, np.arange(10)),
    [1, 1, 1] + [0.5] * 3 + [0.25] * 2 + [0.125] * 2,
  )
  default = schedules.create('piecewise', learning_rate=1.0, num_steps=8)
  np.testing.assert_allclose(
    _evaluate(default, [3, 4, 5, 6]), [1, 0.1, 0.1, 0.01], rtol=1e-6
  )


@pytest.mark.parametrize(
  'boundaries', [(0.0, 0.5), (0.5, 1.0), (0.7, 0.3), (0.5, 0.5), (2,)]
)
def test_boundaries_that_are_no_shares_are_refused(boundaries):
  with pytest.raises(ValueError, match='increasing, between 0 and 1'):
    schedules.create(
      'piecewise', learning_rate=1.0, num_steps=8, boundaries=boundaries
    )


def test_a_line_begins_where_the_warmup_ends_if_it_is_asked_to():
  make = lambda **kw: schedules.create(
    'linear', learning_rate=0.3, num_steps=10, end_fraction=0.1, **kw
  )
  steps = [0, 1, 2, 6, 10, 12]
  line = lambda step: 0.3 - 0.27 * np.clip(step, 0, 1)
  np.testing.assert_allclose(
    _evaluate(make(), steps), line(np.array(steps) / 10), rtol=1e-6
  )
  np.testing.assert_allclose(
    _evaluate(make(warmup_steps=2, after_warmup=True), steps),
    [0.0, 0.15, 0.3, 0.165, 0.03, 0.03],
    rtol=1e-6,
  )
  with pytest.raises(ValueError, match='end_fraction is 1.5; it is a share'):
    schedules.create(
      'linear', learning_rate=0.3, num_steps=10, end_fraction=1.5
    )


def test_none_means_the_default_and_unknown_options_are_refused():
  make = lambda **kw: schedules.create(learning_rate=1.0, num_steps=8, **kw)
  assert make(name='exponential', end_fraction=None)(8) == pytest.approx(0.012)
  assert make(name='exponential', end_fraction=0.5)(8) == pytest.approx(0.5)
  with pytest.raises(ValueError, match="'constant' takes no end_fraction"):
    make(name='constant', end_fraction=0.5)


def test_an_unknown_name_is_refused_with_the_known_ones():
  known = 'constant, cosine, exponential, linear, piecewise'
  with pytest.raises(ValueError, match=f"'step'; known: {known}"):
    schedules.create('step', learning_rate=1.0, num_steps=8)


@pytest.mark.parametrize('warmup_steps', [-1, 9])
def test_a_warmup_that_does_not_fit_is_refused(warmup_steps):
  with pytest.raises(ValueError, match=f'{warmup_steps} of 8 steps'):
    schedules.create(
      'cosine', learning_rate=1.0, num_steps=8, warmup_steps=warmup_steps
    )
