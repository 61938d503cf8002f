"""Draws docs/assets/m.svg: what m, the examples of a perturbation, means.

python scripts/draw_m.py
"""

import pathlib

import matplotlib as mpl
import numpy as np
from matplotlib import axes as mpl_axes, patches, pyplot as plt

_PATH = pathlib.Path(__file__).resolve().parents[1] / 'docs/assets/m.svg'
_COLUMNS, _ROWS = 16, 4  # 64 squares stand for a batch of 256
_BLUE, _ORANGE, _GREY = '#0072b2', '#d55e00', '#767676'
_SHADES = ('#0072b2', '#8cbfe0')  # of neighbouring groups
# Degrees that the gradients of the groups point to.
_ANGLES = (62, 20, 95, 48, 110, 5, 75, 33)
# Seed of the names in the file, so that it is the same each time.
_STYLE = {'font.size': 11, 'svg.hashsalt': 'm', 'svg.fonttype': 'path'}


def main() -> None:
  """Draws the picture."""
  with mpl.rc_context(_STYLE):
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout='constrained')
    _draw(panels[0], 1, 'm = 256: one perturbation for all')
    _draw(panels[1], 8, 'm = 32: one for each of eight groups')
    figure.savefig(_PATH, metadata={'Date': None})
  print(f'wrote {_PATH.name}')


def _draw(axes: mpl_axes.Axes, groups: int, title: str) -> None:
  """Draws the batch above, and the perturbations below."""
  width = _COLUMNS // groups
  for column in range(_COLUMNS):
    color = _SHADES[column // width % 2]
    for row in range(_ROWS):
      square = patches.Rectangle((column, 9 + row), 0.8, 0.8, color=color)
      axes.add_patch(square)
  axes.text(-0.6, 11, 'batch\nB = 256', ha='right', va='center')
  center, radius = np.array([8.0, 3.5]), 3.2
  axes.add_patch(
    patches.Circle(center, radius, fill=False, color=_GREY, ls=':')
  )
  angles = np.deg2rad(_ANGLES if groups > 1 else [np.mean(_ANGLES)])
  for number, angle in enumerate(angles):
    tip = center + radius * np.array([np.cos(angle), np.sin(angle)])
    _arrow(axes, center, tip, _SHADES[number % 2])
  axes.plot(*center, 'o', color='black', ms=5)
  axes.text(7.6, 2.9, 'w', ha='right', va='top')
  axes.text(4.6, 4.6, r'radius $\rho$', ha='right', color=_GREY)
  what = (
    'the mean of 8 gradients at 8 points'
    if groups > 1
    else ('the gradient at w + ε')
  )
  _arrow(axes, center, center + [-3.6, -3.1], _ORANGE)
  axes.text(9.0, -0.4, f'step: {what}', color=_ORANGE, ha='center', va='top')
  axes.set(xlim=(-5.5, 18), ylim=(-2, 13.2), aspect='equal')
  axes.set_title(title, fontsize=11, weight='bold')
  axes.axis('off')


def _arrow(
  axes: mpl_axes.Axes, start: np.ndarray, end: np.ndarray, color: str
) -> None:
  """Draws an arrow."""
  axes.annotate(
    '', xy=end, xytext=start, arrowprops={'arrowstyle': '-|>', 'color': color}
  )


if __name__ == '__main__':
  main()
