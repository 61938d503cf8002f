"""What every `register` refuses: a wrong call, a name that is taken, ..."""

from collections.abc import Collection
from typing import TypeVar

from sam_jax import lookup

_T = TypeVar('_T')


def check_call(registry: str, name: object, *more: object) -> None:
  """Refuses a call of `register` that is not the one of a decorator.

  Args:
    registry: the module of `register`, for the message.
    name: what was given as the name.
    *more: what else was given by position.

  Raises:
    ValueError: the message has the call to write.

  Example:
    >>> from sam_jax import registration
    >>> registration.check_call('models', 'mine', object)
    Traceback (most recent call last):
      ...
    ValueError: models.register is a decorator: write @models.register('mine') \
above what it registers
  """
  if isinstance(name, str) and not more:
    return
  example = name if isinstance(name, str) else 'my_name'
  raise ValueError(
    f'{registry}.register is a decorator: write @{registry}.register'
    f'({example!r}) above what it registers'
  )


def check_new(
  kind: str, name: str, known: Collection[str], factory: object
) -> None:
  """Refuses to register what cannot be called, or a name that is taken.

  Args:
    kind: of what is registered, for the message.
    name: to register.
    known: names that are registered.
    factory: what is to be registered.

  Raises:
    ValueError: the message says which of the two it is.
  """
  if not callable(factory):
    raise ValueError(
      f'{kind} {name!r} is {lookup.shown(factory)}; register a class or a '
      'function that makes it'
    )
  if name in known:
    raise ValueError(
      f'{kind} {name!r} is registered already; choose another name'
    )


def check_made(kind: str, name: str, value: object, wanted: type[_T]) -> _T:
  """Returns what a registered factory has made, if it is of the right type.

  Args:
    kind: of what is registered, for the message.
    name: under which the factory is registered.
    value: what it has returned.
    wanted: the type of what it should make.

  Raises:
    ValueError: the message has what was made, and what should have been.
  """
  if isinstance(value, wanted):
    return value
  raise ValueError(
    f'what is registered as {kind} {name!r} has made {lookup.shown(value)}; it '
    f'must make a {wanted.__name__} of {wanted.__module__.partition(".")[0]}'
  )
