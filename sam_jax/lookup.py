"""Names and values that a config gives: known, or refused in one line."""

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

_MAX_MEANT = 3  # names that a message asks about
_SEQUENCES = (tuple, Sequence)
_WORDS = {
  bool: 'True or False',
  float: 'a number',
  int: 'a whole number',
  str: 'a text',
  type(None): 'None',
}


def check(kind: str, name: str, known: Iterable[str]) -> None:
  """Refuses a name that is not known.

  Args:
    kind: what the name should name, for the message.
    name: what was given.
    known: all that is allowed.

  Raises:
    ValueError: the name is not among them; the message lists them.

  Example:
    >>> from sam_jax import lookup
    >>> lookup.check('method', 'sma', ['sam', 'sgd'])
    Traceback (most recent call last):
      ...
    ValueError: unknown method 'sma'; known: sam, sgd (did you mean 'sam'?)
  """
  if name not in (known := list(known)):
    raise unknown(kind, name, known)


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
  """Returns the error that `check` raises, for one's own condition."""
  known = list(known)
  lower = {k.lower(): k for k in known}
  close = difflib.get_close_matches(str(name).lower(), lower, n=1)
  hint = f' (did you mean {lower[close[0]]!r}?)' if close else ''
  return ValueError(
    f'unknown {kind} {shown(name)}; known: {", ".join(known)}{hint}'
  )


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """Returns ' (did you mean ...?)' for a dotted name, '' without an idea.

  A field may be misspelt, lack its section, or have a shorter name, as in many
  other programs.

  Args:
    name: that nobody knows.
    known: fields and sections, by dotted name.

  Example:
    >>> from sam_jax import lookup
    >>> known = ['learning_rate', 'method', 'method.name', 'method.rho']
    >>> [lookup.did_you_mean(x, known) for x in ('rho', 'lr', 'method.roh')]
    [" (did you mean 'method.rho'?)", " (did you mean 'learning_rate'?)", \
" (did you mean 'method.rho'?)"]
  """
  meant = ' or '.join(map(repr, closest(name, known)))
  return f' (did you mean {meant}?)' if meant else ''


def closest(name: str, known: Iterable[str]) -> list[str]:
  """Returns the dotted names that may be meant, see `did_you_mean`."""
  known = list(dict.fromkeys(known))
  name = name.replace('-', '_').lower()
  last = name.rpartition('.')[2]
  # Sections count only if the name has one.
  shape = str.lower if '.' in name else _last

  def alike(cutoff: float) -> list[str]:
    close = difflib.get_close_matches(name, map(shape, known), 1, cutoff)
    return [k for k in known if shape(k) in close]

  begun = [k for k in known if any(w.startswith(name) for w in _words(k))]
  begun.sort(key=lambda k: ('.' in k, len(k)))
  groups = (
    [k for k in known if k == name],
    [k for k in known if _last(k) == last],
    [k for k in known if ''.join(w[:1] for w in _words(k)) == name],
    begun[:1] if len(name) > 2 else [],
    alike(0.6),
  )
  found = next(filter(None, groups), [])
  if '.' in name or len(found) > _MAX_MEANT:
    found = difflib.get_close_matches(name, found, n=1, cutoff=0.0)
  return [field for k in found for field in _fields_of(k, known)]


def _last(name: str) -> str:
  """Returns a field without its section."""
  return name.rpartition('.')[2].lower()


def _words(name: str) -> list[str]:
  """Returns the words of a field without its section."""
  return _last(name).split('_')


def _fields_of(name: str, known: Sequence[str]) -> list[str]:
  """Returns what is set in place of a section; a field is set itself."""
  inner = [k for k in known if k.startswith(f'{name}.')]
  return [f'{name}.name'] if f'{name}.name' in inner else inner or [name]


