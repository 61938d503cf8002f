"""(B, m, b, seeds) determine a run; devices, loops and launchers do not."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import augmentation, methods, models, sam
from sam_jax.augmentation import mixing
from sam_jax.training import layout, parallel
from tests import steps

# A fast version of this, for each method, is in tests/methods.
pytestmark = pytest.mark.slow

B, MICROBATCH = 64, 4
# Five steps of a smooth network in float32; float64 is a billion times finer.
FLOAT32_ATOL, FLOAT64_ATOL = 5e-6, 1e-10
# m, and the device counts that its layout admits: all of 1, 2, 4, 8.
MS = (4, 8, 32, 64)


@functools.cache
def _model():
  """Smooth, with all that could depend on the layout."""
  return models.create(
    'cnn',
    num_classes=10,
    features=(4,),
    hidden=16,
    activation='tanh',
    norm='batch',
    dropout_rate=0.1,
  )


@functools.cache
def _variables(model=None, seed=0):
  model = model or _model()
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(seed), jnp.zeros((1, 8, 8, 1)))
  return jax.tree.map(np.asarray, dict(variables))


@functools.cache
def _batches(count=5):
  rng = np.random.default_rng(0)
  return [
    {
      'image': rng.integers(0, 256, (B, 8, 8, 1), dtype=np.uint8),
      'label': rng.integers(0, 10, B).astype(np.int32),
    }
    for _ in range(count)
  ]


def _run(
  m,
  devices,
  *,
  name='basic',
  mixing_name='none',
  cutout_per='example',
  dtype=np.float32,
  **options,
):
  """Five steps of SAM with everything on that draws random numbers."""
  augment = augmentation.create(
    name, mean=(0.5,), std=(0.25,), cutout_length=4, cutout_per=cutout_per
  )
  options = {'m': m, 'b': MICROBATCH, 'loop': 'vmap', 'rho': 0.5} | options
  return steps.run(
    _model().apply,
    jax.tree.map(dtype, _variables()),
    _batches(),
    devices=devices,
    augment=lambda *args: augment(*args).astype(dtype),
    mix=mixing.create(mixing_name, alpha=1.0, probability=1.0, num_classes=10),
    clipping=5.0,
    weight_decay=5e-4,
    **options,
  )


@functools.cache
def _on_one_device(m, **options):
  return _run(m, 1, **options)


def _assert_same_run(actual, expected, atol):
  """Compares parameters, statistics and metrics after every step."""
  for a, b in zip(actual, expected, strict=True):
    assert steps.largest_difference(a.state, b.state) < atol
    # Metrics are of order 1; error rates are multiples of 1 / 64.
    assert a.metrics == pytest.approx(b.metrics, abs=10 * atol)


@pytest.mark.parametrize(
  'm, devices',
  [
    (4, 8),  # two groups per device
    (8, 2),  # four groups of two microbatches per device
    (32, 8),  # two groups of four devices
    (64, 4),  # one group of all devices, four microbatches each
  ],
)
def test_the_number_of_devices_does_not_change_the_run(m, devices):
  _assert_same_run(_run(m, devices), _on_one_device(m), FLOAT32_ATOL)


@pytest.mark.parametrize('m, devices', [(32, 8)])
def test_nor_does_it_with_a_cutout_mask_per_batch(m, devices):
  options = {'cutout_per': 'batch'}
  expected = _on_one_device(m, **options)
  _assert_same_run(_run(m, devices, **options), expected, FLOAT32_ATOL)
  gap = steps.largest_difference(
    expected[-1].state.params, _on_one_device(m)[-1].state.params
  )
  assert gap > 1e-3  # the masks matter


@pytest.mark.parametrize(
  'options',
  [(('mixing_name', 'cutmix'),), (('name', 'randaugment'),)],
  ids=['cutmix', 'randaugment'],
)
def test_nor_does_it_with_policies_and_mixed_images(options):
  options = dict(options)
  expected = _on_one_device(8, **options)
  _assert_same_run(_run(8, 8, **options), expected, FLOAT32_ATOL)
  gap = steps.largest_difference(
    expected[-1].state.params, _on_one_device(8)[-1].state.params
  )
  assert gap > 1e-3  # it matters


@pytest.mark.parametrize('loop, devices', [('scan', 4), ('unroll', 4)])
def test_the_loops_compute_the_same(loop, devices):
  _assert_same_run(_run(8, devices, loop=loop), _on_one_device(8), FLOAT32_ATOL)


@pytest.mark.parametrize(
  'm, devices',
  [(32, 8), (8, 1)],
)
def test_pmap_and_shard_map_compute_the_same(m, devices):
  _assert_same_run(
    _run(m, devices, parallel_name='pmap'), _on_one_device(m), FLOAT32_ATOL
  )


def test_in_float64_runs_agree_to_rounding():
  with jax.enable_x64(True):
    options = {'dtype': np.float64, 'cutout_per': 'batch'}
    expected = _run(8, 1, **options)
    assert expected[-1].state.params['Dense_0']['kernel'].dtype == np.float64
    for devices in (2, 8):
      actual = _run(8, devices, **options)
      for a, b in zip(actual, expected, strict=True):
        difference = steps.largest_difference(a.state.params, b.state.params)
        assert difference < FLOAT64_ATOL


def test_m_and_the_seed_do_change_the_run():
  # A test that cannot tell one algorithm from another is no test.
  runs = [_on_one_device(m) for m in MS]
  runs += [_on_one_device(8, seed=1), _on_one_device(8, method='sgd')]
  ends = [run[-1].state.params for run in runs]
  gaps = [
    steps.largest_difference(a, b) for i, a in enumerate(ends) for b in ends[:i]
  ]
  assert min(gaps) > 100 * FLOAT32_ATOL


def _without_cast():
  return {'replace_collectives': {'vary': lambda tree: tree}}


def test_parameters_that_do_not_vary_are_refused():
  with pytest.raises(ValueError, match=r"axes \('group',\) .*pcast"):
    _run(8, 4, **_without_cast())


@pytest.mark.parametrize('method', ['sam', 'sgd'])
def test_parameters_that_do_not_vary_would_change_the_run(monkeypatch, method):
  # The primitive's check taken away: gradients are summed over devices.
  monkeypatch.setattr(sam, '_check_differentiated_locally', lambda *_: None)
  wrong = _run(8, 4, method=method, **_without_cast())
  right = _on_one_device(8, method=method)
  gap = steps.largest_difference(wrong[-1].state.params, right[-1].state.params)
  assert gap > 1000 * FLOAT32_ATOL


# --- BatchNorm over all devices


@functools.cache
def _step_of(norm, m, devices, b, parallel_name='shard_map'):
  """Two steps of SAM with that BatchNorm, without dropout."""
  runs_on = parallel.create(
    parallel_name, layout.create(B, devices, m, b), jax.devices()[:devices]
  )
  axes = runs_on.collectives.axes if norm == 'synced' else ()
  model = _model().clone(dropout_rate=0.0, norm=norm, norm_axes=axes)
  return steps.run(
    model.apply,
    _variables(),
    _batches()[:2],
    m=m,
    b=b,
    devices=devices,
    parallel_name=parallel_name,
    rho=0.5,
    augment=augmentation.create('none', mean=(0.5,), std=(0.25,)),
  )


@pytest.mark.parametrize('parallel_name', ['shard_map', 'pmap'])
def test_synced_norm_on_4_devices_is_one_device_with_the_whole_batch(
  parallel_name,
):
  synced = _step_of('synced', B, 4, B // 4, parallel_name)
  _assert_same_run(synced, _step_of('batch', B, 1, B), FLOAT32_ATOL)


def test_without_syncing_4_devices_are_another_run():
  apart = _step_of('batch', B, 4, B // 4)[-1].state
  whole = _step_of('batch', B, 1, B)[-1].state
  gap = steps.largest_difference(apart.params, whole.params)
  assert gap > 50 * FLOAT32_ATOL


def test_synced_norm_reaches_beyond_the_group_in_pmap_as_in_shard_map():
  m = B // 4
  groups, pmap = (
    _step_of('synced', m, 4, m, name) for name in ('shard_map', 'pmap')
  )
  _assert_same_run(groups, pmap, FLOAT32_ATOL)
  for other in (_step_of('batch', m, 4, m), _step_of('batch', B, 1, B)):
    gap = steps.largest_difference(
      groups[-1].state.params, other[-1].state.params
    )
    assert gap > 20 * FLOAT32_ATOL


# --- Methods with state


class _Memory(NamedTuple):
  average: dict
  draws: jax.Array


class _AverageMethod(methods.Method):
  """Perturbs along a running average of gradients; keeps what its key draws."""

  def memory(self, params):
    return _Memory(jax.tree.map(jnp.zeros_like, params), jnp.zeros(2))

  def gradient(self, problem, state, params, ctx):
    out, ascent_grads = problem.ascend(params)
    moved = jax.tree.map(jnp.add, params, state.memory.average)
    (_, aux), grads = problem.descend(moved)
    draw = jax.random.uniform(ctx.key)
    info = sam.SamInfo(0.0, aux, ascent_grads, grads, state.memory.average)
    return methods.GroupResult(
      out,
      grads,
      stats=(ascent_grads, jnp.stack([draw, draw**2])),
      perturbed=jnp.float32(1),
      diagnostics=problem.diagnose(params, out, info),
    )

  def conclude(self, memory, result, ctx):
    ascent_grads, draws = result.stats
    average = jax.tree.map(
      lambda a, g: 0.9 * a + 0.1 * g, memory.average, ascent_grads
    )
    return result.grads, _Memory(average, draws)


def test_the_memory_of_a_method_is_made_of_averages_over_all_groups():
  alone, spread = (_run(32, d, method=_AverageMethod()) for d in (1, 8))
  _assert_same_run(spread, alone, FLOAT32_ATOL)
  draws = [step.state.method_state.memory.draws for step in alone]
  assert len({float(mean) for mean, _ in draws}) == len(draws)
  for mean, square in draws:
    assert square - mean**2 > 1e-4  # each group has a key of its own


def test_the_memory_of_a_method_is_built_from_the_mean_gradient():
  (first, *_) = _run(32, 8, method=_AverageMethod())
  plain = {'momentum': 0.0, 'nesterov': False}
  (sgd, *_) = _run(8, 2, method='sgd', optimizer_options=plain)
  assert sgd.metrics['gradient_norm'] < 5  # nothing is clipped
  gradient = jax.tree.map(
    lambda start, end: (start - end) / 0.1,
    _variables()['params'],
    sgd.state.params,
  )
  from_memory = jax.tree.map(
    lambda average: average / 0.1, first.state.method_state.memory.average
  )
  # Differences of float32 parameters of order 1, times 10.
  assert steps.largest_difference(from_memory, gradient) < 1e-5
