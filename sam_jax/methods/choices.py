"""Choices on an axis: objects in Python, texts in a config."""

import ast
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

from sam_jax import lookup, registration

# What ast raises, also for a text of a thousand parentheses.
_UNREADABLE = (
  AssertionError,
  MemoryError,
  RecursionError,
  SyntaxError,
  TypeError,
  ValueError,
)
_Factory = TypeVar('_Factory', bound=Callable[..., Any])


def literal(node: ast.expr) -> Any:
  """Returns a value as a text has it: a word needs no quotes, inf is a number.

  Raises:
    ValueError: it is no value.
    TypeError: likewise.
  """
  if isinstance(node, ast.Name):
    return math.inf if node.id == 'inf' else node.id
  return ast.literal_eval(node)


class Axis:
  """What can be chosen on one of the axes of which a method is made.

  Attributes:
    name: of the axis, which is that of the field in a config.
  """

  def __init__(self, name: str) -> None:
    """Makes an axis without choices."""
    self.name = name
    self._factories: dict[str, Callable[..., Any]] = {}

  def register(
    self, name: str, *more: object
  ) -> Callable[[_Factory], _Factory]:
    """Makes a choice known by a name; a decorator of what makes it.

    Args:
      name: that a config has.
      *more: refused; the error says how to register.

    Raises:
      ValueError: the name is taken, what is decorated cannot be called, or
        `register` is not used as a decorator.
    """
    registration.check_call(self.name, name, *more)

    def add(factory: _Factory) -> _Factory:
      registration.check_new(self.name, name, self._factories, factory)
      self._factories[name] = factory
      return factory

    return add

  def names(self) -> list[str]:
    """Returns the names that can be chosen, sorted."""
    return sorted(self._factories)

  def factory(self, name: str) -> Callable[..., Any]:
    """Returns what makes the choice of that name.

    Raises:
      ValueError: the name is unknown.
    """
    lookup.check(self.name, name, self.names())
    return self._factories[name]

  def create(self, choice: Any) -> Any:
    """Returns what was chosen.

    Args:
      choice: a name, a name with arguments such as 'ema(0.1)' or
        'adaptive(eta=0)', or an object, which is returned as it is.

    Raises:
      ValueError: the text cannot be read, the name is unknown, or it takes no
        such arguments.

    Example:
      >>> from sam_jax.methods import choices
      >>> axis = choices.Axis('metric')
      >>> @axis.register('scaled')
      ... def scaled(factor: float = 2.0): return factor
      >>> axis.create('scaled'), axis.create('scaled(factor=0.5)')
      (2.0, 0.5)
    """
    if not isinstance(choice, str):
      return choice
    name, args, keywords = self._read(choice)
    factory = self.factory(name)
    what = f'{self.name} {name!r}'
    try:
      given = inspect.signature(factory).bind(*args, **keywords).arguments
    except TypeError as error:
      taken = ', '.join(inspect.signature(factory).parameters)
      raise ValueError(
        f'{what}: {error}; it takes {taken or "no arguments"}'
      ) from error
    lookup.check_types(what, factory, given)
    return factory(**given)

  def _read(self, text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Returns the name and the arguments of a choice."""
    try:
      node = ast.parse(text.strip(), mode='eval').body
      if isinstance(node, ast.Name):
        return node.id, [], {}
      assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
      assert all(k.arg for k in node.keywords)  # not **{...}
      keywords = {str(k.arg): literal(k.value) for k in node.keywords}
      return node.func.id, list(map(literal, node.args)), keywords
    except _UNREADABLE as error:
      raise ValueError(
        f'{self.name} is {lookup.shown(text)}; give one of '
        f'{", ".join(self.names())}, with arguments in parentheses if it has '
        "any, such as 'name(0.1)'"
      ) from error
