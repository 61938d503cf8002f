"""Data that are not there, for what can be said of a run without them.

A dry run tells the size of a model, its memory and the number of steps, which
depend on how many examples there are and on their shape alone.
"""

from collections.abc import Callable
from typing import Any

import ml_collections

from sam_jax.datasets import facts, text
from sam_jax.runs import shared as shared_lib

_BYTES = 256  # the vocabulary of a text without a tokenizer
_CONTEXT_LENGTH = 256


class StandIns(shared_lib.Shared):
  """Shares data sets, and has one of the same size for one that is not there.

  Attributes:
    missing: by the name of each data set that is not there, how to get it.
  """

  def __init__(self, num_windows: int | None = None) -> None:
    """Misses nothing yet.

    Args:
      num_windows: that a text is taken to have, whose length is not known; None
        has nothing stand in for a text.
    """
    super().__init__()
    self.missing: dict[str, str] = {}
    self._num_windows = num_windows

  def dataset(self, load: Callable[[], Any], *depends_on: Any) -> Any:
    """Returns a data set, see `Shared.dataset`, or what stands in for it.

    Raises:
      FileNotFoundError: it is not there, and its size is not known.
    """
    _, data = depends_on
    try:
      return super().dataset(load, *depends_on)
    except FileNotFoundError as error:
      made = self._make(data)
      if made is None:
        raise
      self.missing[data.name] = str(error)
      return made

  def _make(self, data: ml_collections.ConfigDict) -> Any:
    """Returns a data set without content, None if its size is not known."""
    if data.name in text.names():
      return self._make_text(data)
    return facts.stand_in(
      data.name,
      data.split,
      image_size=data.get('image_size'),
      train_size=data.get('train_size'),
    )

  def _make_text(self, data: ml_collections.ConfigDict) -> Any:
    """Returns a text without content, None if too little is known of it."""
    if self._num_windows is None:
      return None
    size = data.get('vocabulary_size')
    if size is None and (data.name == 'tokens' or data.tokenizer is not None):
      return None
    return facts.text_stand_in(
      data.name,
      context_length=data.get('context_length') or _CONTEXT_LENGTH,
      vocabulary_size=size or _BYTES,
      count=self._num_windows,
    )
