"""One colour for each method, the same in every picture.

It follows from the name alone: it stays when methods are added, and a plug-in
has one too. Two names may have colours that look alike; where a picture has
both, the marks on the curves tell them apart.
"""

import colorsys
import hashlib
from collections.abc import Sequence
from typing import Any

_MARKS = 'osD^vP*Xp<>h'
_LINES = ('-', '--', ':', '-.')
_VALUES = (0.4, 0.6, 0.8)  # of brightness; all can be seen on white
_NUM_HUES = 24
# Of 3,000 salts, the one by which the best known methods differ most: in CIELAB
# by 46 and more. Another one changes all colours.
_SALT = 1267
_SPACING = 0.15  # between the marks of a curve, in units of the panel


def color(name: str) -> tuple[float, float, float]:
  """Returns the colour of a method, as red, green and blue in [0, 1]."""
  hue, brightness, _ = _digest(name)
  return colorsys.hsv_to_rgb(
    hue * _NUM_HUES // 256 / _NUM_HUES, 0.9, _VALUES[brightness % len(_VALUES)]
  )


def styles(names: Sequence[str]) -> list[dict[str, Any]]:
  """Returns the style of the curve of each method.

  Args:
    names: of the methods; one that is there again has another kind of line.
  """
  return [
    {
      'color': color(name),
      'marker': _MARKS[_digest(name)[2] % len(_MARKS)],
      'linestyle': _LINES[list(names[:i]).count(name) % len(_LINES)],
      'markersize': 4,
      # Where curves meet, their marks do not.
      'markevery': (_SPACING * (i + 1) / len(names), _SPACING),
    }
    for i, name in enumerate(names)
  ]


def _digest(name: str) -> bytes:
  """Returns three numbers that follow from a name, in [0, 256)."""
  return hashlib.sha256(f'{_SALT} {name}'.encode()).digest()[:3]
