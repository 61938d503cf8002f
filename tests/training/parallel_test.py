import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.training import layout as layout_lib, parallel

NAMES = ('shard_map', 'pmap')
# Devices, and how many of them share a group.
SHAPES = ((1, 1), (4, 1), (4, 2), (8, 4), (4, 4))


def _create(name, devices, members=1):
  """Two examples per device."""
  batch_size = 2 * devices
  layout = layout_lib.create(batch_size, devices, m=2 * members)
  assert layout.member_axis == members
  return parallel.create(name, layout, jax.devices()[:devices])


def _run(runs_on, devices, fn, state=0.0):
  """Returns what fn(state, x) gives on each device, where x = [2 d, 2 d + 1].

  Gathered with `global_sum`, as results have to be the same everywhere.
  """

  def step(state, batch):
    here = jax.nn.one_hot(batch['x'][0].astype(int) // 2, devices)
    return runs_on.collectives.global_sum(fn(state, batch['x']) * here)

  batch = runs_on.shard({'x': np.arange(2 * devices, dtype=np.float32)})
  compiled = runs_on.compile(step, 1, 0)
  result = compiled(runs_on.replicate(np.float32(state)), batch)
  return np.array(runs_on.unreplicate(result))


@pytest.mark.parametrize('devices, members', SHAPES)
@pytest.mark.parametrize('name', NAMES)
def test_each_device_gets_its_part_of_the_batch_in_order(
  name, devices, members
):
  runs_on = _create(name, devices, members)
  sums = _run(runs_on, devices, lambda state, x: state + x.sum(), state=10.0)
  np.testing.assert_array_equal(sums, 11 + 4 * np.arange(devices))


@pytest.mark.parametrize('devices, members', SHAPES)
@pytest.mark.parametrize('name', NAMES)
def test_group_means_are_over_neighbours_and_global_means_over_all(
  name, devices, members
):
  runs_on = _create(name, devices, members)
  collectives = runs_on.collectives
  first = 2.0 * np.arange(devices)
  by_group = first.reshape(-1, members).mean(1)
  np.testing.assert_allclose(
    _run(runs_on, devices, lambda _, x: collectives.group_mean(x[0])),
    np.repeat(by_group, members),
  )
  np.testing.assert_allclose(
    _run(
      runs_on,
      devices,
      lambda _, x: collectives.global_mean(collectives.group_mean(x[0])),
    ),
    np.full(devices, first.mean()),
  )
  np.testing.assert_allclose(
    _run(runs_on, devices, lambda _, x: collectives.global_sum(x[0])),
    np.full(devices, first.sum()),
  )


@pytest.mark.parametrize('name', NAMES)
def test_the_mean_of_what_is_the_same_everywhere_is_itself(name):
  runs_on = _create(name, 4, 2)
  for mean in (runs_on.collectives.group_mean, runs_on.collectives.global_mean):
    same = _run(runs_on, 4, lambda s, x, f=mean: f({'a': s})['a'], state=3.0)
    np.testing.assert_array_equal(same, np.full(4, 3.0))


@pytest.mark.parametrize('devices, members', SHAPES)
@pytest.mark.parametrize('name', NAMES)
def test_the_axes_are_those_of_all_devices(name, devices, members):
  runs_on = _create(name, devices, members)
  axes = runs_on.collectives.axes
  first = 2.0 * np.arange(devices)
  np.testing.assert_allclose(
    _run(runs_on, devices, lambda _, x: jax.lax.pmean(x[0], axes)),
    np.full(devices, first.mean()),
  )


@pytest.mark.parametrize('name', NAMES)
def test_what_was_made_to_vary_is_differentiated_on_each_device_alone(name):
  runs_on = _create(name, 4)
  vary = runs_on.collectives.vary
  gradient = jax.grad(lambda w, x: (w * x).sum())
  local = _run(runs_on, 4, lambda w, x: gradient(vary(vary(w)), x), state=1.0)
  np.testing.assert_array_equal(local, 1 + 4 * np.arange(4))


def test_without_the_cast_shard_map_sums_gradients_over_devices():
  runs_on = _create('shard_map', 4)
  gradient = jax.grad(lambda w, x: (w * x).sum())
  summed = _run(runs_on, 4, gradient, state=1.0)
  np.testing.assert_array_equal(summed, np.full(4, np.arange(8.0).sum()))


@pytest.mark.parametrize('name', NAMES)
def test_replicating_and_back_changes_nothing(name):
  runs_on = _create(name, 4)
  tree = {'a': np.arange(6.0, dtype=np.float32).reshape(2, 3), 'b': (7, {})}
  tree = jax.tree.map(np.asarray, tree)
  replicated = runs_on.replicate(tree)
  for leaf in jax.tree.leaves(replicated):
    assert len(leaf.sharding.device_set) == 4
  jax.tree.map(
    np.testing.assert_array_equal, runs_on.unreplicate(replicated), tree
  )


@pytest.mark.parametrize('name', NAMES)
def test_only_the_donated_argument_is_given_up(name):
  runs_on = _create(name, 4)

  def step(state, constant, batch):
    mean = runs_on.collectives.global_mean(batch['x'].mean())
    return state + constant * mean

  compiled = runs_on.compile(step, 2, 1)
  state, constant = runs_on.replicate((jnp.ones(3), jnp.full(3, 2.0)))
  batch = runs_on.shard({'x': np.arange(8, dtype=np.float32)})
  new_state = compiled(state, constant, batch)
  np.testing.assert_array_equal(runs_on.unreplicate(new_state), np.full(3, 8.0))
  assert state.is_deleted()
  assert not constant.is_deleted()


def test_an_unknown_way_is_refused_with_the_known_ones():
  layout = layout_lib.create(8, 8)
  with pytest.raises(ValueError, match="'jit'; known: pmap, shard_map"):
    parallel.create('jit', layout)


@pytest.mark.parametrize('name', NAMES)
def test_another_number_of_devices_than_the_layouts_is_refused(name):
  layout = layout_lib.create(8, 4)
  with pytest.raises(ValueError, match='8 devices were given .* for 4'):
    parallel.create(name, layout)


def test_pmap_refuses_several_processes(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match="not in 2; use parallel='shard_map'"):
    parallel.create('pmap', layout_lib.create(8, 8))


def test_devices_of_one_process_are_side_by_side(monkeypatch):
  listed = [types.SimpleNamespace(id=i, process_index=i % 2) for i in range(6)]
  monkeypatch.setattr(jax, 'devices', lambda: listed)
  # No backend has such an order here: what is made of it is what is checked.
  monkeypatch.setitem(
    parallel._PARALLEL, 'shard_map', lambda layout, devices: devices
  )
  devices = parallel.create('shard_map', layout_lib.create(6, 6, m=1))
  assert [d.process_index for d in devices] == [0, 0, 0, 1, 1, 1]
  assert [d.id for d in devices] == [0, 2, 4, 1, 3, 5]
