"""Running one per-device step on many devices.

`train_step` and `evaluate` are written for one device and take the averages
that they need as functions. A `Parallel` supplies these and compiles the step,
either as `jax.jit(jax.shard_map(...))` over a mesh ('group', 'member') or, as
the official release does, as `jax.pmap` with index groups. Both compute the
same numbers. On one device the former is a plain `jax.jit`.

Where the devices of a group share one copy of the parameters (`Layout.fsdp`),
the step is written for a group: `shard_map` is over 'group' alone, and how the
arrays of a group are cut over its devices is the compiler's matter, which
`sharded` tells it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sam_jax import lookup, tree, types
from sam_jax.training import layout as layout_lib, sharded

_AXES = ('group', 'member')
_PMAP_AXIS = 'device'


class Collectives(NamedTuple):
  """What a per-device step knows of the other devices.

  Attributes:
    vary: marks a replicated tree as this device's own. Without it `shard_map`
      sums the gradient with respect to it over all devices, which makes m the
      global batch; the cast is what keeps m-sharpness.
    group_mean: mean over the devices that share a group.
    global_mean: mean over all devices, of what is the same within a group.
    global_sum: sum over all devices.
    axes: names of the mapped axes, together all devices.
    spread: of arrays `[pieces, examples, ...]`, cuts the examples over the
      devices that share the step; most often there is one.
  """

  vary: Callable[[types.PyTree], types.PyTree]
  group_mean: Callable[[types.PyTree], types.PyTree]
  global_mean: Callable[[types.PyTree], types.PyTree]
  global_sum: Callable[[types.PyTree], types.PyTree]
  axes: tuple[str, ...]
  spread: Callable[[types.PyTree], types.PyTree] = lambda values: values


class Parallel(NamedTuple):
  """How a step runs on the devices of a layout.

  Attributes:
    collectives: for the step.
    compile: `(step, num_replicated, num_donated) -> compiled step`; `step`
      takes that many replicated arguments, the first of them donated, and a
      batch; its results are replicated.
    replicate: puts a tree on every device; it may take the arrays over, so
      that donating the result deletes them.
    unreplicate: the inverse: one copy of each array.
    shard: spreads a host batch `[batch, ...]` over the devices.
    apply: makes of a model's `apply` one that takes replicated variables, as
      the step has them.
    sharding: of an array that `replicate` has cut over the devices; None if it
      cuts none.
    batch_sharding: of the arrays of a batch, likewise.
  """

  collectives: Collectives
  compile: Callable[..., Callable[..., Any]]
  replicate: Callable[[types.PyTree], types.PyTree]
  unreplicate: Callable[[types.PyTree], types.PyTree]
  shard: Callable[[types.PyTree], types.PyTree]
  apply: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda fn: fn
  sharding: Callable[[Any], jax.sharding.Sharding] | None = None
  batch_sharding: jax.sharding.Sharding | None = None


def is_first_process() -> bool:
  """Whether this process is the one that writes and reports."""
  return jax.process_index() == 0


def process_rows(batch_size: int) -> tuple[int, int]:
  """Returns (start, stop), the rows of a batch that this process feeds.

  Args:
    batch_size: rows over all processes, a multiple of the devices.
  """
  rows = batch_size // jax.process_count()
  return jax.process_index() * rows, (jax.process_index() + 1) * rows


def any_process(value: bool) -> bool:
  """Returns whether the value is true in any process; all have to ask."""
  from jax.experimental import multihost_utils

  return bool(np.any(multihost_utils.process_allgather(np.array(value))))


def wait_for_all() -> None:
  """Returns when all processes are here."""
  if jax.process_count() > 1:
    any_process(False)


def from_first_process(array: np.ndarray) -> np.ndarray:
  """Returns the first process's array; all have to ask, with one like it."""
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.broadcast_one_to_all(array))


def which_differs(array: np.ndarray) -> str | None:
  """Returns which process has another array than the first one.

  Args:
    array: of this process; all have to ask, with one of the same shape.

  Returns:
    'this' or 'another', None if all agree.
  """
  if jax.process_count() == 1:
    return None
  differs = bool((from_first_process(array) != array).any())
  if not any_process(differs):
    return None
  return 'this' if differs else 'another'


def _vary(axes: Sequence[str]) -> Callable[[types.PyTree], types.PyTree]:
  """Returns a cast to varying over these axes."""
  return lambda values: jax.tree.map(lambda x: tree.vary(x, axes), values)


def _reduce(
  reduction: Callable[..., jax.Array], axes: Sequence[str]
) -> Callable[[types.PyTree], types.PyTree]:
  """Returns a reduction over those of the axes over which a leaf varies."""

  def reduce_leaf(x: jax.Array) -> jax.Array:
    varying = tuple(a for a in axes if a in tree.varying(x))
    return reduction(x, varying) if varying else x

  return lambda values: jax.tree.map(reduce_leaf, values)


def _one_device(device: jax.Device) -> Parallel:
  """Returns plain jit, for there is nothing to average.

  Averages over one device would cost nothing in the end, but XLA:CPU first
  tries to combine those of all leaves, in a time that grows with the square of
  the program: PyramidNet-272 did not compile in ten minutes.
  """

  def identity(values: types.PyTree) -> types.PyTree:
    return values

  def compile_step(
    step: Callable[..., Any], num_replicated: int, num_donated: int
  ) -> Callable[..., Any]:
    del num_replicated
    return jax.jit(step, donate_argnums=tuple(range(num_donated)))

  def put(values: types.PyTree) -> types.PyTree:
    return jax.device_put(values, device)

  return Parallel(
    collectives=Collectives(
      vary=identity,
      group_mean=identity,
      global_mean=identity,
      global_sum=identity,
      axes=(),
    ),
    compile=compile_step,
    replicate=put,
    unreplicate=identity,
    shard=put,
  )


