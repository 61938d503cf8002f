"""Exact evaluation of a whole split, whatever the devices and batch size."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import tasks, types
from sam_jax.runs import ambient
from sam_jax.training import parallel

Batch = Mapping[str, Any]


class Predictions(NamedTuple):
  """What a model makes of a batch of examples, on the host.

  Attributes:
    outputs: of the model, `[examples, ...]`.
    metrics: of an evaluation, by name, `[examples]` each.
    batch: the examples, as the task gives them.
  """

  outputs: Any
  metrics: dict[str, np.ndarray]
  batch: Batch


def eval_step(
  variables: types.PyTree,
  batch: Batch,
  *,
  task: tasks.Task,
  apply_fn: Callable[..., Any],
  collectives: parallel.Collectives,
) -> dict[str, jax.Array]:
  """Returns the sums of the metrics over the real examples of a batch.

  Args:
    variables: of the model, the same on every device.
    batch: this device's share of an evaluation batch of the task, with mask,
      1 for an example and 0 for padding.
    task: prepares the batch and measures.
    apply_fn: of the task, in the precision of an evaluation.
    collectives: sums over devices.

  Returns:
    Scalars: the sums of the task's `example_metrics`, and the `count` of
    examples; if these have weights, their weighted sums and the sum of the
    weights.
  """
  prepared = task.preprocess(batch)
  outputs = apply_fn(variables, task.inputs(prepared), train=False)
  metrics = task.example_metrics(outputs, prepared)
  # Not a product with the mask: padding may have given a NaN.
  is_real = batch['mask'] > 0
  weights = metrics.pop('weight', None)
  if weights is None:
    weights = batch['mask']
  else:
    weights = jnp.where(is_real, weights, 0)
    metrics = {name: weights * values for name, values in metrics.items()}
  sums = {
    name: jnp.sum(jnp.where(is_real, values, 0))
    for name, values in metrics.items()
  }
  sums['count'] = jnp.sum(weights)
  return collectives.global_sum(sums)


def run(
  compiled_step: Callable[..., types.Metrics],
  variables: types.PyTree,
  batches: Iterable[Batch],
  shard: Callable[[Batch], Batch],
) -> list[types.Metrics]:
  """Dispatches a whole evaluation without waiting for it.

  Args:
    compiled_step: `eval_step`, compiled.
    variables: on the devices.
    batches: of the host, each with a mask.
    shard: puts a batch on the devices.

  Returns:
    The sums of each batch; give them to `summarize` when they are needed.
  """
  return [compiled_step(variables, shard(batch)) for batch in batches]


def summarize(sums: list[types.Metrics], task: tasks.Task) -> dict[str, float]:
  """Returns the metrics over all examples; waits for the devices.

  Args:
    sums: what `run` returns, on the device or fetched.
    task: whose they are.
  """
  fetched = jax.device_get(sums)
  totals = {
    name: float(np.sum([np.float64(s[name]) for s in fetched]))
    for name in fetched[0]
  }
  count = totals.pop('count')
  return task.summary({name: total / count for name, total in totals.items()})


def summarize_predictions(
  parts: Iterable[Predictions], task: tasks.Task
) -> dict[str, float]:
  """Returns the metrics over all examples of some predictions.

  Args:
    parts: of the examples.
    task: whose they are.
  """
  metrics = jax.tree.map(
    lambda *x: np.concatenate(x), *[part.metrics for part in parts]
  )
  weights = metrics.pop('weight', None)
  return task.summary(
    {
      name: float(np.average(values, weights=weights))
      for name, values in metrics.items()
    }
  )


def predict(
  apply_fn: Callable[..., Any],
  variables: types.PyTree,
  task: tasks.Task,
  batches: Iterable[Batch],
) -> Iterator[Predictions]:
  """Yields what a model makes of each batch.

  Args:
    apply_fn: of the task, in the precision of an evaluation.
    variables: of the model.
    task: prepares the batches and measures.
    batches: with a mask; padding is left out of the result.
  """
  compiled = jax.jit(functools.partial(apply_fn, train=False))

  @ambient.pinned()  # not around a yield: the settings would be the caller's
  def of_batch(batch: Batch) -> Predictions:
    prepared = task.preprocess(batch)
    outputs = compiled(variables, task.inputs(prepared))
    metrics = task.example_metrics(outputs, prepared)
    is_real = np.asarray(batch['mask']) > 0
    return Predictions(*(_rows(x, is_real) for x in (outputs, metrics, batch)))

  yield from map(of_batch, batches)


def _rows(values: types.PyTree, is_real: np.ndarray) -> Any:
  """Returns the rows of real examples on the host."""
  return jax.tree.map(lambda x: np.asarray(x)[is_real], values)
