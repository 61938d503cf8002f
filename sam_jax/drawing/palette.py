"""One colour and one marker for each method, the same in every picture.

Both follow from the name alone: they stay when methods are added, and a method
of a plug-in has them too. The seven colours can be told apart by readers who do
not see all colours: they are those of Okabe and Ito without yellow, which is
hard to see on white. Seven colours are not enough for all methods, so the
marker and whether it is filled tell apart the methods of one colour.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from matplotlib import colors

COLOURS = (
  '#000000',  # black
  '#e69f00',  # orange
  '#56b4e9',  # sky blue
  '#009e73',  # bluish green
  '#0072b2',  # blue
  '#d55e00',  # vermilion
  '#cc79a7',  # reddish purple
)
_MARKERS = 'osD^v<>PX*pd'
_LINES = ('-', '--', ':', '-.')
# Found by trial: with it SGD is black, SAM is blue, the best known methods have
# seven colours, and each method of the package has a look of its own. Another
# one changes all colours.
_SALT = 20583928
_SHADE = 0.65  # of the way to black or white, for the last of many lines
_DARK = 0.27  # luminance below which a colour is made lighter, not darker


def color(name: str) -> str:
  """Returns the colour of a method, such as '#0072b2'."""
  return COLOURS[_digest(name)[0] % len(COLOURS)]


def styles(names: Sequence[str]) -> list[dict[str, Any]]:
  """Returns the style of a line for each method, as matplotlib takes it.

  The first line of a method has the method's own colour. Further ones have
  shades of it, in the order of the lines. Lines of one colour, also those of
  several methods, are of different kinds: solid, dashed, dotted.

  Args:
    names: of the methods; a name may be there several times.
  """
  looks = [_look(name) for name in names]
  hues = [hue for hue, _, _ in looks]
  return [
    _style(look, looks[:i].count(look), looks.count(look))
    | {'linestyle': _LINES[hues[:i].count(hues[i]) % len(_LINES)]}
    for i, look in enumerate(looks)
  ]


def marks(index: int, count: int) -> tuple[float, float]:
  """Returns matplotlib's `markevery` for one of some curves in a panel.

  Where curves are the same, their markers are not at the same places.

  Args:
    index: of the curve.
    count: of all curves.
  """
  spacing = 0.15  # in units of the panel
  return spacing * (index + 1) / count, spacing


def _look(name: str) -> tuple[str, str, bool]:
  """Returns colour, marker, and whether the marker is filled."""
  _, marker, fill = _digest(name)
  return color(name), _MARKERS[marker % len(_MARKERS)], fill % 2 == 0


def _style(
  look: tuple[str, str, bool], index: int, count: int
) -> dict[str, Any]:
  """Returns the style of one of some lines that look the same otherwise."""
  own, marker, is_filled = look
  shade = _shade(own, index / max(count - 1, 1))
  return {
    'color': shade,
    'marker': marker,
    'markersize': 5,
    'markerfacecolor': shade if is_filled else 'white',
  }


def _shade(own: str, share: float) -> str:
  """Returns a colour some of the way to black, or to white if it is dark."""
  red, green, blue = colors.to_rgb(own)
  is_dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < _DARK
  end = 1.0 if is_dark else 0.0
  red, green, blue = (
    x + (end - x) * _SHADE * share for x in (red, green, blue)
  )
  return str(colors.to_hex((red, green, blue)))


def _digest(name: str) -> bytes:
  """Returns three numbers that follow from a name, in [0, 256)."""
  return hashlib.sha256(f'{_SALT} {name}'.encode()).digest()[:3]
