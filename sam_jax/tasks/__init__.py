"""What a batch, a loss and a score are."""

from typing import NamedTuple


class Score(NamedTuple):
  """The metric of an evaluation by which runs are compared; lower is better.

  Attributes:
    metric: its name in metrics.jsonl, without the split.
    label: what tables and pictures call it.
    unit: of the numbers that people see.
    scale: those numbers are the metric's times this.
  """

  metric: str
  label: str
  unit: str = ''
  scale: float = 1.0

  def text(self, value: float) -> str:
    """Returns a value of the metric as people see it."""
    if self.unit == '%':
      return f'{self.scale * value:.2f} %'
    return f'{self.scale * value:.4g} {self.unit}'.rstrip()
