"""Exact evaluation of a whole split, whatever the devices and batch size."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import types
from sam_jax.tasks import losses
from sam_jax.training import parallel

Batch = Mapping[str, Any]
_TOP_K = 5


def example_metrics(
  logits: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
  """Returns the metrics of each example.

  Args:
    logits: `[batch, num_classes]`.
    labels: `[batch]`, integers.

  Returns:
    Float arrays `[batch]`: loss (cross entropy in nats, no smoothing),
    error_rate (1 where the largest logit is another class), and for more than
    five classes top5_error_rate (1 where five classes have a larger logit).

  Differs from the official release: its top-k error broadcasts `[n, 1]`
  against `[n]` and can be negative; its evaluation loss is smoothed like the
  training loss.
  """
  own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  # A NaN compares as neither larger nor smaller: count it as an error.
  is_finite = jnp.isfinite(own[:, 0])
  is_right = (jnp.argmax(logits, axis=-1) == labels) & is_finite
  metrics = {
    'loss': losses.cross_entropy(logits, labels),
    'error_rate': 1 - is_right.astype(jnp.float32),
  }
  if logits.shape[-1] > _TOP_K:
    is_near = (jnp.sum(logits > own, axis=-1) < _TOP_K) & is_finite
    metrics['top5_error_rate'] = 1 - is_near.astype(jnp.float32)
  return metrics


def eval_step(
  variables: types.PyTree,
  batch: Batch,
  *,
  apply_fn: Callable[..., jax.Array],
  preprocess: Callable[[jax.Array], jax.Array],
  collectives: parallel.Collectives,
) -> dict[str, jax.Array]:
  """Returns the sums of the metrics over the real examples of a batch.

  Args:
    variables: of the model, the same on every device.
    batch: this device's share: image (uint8), label, and mask, 1 for an
      example and 0 for padding.
    apply_fn: the model's `apply`.
    preprocess: uint8 images to what the model takes.
    collectives: sums over devices.

  Returns:
    Scalars: the sums of `example_metrics` and the `count` of examples.
  """
  logits = apply_fn(variables, preprocess(batch['image']), train=False)
  metrics = example_metrics(logits, batch['label'])
  # Not a product with the mask: padding may have given a NaN.
  is_real = batch['mask'] > 0
  sums = {
    name: jnp.sum(jnp.where(is_real, values, 0))
    for name, values in metrics.items()
  }
  sums['count'] = jnp.sum(batch['mask'])
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


def summarize(sums: list[types.Metrics]) -> dict[str, float]:
  """Returns the means over all examples; waits for the devices.

  Args:
    sums: what `run` returns, on the device or fetched.
  """
  fetched = jax.device_get(sums)
  totals = {
    name: float(np.sum([np.float64(s[name]) for s in fetched]))
    for name in fetched[0]
  }
  count = totals.pop('count')
  return {name: total / count for name, total in totals.items()}


def predict(
  apply_fn: Callable[..., jax.Array],
  variables: types.PyTree,
  preprocess: Callable[[jax.Array], jax.Array],
  batches: Iterable[Batch],
) -> Iterator[np.ndarray]:
  """Yields the logits of each batch, float32 `[examples, num_classes]`.

  Args:
    apply_fn: the model's `apply`.
    variables: of the model.
    preprocess: uint8 images to what the model takes.
    batches: with image and mask; padding is left out of the result.
  """
  logits_fn = jax.jit(functools.partial(apply_fn, train=False))
  for batch in batches:
    logits = logits_fn(variables, preprocess(batch['image']))
    yield np.asarray(logits)[np.asarray(batch['mask']) > 0]
