import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.training import microbatches

LOOPS = ('scan', 'unroll', 'vmap')


def _pieces(count):
  rng = np.random.default_rng(0)
  return {
    'x': rng.normal(size=(count, 2, 3)).astype(np.float32),
    'k': np.arange(count, dtype=np.int32),
  }


def _fn(piece):
  """Tree-valued and not linear, so that the order of fn and mean matters."""
  return {'tanh': jnp.tanh(piece['x']), 'rest': (piece['k'] ** 2 / 1.0, {})}


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('count', [1, 2, 5])
def test_every_loop_returns_the_mean_of_the_pieces(loop, count):
  """Keras adds up the gradients of the groups."""
  pieces = _pieces(count)
  mean = jax.jit(lambda p: microbatches.mean(_fn, p, loop))(pieces)
  # A few float32 roundings; the loops add in different orders.
  np.testing.assert_allclose(
    mean['tanh'], np.tanh(pieces['x']).mean(0), rtol=1e-6, atol=1e-7
  )
  np.testing.assert_allclose(mean['rest'][0], (pieces['k'] ** 2.0).mean())
  assert mean['rest'][1] == {}


@pytest.mark.parametrize(
  'loop, applied', [('scan', 1), ('unroll', 5), ('vmap', 1)]
)
def test_only_unroll_puts_every_piece_into_the_program(loop, applied):
  jaxpr = jax.make_jaxpr(lambda p: microbatches.mean(_fn, p, loop))(_pieces(5))
  assert str(jaxpr).count(' tanh ') == applied
  assert ('scan[' in str(jaxpr)) == (loop == 'scan')


@pytest.mark.parametrize('loop', LOOPS)
def test_one_piece_needs_no_loop(loop):
  jaxpr = str(
    jax.make_jaxpr(lambda p: microbatches.mean(_fn, p, loop))(_pieces(1))
  )
  assert 'scan[' not in jaxpr
  assert 'f32[2,3] = tanh' in jaxpr  # no batch axis either


@pytest.mark.parametrize(
  'loop, platform, count, expected',
  [
    ('auto', 'cpu', 1, 'unroll'),
    ('auto', 'cpu', 8, 'unroll'),
    ('auto', 'cpu', 9, 'vmap'),
    ('auto', 'gpu', 1, 'scan'),
    ('auto', 'tpu', 100, 'scan'),
    ('scan', 'cpu', 100, 'scan'),
    ('vmap', 'gpu', 2, 'vmap'),
    ('unroll', 'cpu', 100, 'unroll'),
  ],
)
def test_auto_never_scans_on_cpu(loop, platform, count, expected):
  assert microbatches.resolve(loop, platform, count) == expected


def test_an_unknown_loop_is_refused_with_the_known_ones():
  with pytest.raises(
    ValueError, match="'for'; known: auto, scan, unroll, vmap"
  ):
    microbatches.resolve('for', 'cpu', 1)
