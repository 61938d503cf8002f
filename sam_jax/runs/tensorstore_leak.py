"""A leak of TensorStore, stopped.

Whatever TensorStore (0.1.86, and those before) returns as JSON is never freed.
Orbax asks for it several times per checkpoint: for a description of each array
that it could have made itself, and for numbers of which it logs a rate. A long
run would never get these 20 kB back.
"""

import ast
import importlib
from typing import Any

_PREFIX, _SUFFIX = 'KvStore.Spec(', ')'


def stop() -> None:
  """Has TensorStore return what Orbax asks for in another way."""
  # Of no type, because what it has is replaced. It comes with Orbax.
  tensorstore: Any = importlib.import_module('tensorstore')
  spec = tensorstore.KvStore.Spec
  if spec.to_json is not _to_json:
    tensorstore.experimental_collect_matching_metrics = _no_metrics
    spec.to_json = _to_json


def _no_metrics(prefix: str = '', **options: Any) -> list[Any]:
  """Returns no metrics, of which Orbax then logs no rate."""
  del prefix, options
  return []


def _to_json(self: Any, **options: Any) -> Any:
  """Returns the JSON of a description, from the text that Python shows."""
  del options  # Orbax gives none
  return ast.literal_eval(
    repr(self).removeprefix(_PREFIX).removesuffix(_SUFFIX)
  )
