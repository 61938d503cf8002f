"""The mean over a data set, however it is cut and wherever it is computed."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import analysis
from tests import curved

# Sums of 64 numbers of order 1 in float32, in another order.
_CLOSE = 2e-6


def _expected():
  value, grads = jax.value_and_grad(
    lambda p: jnp.mean(curved.loss(p, curved.DATA))
  )(curved.PARAMS)
  product = curved.whole_hessian() @ curved.flat(curved.PARAMS)
  return float(value), curved.flat(grads), product


@pytest.mark.slow
@pytest.mark.parametrize(
  ('size', 'devices'), [(64, 1), (7, 1), (24, 2), (9, 8), (3, 8)]
)
def test_neither_batches_nor_devices_change_the_mean(size, devices):
  objective = curved.objective(size, devices)
  value, grads, product = _expected()
  found, found_grads = objective.value_and_grad(curved.PARAMS)
  assert objective.value(curved.PARAMS) == pytest.approx(value, abs=_CLOSE)
  assert found == pytest.approx(value, abs=_CLOSE)
  np.testing.assert_allclose(curved.flat(found_grads), grads, atol=_CLOSE)
  hvp = objective.hvp(curved.PARAMS, curved.PARAMS)
  assert jax.tree.structure(hvp) == jax.tree.structure(curved.PARAMS)
  np.testing.assert_allclose(curved.flat(hvp), product, atol=5 * _CLOSE)


def _mean_loss(params, batch):
  return jnp.mean(curved.loss(params, batch))


def test_a_loss_may_be_the_mean_of_its_batch():
  value, _, _ = _expected()
  objective = curved.objective(16, 8, _mean_loss)
  assert objective.value(curved.PARAMS) == pytest.approx(value, abs=_CLOSE)


def test_means_of_batches_that_cannot_be_spread_evenly_are_refused():
  objective = curved.objective(12, 8, _mean_loss)
  with pytest.raises(ValueError, match='12 examples for 8 devices.*one loss'):
    objective.value(curved.PARAMS)


def test_a_loss_of_another_shape_is_refused():
  objective = curved.objective(loss_fn=lambda p, b: b['x'] @ p['a'])
  with pytest.raises(ValueError, match=r'\[24, 13\].*one loss per example'):
    objective.value(curved.PARAMS)


def test_no_examples_are_refused():
  with pytest.raises(ValueError, match='batches is empty'):
    analysis.Objective(curved.loss, []).value(curved.PARAMS)


def test_what_fills_up_does_not_count_even_if_it_is_nan():
  def loss(params, batch):
    # The copies of the last example are what makes the rows of a device equal.
    return jnp.where(batch['x'] == 3, jnp.nan, params * batch['x'])

  data = {'x': np.float32([1, 2, 3])}
  objective = analysis.Objective(
    loss, [{'x': data['x'][:2]}], batch_size=8, devices=jax.devices()[:1]
  )
  assert objective.value(jnp.float32(2)) == 3


def test_batches_may_be_made_anew_and_few_are_alive_at_a_time():
  alive, most = set(), []

  class Tracked(np.ndarray):
    pass

  def batches():
    for batch in curved.cut(curved.DATA, 2):
      x = batch['x'].copy().view(Tracked)
      alive.add(id(x))
      weakref.finalize(x, alive.discard, id(x))
      most.append(len(alive))
      yield {'x': x, 'y': batch['y']}
      del x

  objective = analysis.Objective(
    curved.loss, batches, devices=jax.devices()[:1]
  )
  twice = [objective.value(curved.PARAMS) for _ in range(2)]
  assert twice[0] == twice[1]
  assert len(most) == 64
  assert max(most) <= 3


def test_another_data_set_needs_no_other_compilation():
  traces = []

  def loss(params, batch):
    traces.append(batch['x'].shape)
    return curved.loss(params, batch)

  objective = curved.objective(8, loss_fn=loss)
  objective.value(curved.PARAMS)
  first = len(traces)
  part = jax.tree.map(lambda x: x[:20], curved.DATA)
  other = objective.over(curved.cut(part, 8))
  value = other.value(curved.PARAMS)
  assert len(traces) == first
  expected = float(np.mean(curved.loss(curved.PARAMS, part)))
  assert value == pytest.approx(expected, abs=_CLOSE)


def test_sums_are_float32_whatever_the_parameters():
  params = jax.tree.map(jnp.bfloat16, curved.PARAMS)
  _, grads = curved.objective(1).value_and_grad(params)
  assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype('float32')}


def test_every_walk_is_told():
  told = []
  objective = curved.objective(on_pass=told.append)
  objective.value(curved.PARAMS)
  objective.hvp(curved.PARAMS, curved.PARAMS)
  assert told == [64, 64]


def test_constants_are_arguments_that_are_not_differentiated():
  """One program for several constants, on all devices."""
  rows = {'x': np.arange(6, dtype=np.float32).reshape(3, 2)}
  params = np.float32([1, -2])
  texts = []
  for factor in (2.0, 3.0):
    objective = analysis.Objective(
      lambda w, batch, c: c['factor'] * (batch['x'] @ w) ** 2,
      [rows],
      constants={'factor': np.float32(factor)},
    )
    product = rows['x'] @ params
    value, grads = objective.value_and_grad(params)
    assert value == pytest.approx(factor * np.mean(product**2))
    expected = 2 * factor * np.mean(product[:, None] * rows['x'], axis=0)
    np.testing.assert_allclose(grads, expected, rtol=1e-6)
    seen = jax.make_jaxpr(lambda w, o=objective: o.hvp(w, w))(params)
    texts.append(str(seen.jaxpr))
  assert texts[0] == texts[1]
