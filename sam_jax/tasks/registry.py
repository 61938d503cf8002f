"""The names of the tasks."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax

from sam_jax import lookup, registration
from sam_jax.tasks import base

_Task = TypeVar('_Task', bound=type[base.Task])
# What every config has, for the tasks that take it.
_SHARED = ('augmentation', 'mixing', 'label_smoothing')
_TASKS: dict[str, type[base.Task]] = {}


def register(name: str, *more: object) -> Callable[[_Task], _Task]:
  """Makes a task known by name; a decorator for a subclass of `Task`.

  Args:
    name: what a config calls it.
    *more: refused; the error says how to register.

  Raises:
    ValueError: the name is taken, what is decorated is no subclass of `Task`,
      or `register` is not used as a decorator.
  """
  registration.check_call('tasks', name, *more)

  def add(task: _Task) -> _Task:
    registration.check_new('task', name, _TASKS, task)
    if not (isinstance(task, type) and issubclass(task, base.Task)):
      raise ValueError(
        f'task {name!r} is {lookup.shown(task)}; it must be a subclass of '
        'sam_jax.tasks.Task'
      )
    _TASKS[name] = task
    return task

  return add


def names() -> list[str]:
  """Returns the names of the tasks, sorted."""
  return sorted(_TASKS)


def get(name: str) -> type[base.Task]:
  """Returns the task of that name.

  Raises:
    ValueError: the name is unknown.
  """
  lookup.check('task', name, names())
  return _TASKS[name]


def options(name: str) -> list[str]:
  """Returns the fields that a task takes, besides its model and data set."""
  return list(inspect.signature(get(name)).parameters)[2:]


def create(
  name: str,
  model: flax.linen.Module,
  info: Mapping[str, Any],
  **fields: Any,
) -> base.Task:
  """Returns a task for a model and a data set.

  Args:
    name: one of `names()`.
    model: see `Task`.
    info: see `Task`.
    **fields: what the task takes; None is its default. Of what it does not
      take, `augmentation`, `mixing` and `label_smoothing`, which every config
      has, may be there if they are off.

  Raises:
    ValueError: the name is unknown, a field is on that the task does not take,
      or a value is out of range.
  """
  accepted = options(name)
  given = {key: value for key, value in fields.items() if value is not None}
  refused = [
    key
    for key, value in given.items()
    if key not in accepted and not (key in _SHARED and _is_off(value))
  ]
  if refused:
    raise ValueError(
      f'task {name!r} takes no {", ".join(refused)}; it takes '
      f'{", ".join(accepted) or "no fields"}'
    )
  taken = {key: given[key] for key in given if key in accepted}
  lookup.check_types(f'task {name!r}', get(name), taken)
  return get(name)(model, info, **taken)


def _is_off(value: Any) -> bool:
  """Whether a field that nobody takes does nothing."""
  if isinstance(value, Mapping):
    return value.get('name') == 'none' and not value.get('cutout_length')
  return not value
