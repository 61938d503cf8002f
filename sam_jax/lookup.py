"""Names that a config gives: known, or refused in one line."""

import difflib
from collections.abc import Iterable


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
