"""The task, the model, the method and the data set that a config names.

A field that is None is left to whoever takes it, and takes its own default.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax
import ml_collections

from sam_jax import datasets, lookup, methods, tasks
from sam_jax.training import precision


def fields(section: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields that are set, for the factory that the name picks."""
  return {key: value for key, value in section.items() if value is not None}


@contextlib.contextmanager
def refusing(
  config: ml_collections.ConfigDict, *sections: str
) -> Iterator[None]:
  """Turns a fault of what a config names into an error of one line.

  What is made, or called, may be a user's own, and an argument of it may have a
  value that nobody checks.

  Args:
    config: of a run.
    *sections: whose names picked it.

  Raises:
    ValueError: in place of an error that says nothing of the config.
  """
  try:
    yield
  except (ValueError, OSError, ImportError):
    raise  # these say what is wrong
  except Exception as error:
    given = '; '.join(
      f'{section}: {lookup.shown(fields(config[section]), 300)}'
      for section in sections
    )
    reason = ' '.join(str(error).split())
    raise ValueError(f'{given}: {type(error).__name__}: {reason}') from error


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
  task = tasks.get(config.task.name)
  with refusing(config, 'model'):
    return task.create_model(info, **options)


def create_task(
  config: ml_collections.ConfigDict,
  info: Mapping[str, Any],
  axes: tuple[str, ...] | None = None,
) -> tasks.Task:
  """Returns the task of a config, with its model; see `create_model`."""
  options, model = fields(config.task), create_model(config, info, axes)
  with refusing(config, 'task', 'augmentation', 'mixing'):
    return tasks.create(
      options.pop('name'),
      model,
      info,
      augmentation=config.augmentation.to_dict(),
      mixing=config.mixing.to_dict(),
      label_smoothing=config.label_smoothing,
      **options,
    )


def create_method(config: ml_collections.ConfigDict) -> methods.Method:
  """Returns the method of a config."""
  with refusing(config, 'method'):
    return methods.create(**fields(config.method))


def load_data(
  config: ml_collections.ConfigDict, **changes: Any
) -> datasets.Dataset:
  """Returns the data set of a config; `changes` replace fields of it."""
  task = tasks.get(config.task.name)
  with refusing(config, 'data'):
    return task.load_data(**fields(config.data) | changes)


def evaluation_apply(
  task: tasks.Task, matmul_precision: str | None
) -> Callable[..., Any]:
  """Returns `apply` of a task in the precision of an evaluation."""
  return precision.apply_in(task.apply, 'float32', matmul_precision)
