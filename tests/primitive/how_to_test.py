"""The how-to pages of the docs compute what they say.

That all blocks of all pages run is tested in tests/docs; here are the numbers
of those on which another algorithm would look the same.
"""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sam_jax

_PAGES = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'how-to'
_BLOCK = re.compile(r'^```python\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_RHO = 0.05


def _run(page):
  """Returns what the blocks of a page define, executed in order."""
  path = _PAGES / f'{page}.md'
  text, found = path.read_text(encoding='utf-8'), {}
  for match in _BLOCK.finditer(text):
    lines = '\n' * text[: match.start(1)].count('\n')
    exec(compile(lines + match[1], str(path), 'exec'), found)
  return found


def _squared_error(w, x, y):
  return jnp.mean((x @ w - y) ** 2)


def _sam(fun, *args):
  return sam_jax.value_and_grad(fun, sam_jax.l2(_RHO))(*args)


def _assert_close(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    actual,
    expected,
  )


def _of_groups(count):
  """Mean of the SAM gradients of as many groups, one after the other."""

  def check(found):
    parts = zip(
      jnp.split(found['x'], count), jnp.split(found['y'], count), strict=True
    )
    w = jnp.ones((3, 1))
    grads = [_sam(_squared_error, w, x, y)[1] for x, y in parts]
    return sum(grads) / count

  return check


def _per_device(found):
  expected = _of_groups(8)(found)
  _assert_close((found['w'] - found['new_w']) / 0.1, expected)
  _assert_close(found['grads'], expected)  # LookSAM's first step is SAM's
  assert np.abs(expected - _of_groups(1)(found)).max() > 1e-3


def _whole_batch(found):
  _assert_close(found['grads'], _of_groups(1)(found))


def _any_m(found):
  _whole_batch(found)
  _assert_close(found['group_grads'], _of_groups(4)(found))


def _synced(found):
  """The sum of the losses of 8 copies, with respect to each copy."""
  xs, ys = (jnp.stack(jnp.split(found[k], 8)) for k in 'xy')

  def losses(copies):
    over = functools.partial(jnp.mean, axis=(0, 1), keepdims=True)
    mean, square = over(xs), over(xs**2)
    normal = (xs - mean) / jnp.sqrt(square - mean**2 + 1e-5)
    out = normal * copies['scale'][:, None] + copies['bias'][:, None]
    return jnp.mean((out[..., :1] - ys) ** 2, axis=(1, 2))

  params = found['variables']['params']
  copies = jax.tree.map(lambda p: jnp.tile(p, (8, 1)), params)
  grads = jax.grad(lambda c: losses(c).sum())
  epsilon = jax.vmap(lambda g: sam_jax.l2(_RHO)(g, None))(grads(copies))
  moved = jax.tree.map(jnp.add, copies, epsilon)
  expected = jax.tree.map(lambda g: g.mean(0), grads(moved))
  _assert_close(found['grads'], expected)
  _assert_close(found['loss'], losses(copies).mean())


def _sliced(found):
  def loss_fn(params, x, y):
    hidden = jnp.tanh(x @ params['in'])
    return jnp.mean((hidden @ params['out'] + params['bias'] - y) ** 2)

  args = found['params'], found['x'], found['y']
  slices = found['split_loss'], found['split_grads']
  _assert_close(slices, _sam(loss_fn, *args))


def _devices(found):
  _per_device(found)
  _sliced(found)


def _pieces(found):
  _assert_close(found['piece_grads'], _of_groups(4)(found))
  _assert_close(found['whole_grads'], _of_groups(1)(found))


def _scaled(found):
  expected = _sam(_squared_error, jnp.ones((3, 1)), found['x'], found['y'])
  # The products are rounded to float16.
  np.testing.assert_allclose(found['grads'], expected[1], rtol=2e-3, atol=2e-3)
  assert found['is_finite'] and found['scale'].scale == 1024
  _assert_close(found['left'], 0.0)


def _masked(found):
  epsilon = found['info'].epsilon
  assert not epsilon['dense']['kernel'].any()
  norm = jnp.linalg.norm(jnp.concatenate(jax.tree.leaves(epsilon['norm'])))
  _assert_close(norm, _RHO)


_CHECKS = {
  'batch_norm': _synced,
  'frozen_parameters': _masked,
  'gradient_accumulation': _pieces,
  'jit_shardings': _any_m,
  'mixed_precision': _scaled,
  'pmean': _whole_batch,
  'shard_map': _devices,
}


@pytest.mark.slow
@pytest.mark.parametrize('page', _CHECKS)
def test_a_how_to_page_computes_what_it_says(page):
  _CHECKS[page](_run(page))


def test_a_pmean_of_the_losses_of_copies_is_refused():
  mesh = jax.make_mesh((8,), ('data',), (jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec

  def step(w, x, y):
    local = jax.lax.pcast(w, ('data',), to='varying')
    mean = lambda *args: jax.lax.pmean(_squared_error(*args), 'data')
    return _sam(mean, local, x, y)

  with pytest.raises(ValueError, match='the value of the loss does not'):
    jax.eval_shape(
      jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(spec(), spec('data'), spec('data')),
        out_specs=(spec(), spec('data')),
      ),
      *(jnp.ones((3, 1)), jnp.ones((8, 3)), jnp.ones((8, 1))),
    )
