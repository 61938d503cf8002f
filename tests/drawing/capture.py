"""Figures as they are drawn, before they become pixels."""

from sam_jax.drawing import sheet


def figures(monkeypatch):
  """Returns a list that gets each figure in place of a file; none is written.

  Args:
    monkeypatch: of the test.
  """
  kept = []
  monkeypatch.setattr(sheet, '_save', lambda figure, path: kept.append(figure))
  return kept


def legend(figure):
  """Returns the labels of a figure's legend; it is beside all panels."""
  [found] = figure.legends
  figure.draw_without_rendering()
  box = found.get_window_extent()
  assert not any(box.overlaps(a.get_tightbbox()) for a in figure.axes)
  return [text.get_text() for text in found.get_texts()]
