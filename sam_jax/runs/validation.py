"""What is refused: numbers out of range, and settings that do not fit together.

Most values are checked by whoever takes them. Here are those that nobody else
sees, or that only several settings together make wrong.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from sam_jax import keys, lookup, methods, tasks, types
from sam_jax.runs import workdir
from sam_jax.training import layout as layout_lib

# (field, smallest, largest) of numbers that nobody else checks.
_RANGES = (
  ('seed', 0, 2**31 - 1),
  ('data.seed', 0, math.inf),
  ('data.workers', 0, 1024),
  ('learning_rate', 0, math.inf),
  ('label_smoothing', 0, 1),
  ('weight_decay.rate', 0, math.inf),
  ('eval_batch_size', 1, math.inf),
  ('eval_every_epochs', 1, math.inf),
  ('checkpoint.every_epochs', 0, math.inf),
  ('checkpoint.every_steps', 1, math.inf),
  ('checkpoint.max_to_keep', 1, math.inf),
  ('log.every_steps', 0, math.inf),
  ('max_skipped_steps', 1, math.inf),
)
_MOST_STEPS = 2**31 - 1  # the step counter is an int32
_ON_NONFINITE = ('stop', 'skip')


def check_ranges(config: ml_collections.ConfigDict) -> None:
  """Refuses numbers that make no sense.

  Raises:
    ValueError: a number is out of range.
  """
  for name, low, high in _RANGES:
    section, _, field = name.rpartition('.')
    value = (config[section] if section else config).get(field)
    is_number = isinstance(value, (int, float))  # else whoever takes it says so
    if is_number and not low <= value <= high:
      raise ValueError(f'{name} is {value}; it must be in [{low}, {high}]')
  wrong = [epoch for epoch in config.checkpoint.at_epochs if epoch < 1]
  if wrong:
    raise ValueError(
      f'checkpoint.at_epochs has {wrong[0]}; epochs are counted from 1'
    )


def check_changes(config: ml_collections.ConfigDict) -> None:
  """Refuses what cannot be done about a loss that is not finite.

  Raises:
    ValueError: `on_nonfinite` is unknown, or `allow_change` names a field that
      may not change within a run.
  """
  lookup.check('on_nonfinite', config.on_nonfinite, _ON_NONFINITE)
  for name in config.allow_change:
    lookup.check('field in allow_change', name, workdir.CHANGEABLE)


def check_num_steps(num_steps: int) -> None:
  """Refuses a run without a step.

  Raises:
    ValueError: the number is below 1, or beyond what a step counter holds.
  """
  if not 1 <= num_steps <= _MOST_STEPS:
    raise ValueError(
      f'num_epochs, or num_steps if it is set, asks for {num_steps} steps; a '
      f'run has at least 1 and at most {_MOST_STEPS}'
    )


def check_mixing(config: ml_collections.ConfigDict) -> None:
  """Refuses microbatches in which an image has no partner to be mixed with.

  Raises:
    ValueError: images are mixed and a microbatch has one.
  """
  if config.mixing.name != 'none' and config.microbatch_size == 1:
    raise ValueError(
      f'mixing.name={config.mixing.name!r} mixes the images of a microbatch '
      'and microbatch_size is 1; it must be at least 2'
    )


def check_method(
  config: ml_collections.ConfigDict, method: methods.Method, task: tasks.Task
) -> None:
  """Refuses a method that needs of the task what it does not have.

  Raises:
    ValueError: the message names the method and what is missing.
  """
  offers = dict(task.offers)
  if config.labels_from:  # they are predicted after all is built
    offers.pop('classes', None)
  try:
    method.check(offers)
  except ValueError as error:
    raise ValueError(
      f'method.name={config.method.name!r}, task.name={config.task.name!r}, '
      f'data.name={config.data.name!r}: {error}'
      + ('; labels_from leaves them unknown' if config.labels_from else '')
    ) from error


def check_norm(
  config: ml_collections.ConfigDict, layout: layout_lib.Layout
) -> None:
  """Refuses BatchNorm that has not what it normalises by.

  Raises:
    ValueError: it is frozen and there are no pretrained statistics, or it is
      synced and a device has several microbatches in turn.
  """
  norm = config.model.get('norm')  # the section of a plug-in may have none
  if norm == 'frozen' and not config.init_from:
    raise ValueError(
      "model.norm='frozen' normalises by the statistics of pretrained weights; "
      'give them by init_from'
    )
  pieces = layout.device_groups * layout.device_microbatches
  if norm != 'synced' or pieces == 1:
    return
  share = layout.batch_size // layout.num_devices
  larger = f'microbatch_size={share}'
  if layout.m % share:
    larger = f'm={share} with {larger}'
  raise ValueError(
    "model.norm='synced' needs all microbatches at once, one per device, and "
    f'each of {layout.num_devices} devices has {pieces} of them in turn; use '
    f"{layout.num_devices * pieces} devices, model.norm='batch', or {larger}"
  )


def check_parallel(config: ml_collections.ConfigDict) -> None:
  """Refuses cut parameters where each device has all of them.

  Raises:
    ValueError: `parallel` is pmap, and `fsdp` more than one.
  """
  if config.parallel == 'pmap' and config.fsdp > 1:
    raise ValueError(
      f"parallel='pmap' has all parameters on each device, and fsdp is "
      f"{config.fsdp}; use parallel='shard_map'"
    )


def check_sharded(
  layout: layout_lib.Layout, variables: Mapping[str, types.PyTree]
) -> None:
  """Refuses BatchNorm where the devices of a group share one copy of a model.

  Args:
    layout: of the run.
    variables: of the model, as shapes.

  Raises:
    ValueError: BatchNorm would see all examples of the devices together.
  """
  if layout.fsdp > 1 and variables.get('batch_stats'):
    raise ValueError(
      f'fsdp is {layout.fsdp}, and the model has BatchNorm, which would '
      'normalise over all devices that share its parameters; use fsdp=1, or a '
      'model without BatchNorm'
    )


def check_task(task: tasks.Task, outputs: types.PyTree) -> None:
  """Refuses images that cannot be augmented, and a task that does not measure.

  Nothing is computed; only shapes go through the functions of the task.

  Args:
    task: with its model.
    outputs: of the model for one example, as shapes.

  Raises:
    ValueError: an augmentation does not fit the images, or the task has not
      one loss per example, or an evaluation lacks the loss or the score.
  """
  batch = task.batch_shapes(1)

  def prepare(batch: types.PyTree) -> types.PyTree:
    # Made here so that it is traced; outside it would be compiled and run.
    key = keys.make(0)
    return task.mix(key, task.augment(key, batch))

  prepared = jax.eval_shape(prepare, batch)
  losses = jax.eval_shape(task.example_losses, outputs, prepared)
  metrics = jax.eval_shape(
    lambda o, b: task.example_metrics(o, task.preprocess(b)), outputs, batch
  )
  _check_rows(task, 'example_losses', {'loss': losses}, ('loss',))
  _check_rows(task, 'example_metrics', metrics, ('loss', task.score.metric))


def _check_rows(
  task: tasks.Task, what: str, values: dict[str, Any], needed: tuple[str, ...]
) -> None:
  """Refuses values that are missing, or are not one number per example."""
  missing = [name for name in needed if name not in values]
  shapes = {name: x.shape for name, x in values.items() if x.shape != (1,)}
  if missing:
    raise ValueError(
      f'{what} of {type(task).__name__} has no {missing[0]!r}, only '
      f'{sorted(values)}; it must have the loss and the metric of the score'
    )
  if shapes:
    raise ValueError(
      f'{what} of {type(task).__name__} must return one number per example, '
      f'[1] for one; it returns {shapes}'
    )
