"""A trained model as something to measure: its loss, its examples.

The loss is the mean of the task's loss as in an evaluation, without label
smoothing and weight penalty, of examples as the model is evaluated on: not
augmented, nothing dropped out or shaken. How BatchNorm normalises is said
explicitly.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from sam_jax import lookup, tasks, types
from sam_jax.analysis import objective as objective_lib
from sam_jax.datasets import windows
from sam_jax.models import batch_norm
from sam_jax.runs import bootstrap, loading

SPLITS = ('train', 'validation', 'test')
# What BatchNorm normalises by: its running statistics, as in evaluation, or
# those of each microbatch, as in training.
BATCH_NORMS = ('running', 'batch')
_MICROBATCH_SIZE = 256  # where it is of no consequence


@dataclasses.dataclass(frozen=True)
class Trained:
  """A checkpoint of a run, and the examples to measure its loss on.

  Attributes:
    task: of the run; it prepares examples and measures the loss.
    config: of the run.
    step: of the checkpoint.
    variables: params and batch_stats that the run is evaluated with.
    examples: of the task; what the loss is the mean over.
    batch_norm: one of `BATCH_NORMS`.
    microbatch_size: examples per forward pass of a device.
    apply_fn: `(variables, inputs) -> outputs` of the model.
  """

  task: tasks.Task
  config: ml_collections.ConfigDict
  step: int
  variables: dict[str, types.PyTree]
  examples: Any
  batch_norm: str
  microbatch_size: int
  apply_fn: Callable[..., Any]

  @property
  def params(self) -> types.Params:
    """The parameters."""
    return self.variables['params']

  def loss(
    self, variables: dict[str, types.PyTree], batch: objective_lib.Batch
  ) -> jax.Array:
    """Returns the loss of each example, `[rows]`, as a function of all."""
    return self.metrics(variables, batch)['loss']

  def metrics(
    self, variables: dict[str, types.PyTree], batch: objective_lib.Batch
  ) -> dict[str, jax.Array]:
    """Returns the task's metrics of each example, `[rows]` each.

    Beyond the ends of a line between two networks BatchNorm's variances may
    come out negative; they count as 0.
    """
    prepared = self.task.preprocess(batch)
    outputs = self.apply_fn(
      _without_negative(variables), self.task.inputs(prepared)
    )
    return self.task.example_metrics(outputs, prepared)

  def metric(self, name: str) -> objective_lib.LossFn:
    """Returns one of the metrics as a function like `loss`."""

    def of_examples(
      variables: dict[str, types.PyTree], batch: objective_lib.Batch
    ) -> jax.Array:
      values = self.metrics(variables, batch)[name]
      # A user's metric may be a truth value.
      return values.astype(jnp.promote_types(values.dtype, jnp.float32))

    return of_examples

  def params_loss(
    self,
    params: types.Params,
    batch: objective_lib.Batch,
    others: dict[str, types.PyTree] | None = None,
  ) -> jax.Array:
    """Returns the same as a function of the parameters.

    Args:
      params: of the model.
      batch: of examples.
      others: variables that are no parameters; None is those of the run.
    """
    others = self._others if others is None else others
    return self.loss({**others, 'params': params}, batch)

  def objective(
    self,
    loss_fn: objective_lib.LossFn | None = None,
    *,
    group_size: int | None = None,
    on_pass: Callable[[int], None] = lambda examples: None,
  ) -> objective_lib.Objective:
    """Returns the mean loss over the examples.

    Args:
      loss_fn: `loss`, a `metric` or `params_loss`; None is the last.
      group_size: examples of what it will be taken `over`, if not all.
      on_pass: see `Objective`.
    """
    rows, constants = self._rows, None
    if loss_fn is None:  # then runs of one model share a compiled program
      loss_fn, constants = self.params_loss, self._others
    if group_size is not None and self.batch_norm == 'running':
      rows = min(rows, group_size)
    return objective_lib.Objective(
      loss_fn,
      functools.partial(self._batches, self.examples),
      constants=constants,
      batch_size=rows,
      on_pass=on_pass,
    )

  def groups(
    self, m: int, *, seed: int = 0, max_groups: int | None = None
  ) -> list[objective_lib.Batches]:
    """Returns disjoint groups of m examples each, in a random order.

    Args:
      m: examples per group; what is left over is in no group.
      seed: of the order.
      max_groups: how many at most; None is all.

    Raises:
      ValueError: there are fewer than m examples, or with batch statistics m
        is no multiple of the microbatch.
    """
    count = self.task.count(self.examples)
    if not 1 <= m <= count:
      raise ValueError(f'm is {m}; it must be in [1, {count}], the examples')
    if self.batch_norm == 'batch' and m % self.microbatch_size:
      raise ValueError(
        f'm is {m}, which is no multiple of the microbatch of '
        f'{self.microbatch_size} that BatchNorm normalises by; choose another '
        'm or microbatch size'
      )
    order = np.random.default_rng([seed, *b'groups']).permutation(count)
    rows = order[: count // m * m].reshape(-1, m)[:max_groups]
    return [
      functools.partial(self._batches, self.examples.select(r)) for r in rows
    ]

  def digest(self) -> str:
    """Returns what tells these weights and examples from others."""
    content = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(self.variables):
      content.update(np.ascontiguousarray(leaf).tobytes())
    for leaf in _arrays(self.examples):
      content.update(leaf.tobytes())
    return content.hexdigest()

  @property
  def _others(self) -> dict[str, types.PyTree]:
    """The variables that are no parameters."""
    return {k: v for k, v in self.variables.items() if k != 'params'}

  @property
  def _rows(self) -> int:
    """Rows of a batch: a microbatch for each device."""
    return self.microbatch_size * jax.device_count()

  def _batches(self, examples: Any) -> Iterator[objective_lib.Batch]:
    """Yields batches of all examples, nothing filled up."""
    for batch in self.task.eval_batches(examples, self._rows):
      rows = int(batch.pop('mask').sum())
      yield {name: values[:rows] for name, values in batch.items()}


def load(
  workdir: str | pathlib.Path,
  checkpoint: str | int = 'last',
  *,
  split: str = 'train',
  num_examples: int | None = None,
  batch_norm: str = 'running',
  microbatch_size: int | None = None,
  plugins: bool = True,
) -> Trained:
  """Loads a checkpoint of a run, to be measured.

  Args:
    workdir: run directory.
    checkpoint: 'last', 'best' or a step.
    split: 'train', with the labels that it was trained on, 'validation' or
      'test'.
    num_examples: how many at most, the same ones for every run; None is all.
    batch_norm: one of `BATCH_NORMS`. With 'batch' a last microbatch that is not
      whole is left out. A model whose statistics are frozen has these always.
    microbatch_size: examples per forward pass of a device; None is the run's
      own with batch statistics, of which it is a part, else 256 at most.
    plugins: see `sam_jax.load`.

  Returns:
    The model, and what it takes to compute its loss.

  Raises:
    ValueError: there is no such run, checkpoint or split, a number is not
      allowed, or the parameters are not finite.
    FileNotFoundError: the data set is not there.
  """
  lookup.check('split', split, SPLITS)
  lookup.check('batch_norm', batch_norm, BATCH_NORMS)
  run = loading.restore(workdir, checkpoint, plugins=plugins)
  _check_finite(run.variables, f'{workdir}, checkpoint {run.step}')
  examples = bootstrap.examples(
    run.config, pathlib.Path(workdir), split, run.task.info
  )
  examples = _bounded(run.task, examples, num_examples)
  if microbatch_size is None and batch_norm == 'batch':
    microbatch_size = run.config.microbatch_size
  size = _MICROBATCH_SIZE if microbatch_size is None else microbatch_size
  count = run.task.count(examples)
  if not 1 <= size or (batch_norm == 'batch' and size > count):
    raise ValueError(
      f'the microbatch size is {size}; it must be in [1, {count}]'
    )
  size = min(size, count)
  if batch_norm == 'batch':
    examples = examples.select(np.arange(count // size * size))
  return Trained(
    task=run.task,
    config=run.config,
    step=run.step,
    variables=dict(run.variables),
    examples=examples,
    batch_norm=batch_norm,
    microbatch_size=size,
    apply_fn=_apply_fn(run, batch_norm),
  )


def _bounded(task: tasks.Task, examples: Any, num_examples: int | None) -> Any:
  """Returns a fixed random subset of what is measured, in order."""
  examples = task.measured(examples)
  count = task.count(examples)
  if num_examples is not None and num_examples < 1:
    raise ValueError(
      f'the number of examples is {num_examples}; it must be at least 1'
    )
  if not count:
    raise ValueError(
      f'the split has no {task.examples} that are whole, and the loss is '
      'measured on these; choose another split'
    )
  if num_examples is None:
    return examples
  rng = np.random.default_rng([0, *b'subset'])
  return examples.select(np.sort(rng.permutation(count)[:num_examples]))


def _arrays(examples: Any) -> list[np.ndarray]:
  """Returns what tells examples from others, without images on a disk."""
  if isinstance(examples, windows.Windows):
    return [examples.tokens, examples.numbers()]
  arrays = [examples.labels]
  if isinstance(examples.images, np.ndarray):
    arrays.append(examples.images)
  return arrays


def _check_finite(variables: types.PyTree, what: str) -> None:
  """Refuses a network that has diverged."""
  if not all(np.isfinite(x).all() for x in jax.tree.leaves(variables)):
    raise ValueError(
      f'{what}: the parameters hold NaN or infinity; the run has diverged, '
      'choose an earlier checkpoint'
    )


def _without_negative(variables: dict[str, Any]) -> dict[str, Any]:
  """Returns the variables with running variances of at least 0."""
  stats = jax.tree.map_with_path(
    lambda path, x: (
      jnp.maximum(x, 0) if getattr(path[-1], 'key', None) == 'var' else x
    ),
    variables.get('batch_stats', {}),
  )
  return {**variables, 'batch_stats': stats}


def _apply_fn(run: loading.Restored, mode: str) -> Callable[..., Any]:
  """Returns the outputs of a model whose BatchNorm is in that mode."""
  apply_fn = run.apply_fn
  is_frozen = run.config.model.get('norm') == 'frozen'

  def apply(variables: dict[str, Any], inputs: Any) -> Any:
    if mode == 'running' or is_frozen:
      return apply_fn(variables, inputs, train=False)
    with nn.intercept_methods(_normalise_by_batch):
      outputs, _ = apply_fn(
        variables, inputs, train=False, mutable=['batch_stats']
      )
    return outputs

  return apply


def _normalise_by_batch(
  next_fun: Callable[..., Any],
  args: tuple[Any, ...],
  kwargs: dict[str, Any],
  context: nn.module.InterceptorContext,
) -> Any:
  """Lets BatchNorm normalise by its batch in a model that is not training."""
  norms = (nn.BatchNorm, batch_norm.BatchNorm)
  if isinstance(context.module, norms) and context.method_name == '__call__':
    if kwargs.get('use_running_average') is not None:
      kwargs = {**kwargs, 'use_running_average': False}
    else:
      # Modules refuse to be changed; this one is made for this very call.
      object.__setattr__(context.module, 'use_running_average', False)
  return next_fun(*args, **kwargs)
