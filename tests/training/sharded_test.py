"""Parameters cut over the devices of a group change no number."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import methods, tasks
from sam_jax.training import (
  layout as layout_lib,
  optimizers,
  parallel,
  schedules,
  sharded,
  train_step,
)

_BATCH, _WINDOW, _VOCABULARY, _STEPS = 16, 8, 32, 5
_MODEL = {
  'name': 'gpt',
  'context_length': _WINDOW,
  'width': 96,
  'depth': 1,
  'heads': 2,
}


@functools.cache
def _task():
  get = tasks.get('language_modelling')
  info = {
    'vocabulary_size': _VOCABULARY,
    'context_length': _WINDOW,
    'bytes_known': False,
  }
  return get(get.create_model(info, **_MODEL), info)


@functools.cache
def _variables():
  init = functools.partial(_task().model.init, train=False)
  found = jax.jit(init)(jax.random.key(0), _task().init_inputs())
  return jax.device_get(found)


def _batches():
  rng = np.random.default_rng(0)
  shape = (_BATCH, _WINDOW + 1)
  for _ in range(_STEPS):
    yield {
      'tokens': rng.integers(0, _VOCABULARY, shape).astype(np.int32),
      'length': np.full(_BATCH, _WINDOW, np.int32),
      'position': np.arange(_BATCH, dtype=np.int32),
    }


def _fns(layout, runs_on, method, loop='unroll'):
  name, options = method
  schedule = schedules.create('constant', learning_rate=1e-3, num_steps=_STEPS)
  return train_step.StepFns(
    task=_task(),
    apply_fn=runs_on.apply(_task().apply),
    method=methods.create(name, **options),
    optimizer=optimizers.create(
      'adamw',
      _variables()['params'],
      learning_rate=schedule,
      gradient_clipping=1.0,
      weight_decay=0.1,
      weight_decay_place='decoupled',
      eps=1e-3,  # no division by rounding errors
    ),
    ema_fn=None,
    learning_rate_fn=schedule,
    peak_learning_rate=1e-3,
    num_steps=_STEPS,
    layout=layout,
    loop=loop,
    collectives=runs_on.collectives,
    mantissa_bits=23,
    seed=0,
  )


def _run(devices, fsdp, method, *, m, b=None, loop='unroll'):
  """Returns the states after the steps, on the devices, and the program."""
  layout = layout_lib.create(_BATCH, devices, m, b or m, fsdp)
  runs_on = parallel.create('shard_map', layout, jax.devices()[:devices])
  fns = _fns(layout, runs_on, method, loop)
  step = functools.partial(train_step.train_step, fns=fns)
  batches = [runs_on.shard(batch) for batch in _batches()]
  state = runs_on.replicate(
    train_step.init_state(jax.tree.map(jnp.copy, _variables()), fns)
  )
  compiled = runs_on.compile(step, 1, 1).lower(state, batches[0]).compile()
  for batch in batches:
    state, _ = compiled(state, batch)
  return state, compiled.as_text()


def _difference(a, b):
  """Returns |a - b| / |b| over two trees."""
  pairs = zip(*map(jax.tree.leaves, jax.device_get((a, b))), strict=True)
  squares = np.sum([[np.sum((x - y) ** 2), np.sum(y**2)] for x, y in pairs], 0)
  return np.sqrt(squares[0] / squares[1])


_METHODS = {
  'sam': ('sam', {'rho': 0.05}),
  'looksam': ('looksam', {'rho': 0.05, 'every': 2}),
  'friendly_sam': ('friendly_sam', {'rho': 0.05}),
  'quarter': ('sam', {'rho': 0.05, 'ascent_share': 0.25}),
}


@functools.cache
def _alone(name, m, b):
  return _run(1, 1, _METHODS[name], m=m, b=b, loop='scan')[0].params


@pytest.mark.parametrize(
  ('name', 'fsdp', 'm', 'b', 'loop'),
  [
    ('sam', 4, 8, 8, 'unroll'),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in (
        ('sam', 8, 16, 8, 'vmap'),
        ('sam', 2, 4, 4, 'scan'),
        ('sam', 1, 2, 2, 'scan'),
        ('looksam', 4, 8, 8, 'scan'),
        ('friendly_sam', 4, 8, 8, 'unroll'),
        ('quarter', 2, 4, 4, 'scan'),
      )
    ),
  ],
)
def test_eight_devices_compute_what_one_does(name, fsdp, m, b, loop):
  state, _ = _run(8, fsdp, _METHODS[name], m=m, b=b, loop=loop)
  expected = _alone(name, m, b)
  assert _difference(state.params, expected) < 1e-5
  start = jax.tree.map(jnp.asarray, _variables()['params'])
  assert _difference(expected, start) > 1e-3


@pytest.mark.slow
def test_m_is_the_configs_and_not_what_the_devices_make_of_it():
  state, _ = _run(8, 4, _METHODS['sam'], m=8)
  whole, _ = _run(8, 8, _METHODS['sam'], m=16)
  assert _difference(state.params, whole.params) > 1e-5


def _share(values):
  """Returns the share of the bytes that is on one device."""
  leaves = jax.tree.leaves(values)
  own = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
  return own / sum(leaf.nbytes for leaf in leaves)


def test_parameters_and_states_stay_cut_and_go_over_the_wire_as_stated():
  """Each of two passes puts four large arrays together, and again backward."""
  state, text = _run(8, 4, _METHODS['friendly_sam'], m=8)
  large = [x for x in jax.tree.leaves(state.params) if x.size >= 2**13]
  assert len(large) == 4
  for part in (state.params, state.opt_state, state.method_state):
    assert _share(part) < 0.4
  shapes = '|'.join(','.join(map(str, x.shape)) for x in large)
  gathered = re.findall(rf'= f32\[(?:{shapes})\]\S* all-gather', text)
  assert len(gathered) == 2 * 2 * 4


@pytest.mark.parametrize(
  ('shape', 'size', 'expected'),
  [
    ((50257, 768), 4, (None, 'fsdp')),
    ((1024, 768), 4, ('fsdp',)),
    ((768, 768), 4, (None, 'fsdp')),
    ((768, 3, 12, 64), 8, ('fsdp',)),
    ((8191,), 1, ()),
    ((4, 4), 4, ()),
    ((333, 333), 2, ()),
    ((), 8, ()),
  ],
)
def test_the_longest_axis_that_can_be_is_cut(shape, size, expected):
  assert tuple(sharded.spec(shape, size)) == expected


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ((16, 8, 16, 16, 3), r'fsdp 3 .* 8 devices; .*\[1, 2, 4, 8\]'),
    ((16, 8, 16, 16, 2), r'one pert.* 4 sets of 2.*one of \[8\], or m'),
    ((16, 8, 4, 2, 4), r'fsdp 4 .* microbatch_size 2.* one of \[1, 2\]'),
    ((18, 8, 2, 2, 2), r'with fsdp 2, 2 devices count as one: .*4 devices'),
    ((16, 8, 16, 16, 0), 'fsdp is 0; it must be at least 1'),
  ],
)
def test_what_does_not_fit_is_refused_with_what_does(sizes, message):
  with pytest.raises(ValueError, match=message):
    layout_lib.create(*sizes)