def _shard_map(layout: layout_lib.Layout, devices: Sequence) -> Parallel:
  """Returns the default way: jit of shard_map."""
  if layout.num_devices == 1:
    return _one_device(devices[0])
  copies = layout.fsdp  # devices that hold one of the parameters
  manual = _AXES[:1] if copies > 1 else _AXES
  mesh = jax.sharding.Mesh(
    np.array(devices).reshape(layout.group_axis, -1),
    (*manual, sharded.AXIS)[:2],
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )
  # XLA refuses to average over one set of devices that share their parameters.
  axes = manual if copies == 1 or layout.group_axis > 1 else ()
  split = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(mesh.axis_names)
  )

  def sharding(x: Any) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(mesh, sharded.spec(np.shape(x), copies))

  def compile_step(
    step: Callable[..., Any], num_replicated: int, num_donated: int
  ) -> Callable[..., Any]:
    whole = jax.sharding.PartitionSpec()
    mapped = jax.shard_map(
      step if copies == 1 else lambda *a: sharded.cut(step(*a), copies),
      mesh=mesh,
      in_specs=(whole,) * num_replicated + (jax.sharding.PartitionSpec(axes),),
      out_specs=whole,
      axis_names=set(manual),
    )
    return jax.jit(mapped, donate_argnums=tuple(range(num_donated)))

  def replicate(values: types.PyTree) -> types.PyTree:
    if jax.process_count() > 1:
      # Every process has all of it; devices of others take no array from here.
      values = jax.tree.map(_on_host, values)
    return jax.device_put(values, jax.tree.map(sharding, values))

  def shard(batch: types.PyTree) -> types.PyTree:
    if jax.process_count() == 1:
      return jax.device_put(batch, split)
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(split, x), batch
    )

  made = Parallel(
    collectives=Collectives(
      vary=_vary(axes),
      group_mean=_reduce(jax.lax.pmean, axes[1:]),
      global_mean=_reduce(jax.lax.pmean, axes),
      global_sum=_reduce(jax.lax.psum, axes),
      axes=axes,
    ),
    compile=compile_step,
    replicate=replicate,
    unreplicate=lambda values: values,
    shard=shard,
  )
  if copies == 1:
    return made
  return made._replace(
    collectives=made.collectives._replace(spread=sharded.spread),
    apply=lambda fn: sharded.gathering(fn, copies),
    sharding=sharding,
    batch_sharding=split,
  )


def _on_host(x: Any) -> Any:
  """Returns an array of this process alone as one of NumPy's."""
  is_shared = isinstance(x, jax.Array) and not x.is_fully_addressable
  return x if is_shared else jax.device_get(x)


def _pmap(layout: layout_lib.Layout, devices: Sequence) -> Parallel:
  """Returns the official release's way: pmap with index groups."""
  if jax.process_count() > 1:
    raise ValueError(
      f"parallel='pmap' runs in one process, not in {jax.process_count()}; "
      "use parallel='shard_map'"
    )
  num_devices, members = layout.num_devices, layout.member_axis
  index_groups = np.arange(num_devices).reshape(-1, members).tolist()
  mesh = jax.sharding.Mesh(np.array(devices), (_PMAP_AXIS,))
  stacked = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(_PMAP_AXIS)
  )

  def compile_step(
    step: Callable[..., Any], num_replicated: int, num_donated: int
  ) -> Callable[..., Any]:
    del num_replicated
    return jax.pmap(
      step,
      axis_name=_PMAP_AXIS,
      devices=devices,
      donate_argnums=tuple(range(num_donated)),
    )

  def group_mean(values: types.PyTree) -> types.PyTree:
    if members == 1:
      return values
    return jax.lax.pmean(values, _PMAP_AXIS, axis_index_groups=index_groups)

  def replicate(values: types.PyTree) -> types.PyTree:
    copies = jax.tree.map(lambda x: np.stack([x] * num_devices), values)
    return jax.device_put(copies, stacked)

  def shard(batch: types.PyTree) -> types.PyTree:
    split = jax.tree.map(
      lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch
    )
    return jax.device_put(split, stacked)

  return Parallel(
    collectives=Collectives(
      vary=lambda values: values,
      group_mean=group_mean,
      global_mean=lambda values: jax.lax.pmean(values, _PMAP_AXIS),
      global_sum=lambda values: jax.lax.psum(values, _PMAP_AXIS),
      axes=(_PMAP_AXIS,),
    ),
    compile=compile_step,
    replicate=replicate,
    unreplicate=lambda values: jax.tree.map(lambda x: x[0], values),
    shard=shard,
  )


_PARALLEL = {'shard_map': _shard_map, 'pmap': _pmap}


def names() -> list[str]:
  """Returns the ways that `create` knows, sorted."""
  return sorted(_PARALLEL)


def create(
  name: str, layout: layout_lib.Layout, devices: Sequence | None = None
) -> Parallel:
  """Returns how to run a step on the devices of a layout.

  Args:
    name: 'shard_map' or 'pmap'.
    layout: says how many devices, and which of them share a group.
    devices: as many; None means all that there are, those of one process
      side by side, as `process_rows` has it: on a TPU pod JAX may list them in
      another order.

  Raises:
    ValueError: an unknown name, another number of devices than the layout's,
      or pmap in several processes.
  """
  if devices is None:
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
  lookup.check('parallel', name, names())
  if len(devices) != layout.num_devices:
    raise ValueError(
      f'{len(devices)} devices were given to a layout for {layout.num_devices}'
    )
  return _PARALLEL[name](layout, devices)
