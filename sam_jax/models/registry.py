"""Models by name: `register` puts a factory in, `create` calls it."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import TypeVar

from flax import linen as nn

from sam_jax import lookup, registration

Factory = Callable[..., nn.Module]
_F = TypeVar('_F', bound=Factory)

# Arguments that no caller of `create` may give: the first is its own, the
# other two are linen's.
_RESERVED = ('num_classes', 'name', 'parent')


@dataclasses.dataclass(frozen=True)
class _Entry:
  """One registered name: its factory, and arguments that the name settles."""

  factory: Factory
  fixed: dict[str, object]


_ANY = inspect.Parameter.VAR_KEYWORD
_REGISTRY: dict[str, _Entry] = {}


def register(name: str, *more: object, **fixed: object) -> Callable[[_F], _F]:
  """Registers the decorated model factory under a name.

  A factory is a flax module class with a field `num_classes`, or any function
  `(num_classes, **kwargs) -> flax.linen.Module`. The module's call is
  `(images, *, train, true_gradient=False) -> logits`, with images
  [batch, height, width, channels] and logits [batch, num_classes]; BatchNorm
  statistics live in the collection 'batch_stats', dropout draws from the rng
  stream 'dropout'.

  Args:
    name: the name, not yet taken. `{field}` in it stands for a whole number
      that is passed on as the argument `field`: 'WideResnet{depth}x{width}'
      makes every such name known, 'WideResnet28x10' included.
    *more: refused; the error says how to register.
    **fixed: arguments of the factory that this name settles.

  Returns:
    A decorator that returns the factory unchanged.

  Raises:
    ValueError: if the name is taken, what is decorated makes no model, or
      `register` is not used as a decorator.

  Example:
    >>> from flax import linen as nn
    >>> from sam_jax import models
    >>> @models.register('linear')
    ... class Linear(nn.Module):
    ...   num_classes: int
    ...
    ...   @nn.compact
    ...   def __call__(self, images, *, train, true_gradient=False):
    ...     del train, true_gradient
    ...     flat = images.reshape(images.shape[0], -1)
    ...     return nn.Dense(self.num_classes)(flat)
    >>> models.create('linear', num_classes=10).num_classes
    10
  """
  registration.check_call('models', name, *more)

  def decorate(factory: _F) -> _F:
    registration.check_new('model', name, _REGISTRY, factory)
    parameters = inspect.signature(factory).parameters
    kinds = {p.kind for p in parameters.values()}
    if 'num_classes' not in parameters and _ANY not in kinds:
      raise ValueError(
        f'model {name!r} takes no num_classes, which each model is made with; '
        'give the class that field, or the function that argument'
      )
    _REGISTRY[name] = _Entry(factory, fixed)
    return factory

  return decorate


def names() -> list[str]:
  """Returns the known names, sorted; `{field}` stands for a whole number."""
  return sorted(_REGISTRY)


def options(name: str) -> list[str] | None:
  """Returns the arguments that a model takes, sorted; None if it takes any.

  Args:
    name: see `create`. What the name settles is no option.

  Raises:
    ValueError: if the name is unknown.

  Example:
    >>> from sam_jax import models
    >>> 'depth' in models.options('WideResnet28x10')
    False
  """
  entry, fixed = _lookup(name)
  required, optional, takes_any = _arguments(entry.factory)
  return None if takes_any else sorted({*required, *optional} - fixed.keys())


def create(name: str, *, num_classes: int, **kwargs: object) -> nn.Module:
  """Creates a model by name.

  Args:
    name: one of `names()`, or a name that one of their patterns describes.
    num_classes: number of logits.
    **kwargs: arguments of the model's factory, the fields of its class.

  Returns:
    A flax module; nothing is initialised yet.

  Raises:
    ValueError: if the name is unknown, or an argument is unknown, missing,
      settled by the name, or has a value that the model refuses.

  Example:
    >>> from sam_jax import models
    >>> model = models.create('WideResnet28x10', num_classes=10)
    >>> model.depth, model.width
    (28, 10)
  """
  entry, fixed = _lookup(name)
  _check_arguments(name, entry.factory, fixed, kwargs)
  model = entry.factory(num_classes=num_classes, **fixed, **kwargs)
  return registration.check_made('model', name, model, nn.Module)


def _lookup(name: str) -> tuple[_Entry, dict[str, object]]:
  """Returns the entry of a name and the arguments that the name settles."""
  if name in _REGISTRY and '{' not in name:
    return _REGISTRY[name], _REGISTRY[name].fixed
  for pattern, entry in _REGISTRY.items():
    match = re.fullmatch(_to_regex(pattern), name)
    if match and '{' in pattern:
      numbers = {field: int(text) for field, text in match.groupdict().items()}
      return entry, entry.fixed | numbers
  raise lookup.unknown('model', name, names())


def _to_regex(pattern: str) -> str:
  """Turns 'net{depth}' into a regular expression with the group `depth`."""
  pieces = re.split(r'\{(\w+)\}', pattern)
  pieces[::2] = [re.escape(text) for text in pieces[::2]]
  pieces[1::2] = [rf'(?P<{field}>[0-9]+)' for field in pieces[1::2]]
  return ''.join(pieces)


def _check_arguments(
  name: str,
  factory: Factory,
  fixed: dict[str, object],
  kwargs: dict[str, object],
) -> None:
  """Refuses arguments that are settled by the name, unknown or missing."""
  required, optional, takes_any = _arguments(factory)
  accepted = [key for key in required + optional if key not in fixed]
  for key in kwargs:
    if key in fixed:
      raise ValueError(
        f'model {name!r} settles {key}={fixed[key]!r}; do not give {key}'
      )
    if key in _RESERVED or (key not in accepted and not takes_any):
      raise ValueError(
        f'model {name!r} takes no argument {key!r}; accepted: '
        f'{", ".join(accepted) or "none"}'
      )
  missing = [key for key in required if key not in fixed | kwargs]
  if missing:
    raise ValueError(f'model {name!r} needs {", ".join(missing)}')
  lookup.check_types(f'model {name!r}', factory, kwargs)


def _arguments(factory: Factory) -> tuple[list[str], list[str], bool]:
  """Returns required and optional arguments, and whether any other goes."""
  required: list[str] = []
  optional: list[str] = []
  takes_any = False
  for key, parameter in inspect.signature(factory).parameters.items():
    if parameter.kind is parameter.VAR_KEYWORD:
      takes_any = True
    elif key not in _RESERVED:
      is_required = parameter.default is parameter.empty
      (required if is_required else optional).append(key)
  return required, optional, takes_any
