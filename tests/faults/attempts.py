"""What comes of an attempt to make the program fail."""

import resource
from typing import NamedTuple


class Attempt(NamedTuple):
  """One attempt.

  Attributes:
    outcome: in a word or two, for counting: 'refused', 'resumed', ...
    fault: what was wrong with that, in one line; '' if it is as it must be.
    seconds: that it took.
  """

  outcome: str
  fault: str = ''
  seconds: float = 0.0


def peak_memory() -> int:
  """Returns the largest memory that this process has had, in bytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
