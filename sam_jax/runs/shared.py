"""What the experiments of several configs have in common is made once."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar('_T')


class Shared:
  """Keeps the data set that was read last, and what was made of shapes.

  What fails fails again, with the same error and without another try.
  """

  def __init__(self) -> None:
    """Keeps nothing yet."""
    self._dataset: tuple[str, Any, Exception | None] | None = None
    self._made: dict[str, tuple[Any, Exception | None]] = {}

  def dataset(self, load: Callable[[], _T], *depends_on: Any) -> _T:
    """Returns a data set.

    Args:
      load: reads it.
      *depends_on: all that it depends on: sections and fields of a config.
    """
    key = _key(depends_on)
    if self._dataset is None or self._dataset[0] != key:
      self._dataset = None  # there may be no room for two
      self._dataset = (key, *_attempt(load))
    return _outcome(*self._dataset[1:])

  def made(self, make: Callable[[], _T], *depends_on: Any) -> _T:
    """Returns something small; the arguments are those of `dataset`."""
    key = _key(depends_on)
    if key not in self._made:
      self._made[key] = _attempt(make)
    return _outcome(*self._made[key])


def _key(depends_on: tuple[Any, ...]) -> str:
  """Returns a text that is equal for equal sections and fields."""
  plain = [
    value.to_dict() if hasattr(value, 'to_dict') else value
    for value in depends_on
  ]
  return json.dumps(plain, sort_keys=True, default=repr)


def _attempt(make: Callable[[], _T]) -> tuple[_T | None, Exception | None]:
  """Returns what a function returns, or raises."""
  try:
    return make(), None
  except Exception as error:
    return None, error


def _outcome(value: Any, error: Exception | None) -> Any:
  """Returns a value, or raises the error in its place."""
  if error is not None:
    raise error
  return value