def check_options(
  what: str,
  factory: Callable[..., object],
  given: Iterable[str],
  reserved: Collection[str] = (),
) -> None:
  """Refuses options that a factory does not take, or lacks.

  Args:
    what: what the factory makes, for the message.
    factory: is called with the options as keywords.
    given: names of the options.
    reserved: arguments that the caller fills in itself.

  Raises:
    ValueError: the message lists what is taken, or needed.

  Example:
    >>> from sam_jax import lookup
    >>> lookup.check_options("method 'sam'", lambda rho, p=2: 0, ['roh'])
    Traceback (most recent call last):
      ...
    ValueError: method 'sam' takes no roh; it takes rho, p
  """
  parameters = inspect.signature(factory).parameters.values()
  if any(p.kind is p.VAR_KEYWORD for p in parameters):
    return
  accepted = {p.name: p for p in parameters if p.name not in reserved}
  given = list(given)
  if wrong := [name for name in given if name not in accepted]:
    raise ValueError(
      f'{what} takes no {", ".join(wrong)}; it takes '
      f'{", ".join(accepted) or "no options"}'
    )
  missing = [
    name
    for name, parameter in accepted.items()
    if parameter.default is parameter.empty and name not in given
  ]
  if missing:
    raise ValueError(f'{what} needs {", ".join(missing)}')


def check_types(
  what: str, factory: Callable[..., object], given: Mapping[str, object]
) -> None:
  """Refuses options of another type than a factory's annotations say.

  Args:
    what: what the factory makes, for the message.
    factory: is called with the options as keywords. An argument without an
      annotation takes anything.
    given: the options.

  Raises:
    ValueError: the message has the option, its value and the type.

  Example:
    >>> from sam_jax import lookup
    >>> def factory(rho: float, p: int | None = None): ...
    >>> lookup.check_types("method 'sam'", factory, {'rho': 1, 'p': 2})
    >>> lookup.check_types("method 'sam'", factory, {'rho': '0.1'})
    Traceback (most recent call last):
      ...
    ValueError: method 'sam': rho is '0.1'; it must be a number
  """
  kinds = _annotations(factory)
  for name, value in given.items():
    if name in kinds and not fits(value, kinds[name]):
      raise ValueError(f'{what}: {mismatch(name, value, kinds[name])}')


def mismatch(name: str, value: object, kind: Any) -> str:
  """Returns what to say of a value that does not `fit`."""
  return f'{name} is {shown(value)}; it must be {_describe(kind)}'


def shown(value: object, length: int = 80) -> str:
  """Returns a value as a message of one line has it, shortened."""
  text = ' '.join(repr(value).split())
  return text if len(text) <= length else f'{text[:length]}...'


def fits(value: object, kind: Any) -> bool:
  """Returns whether a value is of a type, as an annotation gives it.

  A whole number is a number too, and a bool is neither. A value is not looked
  at where any other type is wanted, such as a function or a dtype.

  Example:
    >>> from sam_jax import lookup
    >>> lookup.fits((1, 2), tuple[int, ...]), lookup.fits(True, int)
    (True, False)
  """
  origin, kinds = typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType):
    return any(fits(value, k) for k in kinds)
  if origin in _SEQUENCES and kinds:
    if not isinstance(value, (tuple, list)):
      return False
    if origin is tuple and kinds[1:] != (...,):
      return len(value) == len(kinds) and all(map(fits, value, kinds))
    return all(fits(v, kinds[0]) for v in value)
  if kind not in _WORDS:
    return True
  if kind in (int, float) and isinstance(value, bool):
    return False
  return isinstance(value, (int, float) if kind is float else kind)


def _describe(kind: Any) -> str:
  """Returns the words for a type."""
  origin, kinds = typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType):
    return ' or '.join(dict.fromkeys(map(_describe, kinds)))
  if origin in _SEQUENCES and kinds:
    return f'a tuple, each of it {_describe(kinds[0])}'
  return _WORDS.get(kind, getattr(kind, '__name__', str(kind)))


def _annotations(factory: Callable[..., object]) -> dict[str, Any]:
  """Returns the types of a factory's arguments, where they can be told."""
  while (inner := inspect.unwrap(factory)) is not factory or isinstance(
    factory, functools.partial
  ):
    factory = getattr(inner, 'func', inner)
  name = '__init__' if isinstance(factory, type) else '__call__'
  function = factory if inspect.isfunction(factory) else getattr(factory, name)
  try:
    return typing.get_type_hints(function)
  except Exception:  # names that only a type checker imports
    return {}
