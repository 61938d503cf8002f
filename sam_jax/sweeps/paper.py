"""What the paper printed for some cells of a sweep, to compare with."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Paper(NamedTuple):
  """A number of the paper and the runs that it is compared with.

  Attributes:
    fields: what those runs have in their config, by dotted name. A function in
      place of a value is called with the value and says whether it fits.
    number: as the paper prints it, in the unit of the metric's tables: percent
      for an error rate.
    half_width: of its 95 % confidence interval; None if the paper has none.
    metric: the metric that the number is of. It is compared with no other.

  `numbers` reads number and half width as the paper prints them. A run is
  compared with the first entry of each metric that fits it.
  """

  fields: Mapping[str, Any]
  number: float
  half_width: float | None = None
  metric: str = 'error_rate'

  def fits(self, fields: Mapping[str, Any]) -> bool:
    """Returns whether a run with these fields is compared with the number.

    Raises:
      ValueError: a function in place of a value fails.
    """
    return all(
      _call(name, wanted, fields.get(name))
      if callable(wanted)
      else fields.get(name) == wanted
      for name, wanted in self.fields.items()
    )

  def __str__(self) -> str:
    """Returns the number as the paper prints it."""
    half_width = '' if self.half_width is None else f' ± {self.half_width}'
    return f'{self.number}{half_width}'


def _call(name: str, function: Callable[[Any], Any], value: Any) -> bool:
  """Returns whether a function of a sweep file says that a value fits."""
  try:
    return bool(function(value))
  except Exception as error:  # it is a program of the user's
    raise ValueError(
      f'the function that the paper of the sweep has for {name} fails for '
      f'{value!r}: {type(error).__name__}: {error}'
    ) from error


def numbers(text: str) -> list[tuple[float, float | None]]:
  """Reads the numbers and half widths of a row of the paper.

  Args:
    text: such as '2.7±0.1 2.1±<0.1 15.3'; '<0.1' counts as 0.1.

  Example:
    >>> numbers('2.7±0.1 2.1±<0.1 15.3')
    [(2.7, 0.1), (2.1, 0.1), (15.3, None)]
  """
  parts = (number.partition('±') for number in text.split())
  return [
    (float(number), float(half.lstrip('<')) if half else None)
    for number, _, half in parts
  ]
