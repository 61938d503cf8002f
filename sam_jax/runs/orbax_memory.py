"""What a checkpoint leaves in memory, stopped and given back.

Whatever TensorStore (0.1.86, and those before) returns as JSON is never freed.
Orbax asks for it several times per checkpoint: for a description of each array
that it could have made itself, and for numbers of which it logs a rate. A long
run would never get these 20 kB back.

What a checkpoint needs for a while is given back to the system; the allocator
of the C library would keep it. Commands also have all threads share it, see
`startup.share_memory`: Orbax starts some for each checkpoint.
"""

import ast
import contextlib
import ctypes
import functools
import importlib
from typing import Any

_PREFIX, _SUFFIX = 'KvStore.Spec(', ')'


def give_back() -> None:
  """Gives memory that is free back to the system, where glibc can do so."""
  with contextlib.suppress(OSError, AttributeError, TypeError):
    ctypes.CDLL(None).malloc_trim(0)


def stop_leak() -> None:
  """Has TensorStore return what Orbax asks for in another way."""
  # Of no type, because what it has is replaced. It comes with Orbax.
  tensorstore: Any = importlib.import_module('tensorstore')
  spec = tensorstore.KvStore.Spec
  original = spec.to_json
  if original.__name__ == _to_json.__name__:
    return

  @functools.wraps(_to_json)
  def to_json(self: Any, **options: Any) -> Any:
    if not options:  # Orbax gives none
      # The text of another version may be another one.
      with contextlib.suppress(SyntaxError, ValueError):
        return _to_json(self)
    return original(self, **options)

  tensorstore.experimental_collect_matching_metrics = _no_metrics
  spec.to_json = to_json


def _no_metrics(prefix: str = '', **options: Any) -> list[Any]:
  """Returns no metrics, of which Orbax then logs no rate."""
  del prefix, options
  return []


def _to_json(self: Any) -> Any:
  """Returns the JSON of a description, from the text that Python shows."""
  text = repr(self)
  if not (text.startswith(_PREFIX) and text.endswith(_SUFFIX)):
    raise ValueError(text)
  return ast.literal_eval(text.removeprefix(_PREFIX).removesuffix(_SUFFIX))
