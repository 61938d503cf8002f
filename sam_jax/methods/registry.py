"""The names of the methods, and the fields that each of them takes."""

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from sam_jax import lookup, registration
from sam_jax.methods import base

_Factory = TypeVar('_Factory', bound=Callable[..., base.Method])
_MAX_LISTED = 8  # names in a message
_METHODS: dict[str, Callable[..., base.Method]] = {}


def register(
  name: str, *more: object, fixes: Collection[str] = ()
) -> Callable[[_Factory], _Factory]:
  """Makes a method known to `create`; a decorator.

  Args:
    name: what a config calls it.
    *more: refused; the error says how to register.
    fixes: fields of its `**axes: Unpack[...]` that it does not take.

  Returns:
    A decorator for a factory that takes fields by keyword and returns a
    `Method`. Every field has a default. With `**axes: Unpack[axes.Axes]` it
    takes all fields of that class.

  Raises:
    ValueError: the name is taken, what is decorated cannot be called, or
      `register` is not used as a decorator.

  Example:
    >>> from sam_jax import methods
    >>> @methods.register('doctest_scaled')
    ... class Scaled(methods.Method):
    ...   def __init__(self, factor: float = 2.0):
    ...     self.factor = factor
    ...   def conclude(self, memory, result, ctx):
    ...     return jax.tree.map(lambda g: self.factor * g, result.grads), memory
    >>> methods.create('doctest_scaled', factor=3.0).factor
    3.0
  """
  registration.check_call('methods', name, *more)

  def add(factory: _Factory) -> _Factory:
    registration.check_new('method', name, _METHODS, factory)

    @functools.wraps(factory)
    def create_method(*args: Any, **fields: Any) -> base.Method:
      for field in fixes:
        if fields.get(field) is not None:
          raise _refused(name, field, fields[field])
      return factory(*args, **fields)

    vars(create_method)['fixes'] = frozenset(fixes)
    _METHODS[name] = create_method if fixes else factory
    return typing.cast(_Factory, _METHODS[name])

  return add


def names() -> list[str]:
  """Returns the names that `create` knows, sorted."""
  return sorted(_METHODS)


def options(name: str) -> list[str] | None:
  """Returns the fields that a method takes; None if it takes any.

  Raises:
    ValueError: the name is unknown.
  """
  shared = _shared(name)
  if shared is None:
    return None
  own = [
    p.name for p in parameters(name).values() if p.kind is not p.VAR_KEYWORD
  ]
  fixed = getattr(_METHODS[name], 'fixes', ())
  return [*own, *(field for field in shared if field not in fixed)]


def _shared(name: str) -> dict[str, Any] | None:
  """Returns the fields that a method shares with others, with their types.

  They are those of its `**axes: Unpack[...]`; None if it takes any keyword.
  """
  for parameter in parameters(name).values():
    if parameter.kind is parameter.VAR_KEYWORD:
      kinds = typing.get_type_hints(inspect.unwrap(factory(name)))
      kind = kinds.get(parameter.name)
      if typing.get_origin(kind) is not typing.Unpack:
        return None
      return typing.get_type_hints(typing.get_args(kind)[0])
  return {}


def defaults(name: str) -> dict[str, Any]:
  """Returns what a method's fields are unless they are set.

  Raises:
    ValueError: the name is unknown.
  """
  return {
    p.name: p.default
    for p in parameters(name).values()
    if p.default is not p.empty and p.default is not None
  }


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
  """Returns the arguments of the factory of that name."""
  return inspect.signature(factory(name)).parameters


def factory(name: str) -> Callable[..., base.Method]:
  """Returns what makes the method of that name.

  Raises:
    ValueError: the name is unknown.
  """
  lookup.check('method', name, names())
  return _METHODS[name]


def create(name: str, **fields: Any) -> base.Method:
  """Returns the method of that name.

  Args:
    name: one of `names()`.
    **fields: what the method takes; None is its own default.

  Raises:
    ValueError: the name is unknown, the method takes no such field, or a value
      is out of range. A field is never ignored: another method's value under a
      new name would be a silent error.
  """
  accepted = options(name)
  given = {key: value for key, value in fields.items() if value is not None}
  for field, value in given.items():
    if accepted is not None and field not in accepted:
      raise _refused(name, field, value)
  what = f'method {name!r}'
  lookup.check_types(what, _METHODS[name], given)
  for field, kind in (_shared(name) or {}).items():
    if field in given and not lookup.fits(given[field], kind):
      mismatch = lookup.mismatch(field, given[field], kind)
      raise ValueError(f'{what}: {mismatch}')
  return registration.check_made(
    'method', name, _METHODS[name](**given), base.Method
  )


def _refused(name: str, field: str, value: Any) -> ValueError:
  """Returns the error for a field that the method does not take."""
  fields = {other: options(other) or [] for other in names()}
  takers = [other for other, taken in fields.items() if field in taken]
  if not takers:
    known = sorted({option for taken in fields.values() for option in taken})
    return lookup.unknown('field of a method', field, known)
  return ValueError(
    f'method {name!r} takes no {field}, and {field} is {lookup.shown(value)}; '
    f'set it to None, or choose a method that takes it: {_listed(takers)}'
  )


def _listed(names: list[str]) -> str:
  """Returns names for a message, not all if they are many."""
  more = len(names) - _MAX_LISTED
  if more < 2:
    return ', '.join(names)
  return f'{", ".join(names[:_MAX_LISTED])} and {more} others'
