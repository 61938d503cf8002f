"""Names that a config gives: known, or refused in one line."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable


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
  return ValueError(f'unknown {kind} {name!r}; known: {", ".join(known)}{hint}')


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
