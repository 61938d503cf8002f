"""The recipes of the docs run, and compute what the page says."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sam_jax

_PAGE = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'recipes.md'
_RHO = 0.05


def _sections():
  """Heading -> blocks of code, each after as many empty lines as precede it."""
  text = _PAGE.read_text(encoding='utf-8')
  sections, heading = {}, ''
  pattern = re.compile(r'^## ([^\n]*)$|^```python\n(.*?)^```$', re.M | re.S)
  for match in pattern.finditer(text):
    heading = match[1] or heading
    if match[2] is not None:
      code = '\n' * text[: match.start(2)].count('\n') + match[2]
      sections.setdefault(heading, []).append(code)
  return sections


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


def _split(found):
  def loss_fn(params, x, y):
    hidden = jnp.tanh(x @ params['in'])
    return jnp.mean((hidden @ params['out'] + params['bias'] - y) ** 2)

  args = found['params'], found['x'], found['y']
  _assert_close((found['loss'], found['grads']), _sam(loss_fn, *args))


def _scaled(found):
  expected = _sam(_squared_error, jnp.ones((3, 1)), found['x'], found['y'])
  # The products are rounded to float16.
  np.testing.assert_allclose(found['grads'], expected[1], rtol=2e-3, atol=2e-3)
  assert found['is_finite'] and found['scale'].scale == 1024


def _masked(found):
  epsilon = found['perturbation'](found['params'], found['params'])
  assert not epsilon['dense']['kernel'].any()
  norm = jnp.linalg.norm(jnp.concatenate(jax.tree.leaves(epsilon['norm'])))
  _assert_close(norm, _RHO)


def _is_finite(found):
  assert np.isfinite(found['loss'])


_CHECKS = {
  '': lambda found: None,
  'Flax Linen and optax': _is_finite,
  'Flax NNX': _is_finite,
  'Equinox': _is_finite,
  'Loss scaling': _scaled,
  'Some of the parameters': _masked,
  'Each device perturbs for itself': _per_device,
  'A mean over devices inside the loss': _whole_batch,
  'BatchNorm over all devices, a perturbation for each': _synced,
  'Parameters that are split over devices': _split,
  'jit with sharded arrays: any m': _any_m,
  'Parameters in bfloat16': lambda found: _assert_close(found['left'], 0.0),
}


@pytest.mark.slow
def test_every_recipe_computes_what_the_page_says():
  sections = _sections()
  assert list(sections) == list(_CHECKS)
  found = {}
  for heading, blocks in sections.items():
    for block in blocks:
      exec(compile(block, str(_PAGE), 'exec'), found)
    _CHECKS[heading](found)


def test_what_the_page_says_is_refused_is_refused():
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
