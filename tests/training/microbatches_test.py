import re

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


def test_a_loop_has_its_convolutions_in_the_order_that_is_fast_on_a_cpu():
  def fn(piece):
    return jax.grad(lambda w: jnp.sum(_convolve(piece, w) ** 2))(kernel)

  kernel = jnp.ones((3, 3, 2, 4))
  pieces = jnp.ones((3, 2, 5, 5, 2))
  jaxpr = str(
    jax.make_jaxpr(lambda p: microbatches.mean(fn, p, 'scan'))(pieces)
  )
  specs = re.findall(r'(?:lhs|rhs|out)_spec=\(([^)]*)\)', jaxpr)
  assert len(specs) == 6  # of the convolution and of its gradient
  assert set(specs) == {'0, 3, 1, 2', '3, 2, 0, 1'}


def _convolve(x, w):
  return jax.lax.conv_general_dilated(
    x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
