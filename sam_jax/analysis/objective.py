"""The mean loss of a whole data set, its gradient and its curvature.

Everything that is measured of a loss passes through here: batches of the host
are spread over the devices as in training, one compiled program adds what each
contributes to a sum on the device, in at least float32, and no more than two
batches are on their way at a time, so that memory does not grow with the data
set.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import tree, types
from sam_jax.analysis import checks
from sam_jax.training import layout as layout_lib, parallel as parallel_lib

Batch = types.PyTree
Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]
LossFn = Callable[..., jax.Array]


class Objective:
  """L(w), the mean of a loss over all examples of a data set.

  The result depends neither on how the examples are cut into batches nor on
  the number of devices, up to the rounding of sums in another order, unless
  the loss itself looks at a whole batch.

  Example:
    >>> import jax.numpy as jnp, numpy as np
    >>> from sam_jax import analysis
    >>> def loss_fn(params, batch):
    ...   return 0.5 * batch['scale'] * jnp.sum(params**2)
    >>> batches = [{'scale': np.float32([1, 2])}, {'scale': np.float32([6])}]
    >>> objective = analysis.Objective(loss_fn, batches)
    >>> print(objective.value(jnp.array([1.0, 2.0])))
    7.5
    >>> print(objective.hvp(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])))
    [3. 0.]
  """

  def __init__(
    self,
    loss_fn: LossFn,
    batches: Batches,
    *,
    constants: types.PyTree = None,
    batch_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_pass: Callable[[int], None] = lambda examples: None,
  ) -> None:
    """Takes what is measured; nothing is computed yet.

    Args:
      loss_fn: `(params, batch) -> losses`, one for each example, `[rows]`; or
        their mean, a scalar, if every batch is a multiple of the devices. On
        several devices it sees the rows of one of them.
      batches: trees of arrays `[rows, ...]`, or a function that returns them
        anew; they are walked once per evaluation.
      constants: arrays that loss_fn takes as a third argument if they are not
        None. Arrays that it closes over are a part of the compiled program,
        and other values make another program.
      batch_size: rows to which shorter batches are filled up, with examples
        that count nothing; None is those of the first batch. A multiple of
        the devices, else the next one is taken.
      devices: to compute on; None is all.
      on_pass: is called with the number of examples after each evaluation.

    Raises:
      ValueError: the batches can be walked once only, or are a single one.
    """
    if not callable(loss_fn):
      raise ValueError(
        f'loss_fn is {loss_fn!r}; it must be a function of params and a batch'
      )
    checks.batches(batches)
    if batch_size is not None:
      checks.positive(batch_size=batch_size)
    self._batches = batches
    self._count: int | None = None
    self._batch_size = batch_size
    self._on_pass = on_pass
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    self.num_devices = count
    self._parallel = parallel_lib.create(
      'shard_map', layout_lib.create(count, count, 1, 1), devices
    )
    self._loss_fn = loss_fn
    self._constants = () if constants is None else (self.place(constants),)
    self._is_mean: bool | None = None
    self._dtype = jnp.dtype(jnp.float32)
    self._compiled = {
      name: self._compile(term, num_trees)
      for name, (term, num_trees) in _TERMS.items()
    }

  def over(self, batches: Batches) -> 'Objective':
    """Returns the same loss over other examples; compiles nothing anew.

    Args:
      batches: see `Objective`; filled up to the same number of rows.

    Raises:
      ValueError: see `Objective`.
    """
    checks.batches(batches)
    other = object.__new__(Objective)
    other.__dict__.update(self.__dict__, _batches=batches, _count=None)
    return other

  def place(self, params: types.PyTree) -> types.PyTree:
    """Returns a tree that lies on every device."""
    return self._parallel.replicate(params)

  def value(self, params: types.Params) -> float:
    """Returns L(w)."""
    return float(self._mean('value', params))

  def value_and_grad(self, params: types.Params) -> tuple[float, types.Grads]:
    """Returns L(w) and its gradient, in at least float32, on the devices."""
    checks.params(params)
    value, grads = self._mean('value_and_grad', params)
    return float(value), grads

  def hvp(self, params: types.Params, tangent: types.PyTree) -> types.PyTree:
    """Returns the Hessian at w times a vector, forward over reverse.

    Args:
      params: w.
      tangent: a tree like it, of the same dtypes.

    Raises:
      ValueError: params is no tree of floating-point arrays, or the tangent is
        not like it.
    """
    checks.params(params)
    checks.alike('tangent', tangent, params)
    return self._mean('hvp', params, tangent)

  def _mean(self, name: str, *trees: types.PyTree) -> types.PyTree:
    """Walks the batches; returns the sum over them by the examples."""
    replicate, shard = self._parallel.replicate, self._parallel.shard
    placed = [*map(replicate, trees), *self._constants]
    walked = self._batches() if callable(self._batches) else self._batches
    count, previous, total = 0, None, None
    for batch in walked:
      rows, filled = self._fill(batch, placed[0])
      if total is None:
        total = replicate(_zeros(name, placed[0], self._dtype))
      total, token = self._compiled[name](total, *placed, shard(filled))
      if previous is not None:
        previous.block_until_ready()
      previous = token
      count += rows
    self._check_count(count)
    mean = jax.tree.map(lambda x: x / count, total)
    self._on_pass(count)
    return mean

  def _check_count(self, count: int) -> None:
    """Refuses batches that are empty, or were used up by an earlier walk."""
    if not count and not self._count:
      raise ValueError('there are no examples: batches is empty')
    if self._count not in (None, count):
      raise ValueError(
        f'batches had {self._count} examples when first walked and has {count} '
        'now; let the function return all of them each time it is called'
      )
    self._count = count

  def _compile(
    self, term: Callable[..., Any], num_trees: int
  ) -> Callable[..., Any]:
    """Returns `(total, *trees, batch) -> (total, token)`, the total donated."""
    collectives = self._parallel.collectives

    def step(total: types.PyTree, *args: types.PyTree) -> tuple[Any, ...]:
      *replicated, (batch, weights) = args
      varied = collectives.vary(replicated)
      trees, constants = varied[:num_trees], varied[num_trees:]
      local = term(
        functools.partial(self._sum, batch, weights, constants), *trees
      )
      added = collectives.global_sum(jax.tree.map(tree.wide, local))
      token = collectives.global_sum(jnp.sum(weights))
      return jax.tree.map(jnp.add, total, added), token

    return self._parallel.compile(
      step,
      num_replicated=1 + num_trees + len(self._constants),
      num_donated=1,
    )

  def _sum(
    self,
    batch: Batch,
    weights: jax.Array,
    constants: Sequence[types.PyTree],
    params: types.Params,
  ) -> jax.Array:
    """Returns the sum of the losses of this device's examples."""
    losses = tree.wide(self._loss_fn(params, batch, *constants))
    if losses.ndim == 0:
      return jnp.sum(weights).astype(losses.dtype) * losses
    return jnp.sum(jnp.where(weights > 0, losses, 0))

  def _fill(self, batch: Batch, params: types.Params) -> tuple[int, Any]:
    """Returns the number of examples, and a batch of full size and weights."""
    rows = checks.rows(batch)
    if self._is_mean is None:
      found = jax.eval_shape(self._loss_fn, params, batch, *self._constants)
      self._is_mean = checks.losses(found, rows)
      self._dtype = jnp.promote_types(found.dtype, jnp.float32)
    if self._batch_size is None:
      self._batch_size = rows
    least = rows if self._is_mean else max(rows, self._batch_size)
    size = -(-least // self.num_devices) * self.num_devices
    if self._is_mean and size > rows:
      raise ValueError(
        f'a batch has {rows} examples for {self.num_devices} devices and '
        'loss_fn returns their mean: let it return one loss per example, or '
        'give batches that are multiples of the devices'
      )
    weights = np.zeros(size, np.float32)
    weights[:rows] = 1
    kept = np.minimum(np.arange(size), rows - 1)
    if size > rows:
      batch = jax.tree.map(lambda x: np.asarray(x)[kept], batch)
    return rows, (batch, weights)


def _zeros(name: str, params: types.Params, dtype: Any) -> types.PyTree:
  """Returns what a sum starts from; `dtype` is that of the value."""
  value = jnp.zeros((), dtype)
  grads = jax.tree.map(lambda p: jnp.zeros_like(tree.wide(p)), params)
  return {'value': value, 'value_and_grad': (value, grads), 'hvp': grads}[name]


def _value(fun: Callable[..., jax.Array], params: types.Params) -> jax.Array:
  """Returns the value."""
  return fun(params)


def _value_and_grad(
  fun: Callable[..., jax.Array], params: types.Params
) -> tuple[jax.Array, types.Grads]:
  """Returns value and gradient."""
  return jax.value_and_grad(fun)(params)


def _hvp(
  fun: Callable[..., jax.Array], params: types.Params, tangent: types.PyTree
) -> types.PyTree:
  """Returns the directional derivative of the gradient."""
  return jax.jvp(jax.grad(fun), (params,), (tangent,))[1]


# What is summed over the batches, and of how many trees like the parameters.
_TERMS: dict[str, tuple[Callable[..., Any], int]] = {
  'value': (_value, 1),
  'value_and_grad': (_value_and_grad, 1),
  'hvp': (_hvp, 2),
}
