"""The task, the model, the method and the data set that a config names.

A field that is None is left to whoever takes it, and takes its own default.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import ml_collections

from sam_jax import datasets, methods, tasks
from sam_jax.training import precision


def fields(section: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields that are set, for the factory that the name picks."""
  return {key: value for key, value in section.items() if value is not None}


def create_model(
  config: ml_collections.ConfigDict,
  info: Mapping[str, Any],
  axes: tuple[str, ...] | None = None,
) -> flax.linen.Module:
  """Returns the model of a config.

  Args:
    config: of a run.
    info: of its data set.
    axes: mapped axes over which it is trained, for synced BatchNorm; in
      evaluation there is nothing to sync.
  """
  options = fields(config.model)
  if options.get('norm') == 'synced':
    options['norm_axes'] = axes
  return tasks.get(config.task.name).create_model(info, **options)


def create_task(
  config: ml_collections.ConfigDict,
  info: Mapping[str, Any],
  axes: tuple[str, ...] | None = None,
) -> tasks.Task:
  """Returns the task of a config, with its model; see `create_model`."""
  options = fields(config.task)
  return tasks.create(
    options.pop('name'),
    create_model(config, info, axes),
    info,
    augmentation=config.augmentation.to_dict(),
    mixing=config.mixing.to_dict(),
    label_smoothing=config.label_smoothing,
    **options,
  )


def create_method(config: ml_collections.ConfigDict) -> methods.Method:
  """Returns the method of a config."""
  return methods.create(**fields(config.method))


def load_data(
  config: ml_collections.ConfigDict, **changes: Any
) -> datasets.Dataset:
  """Returns the data set of a config; `changes` replace fields of it."""
  task = tasks.get(config.task.name)
  return task.load_data(**fields(config.data) | changes)


def evaluation_apply(
  task: tasks.Task, matmul_precision: str | None
) -> Callable[..., Any]:
  """Returns `apply` of a task in the precision of an evaluation."""
  return precision.apply_in(task.apply, 'float32', matmul_precision)
