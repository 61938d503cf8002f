"""What JAX is set to outside of a run does not reach it."""

import contextlib

import jax
import numpy as np
import pytest

from sam_jax import keys
from sam_jax.runs import ambient, factories, loading
from tests import tiny

_OTHER = {
  'jax_default_prng_impl': 'rbg',
  'jax_threefry_partitionable': False,
  'jax_enable_x64': True,
  'jax_numpy_dtype_promotion': 'strict',
  'jax_default_matmul_precision': 'bfloat16',
  'jax_random_seed_offset': 3,
}


@contextlib.contextmanager
def _set_to_something_else():
  """As the variables of the environment, or another program, would."""
  before = {name: getattr(jax.config, name) for name in _OTHER}
  try:
    for name, value in _OTHER.items():
      jax.config.update(name, value)
    yield
    # And the run left them alone.
    assert {name: getattr(jax.config, name) for name in _OTHER} == _OTHER
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


@pytest.mark.slow
def test_a_run_does_not_depend_on_what_jax_is_set_to_nor_does_its_resumption(
  monkeypatch, tmp_path
):
  tiny.use_devices(monkeypatch, 1)
  # JAX traces them anew if what it is set to differs within a run.
  tiny.share_programs(monkeypatch, {})
  # Dropout, augmentation, mixing and a random perturbation: all that draws.
  fields = {'method.name': 'random', 'mixing.name': 'mixup', 'num_epochs': 1}
  fields |= {'m': 16, 'microbatch_size': 16}
  tiny.train(tmp_path / 'plain', **fields)
  expected = _predictions(tmp_path / 'plain')
  with _set_to_something_else():
    tiny.crash_at(monkeypatch, tmp_path / 'other', 4, **fields)
    found = _predictions(tmp_path / 'plain')
  tiny.train(tmp_path / 'other', **fields)
  tiny.assert_same_run(tmp_path / 'other', tmp_path / 'plain')
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def _predictions(workdir):
  restored = loading.restore(workdir)
  dtypes = {str(x.dtype) for x in jax.tree.leaves(restored.variables)}
  assert dtypes == {'float32'}
  examples = factories.load_data(restored.config).evaluation
  return next(restored.predict(examples.select(slice(8))))


def test_settings_hold_within_a_run_alone():
  with _set_to_something_else(), ambient.pinned():
    assert jax.numpy.ones(2).dtype == 'float32'
    assert jax.random.key(0).dtype == keys.make(0).dtype
    assert jax.numpy.ones(2) + jax.numpy.arange(2) is not None


@pytest.mark.parametrize('seed', [0, 1, 2**31 - 1, 2**32 - 1, -1])
def test_a_key_is_that_of_jaxs_defaults(seed):
  with jax.default_prng_impl('rbg'):
    key = keys.make(seed)
  expected = jax.random.key(np.uint32(seed % 2**32), impl='threefry2x32')
  assert key.dtype == expected.dtype
  np.testing.assert_array_equal(
    jax.random.key_data(key), jax.random.key_data(expected)
  )
