"""Sheets, scales and legends."""

import matplotlib
import numpy as np
import pytest
from matplotlib import figure as figure_lib, pyplot as plt

from sam_jax import tasks
from sam_jax.drawing import palette, sheet
from tests.drawing import capture

_ERROR = tasks.Score('error_rate', 'error', '%', 100.0)
_LOSS = tasks.Score('loss', 'loss', 'nats')


@pytest.mark.parametrize(
  ('score', 'mean', 'half', 'low', 'high'),
  [
    (_ERROR, 0.1, 0.2, 0, 30),
    (_ERROR, 0.9, 0.2, 70, 100),
    (_ERROR, 0.5, np.nan, 50, 50),
    (_LOSS, 0.1, 0.2, 0, 0.3),
    (_LOSS, 90.0, 20.0, 70, 110),
    (_LOSS, -0.1, 0.2, -0.3, 0.1),  # a log-likelihood may be negative
  ],
)
def test_intervals_end_where_no_score_is(score, mean, half, low, high):
  found = sheet.interval([mean], [half], score)
  np.testing.assert_allclose(np.ravel(found[1:]), [low, high], atol=1e-9)


@pytest.mark.parametrize(
  ('values', 'scale', 'ticks'),
  [
    ([80, 4, 20], 'log', [5, 10, 20, 50]),
    ([30, 20], 'linear', None),
    ([3, 1], 'log', [1, 2, 3]),
    ([50, 0, 5], 'symlog', [0, 5, 7, 10, 20, 30, 50]),
    ([0, 0], 'linear', None),
    ([1, -1], 'linear', None),
    ([np.nan, 50, 1], 'log', [1, 2, 5, 10, 20, 50]),
  ],
)
def test_the_axis_of_scores_is_logarithmic_if_they_differ(values, scale, ticks):
  axes = figure_lib.Figure().subplots()
  axes.plot(values)
  sheet.scale(axes, values, ends=[1e-9, 99], on='y')
  assert axes.get_yscale() == scale
  if ticks is not None:
    low, high = axes.get_ylim()
    # An interval that reaches down to nothing does not squeeze the rest.
    positive = [v for v in values if v > 0]
    assert low > 0.4 * min(positive) or (scale == 'symlog' and low < 0)
    assert high > max(positive)
    ends = (min(positive), max(positive))
    shown = [t for t in axes.get_yticks() if t == 0 or ends[0] <= t <= ends[1]]
    assert shown == ticks


def test_points_at_one_place_are_side_by_side():
  axes = figure_lib.Figure().subplots()
  found = sheet.interval([0.4, 0.8], [0.1, 0.1], _ERROR)
  for i in range(3):
    sheet.errorbars(axes, [10, 30], found, (i, 3))
  drawn = [bar.lines[0] for bar in axes.containers]
  places = [d.get_transform().transform(d.get_xydata()) for d in drawn]
  apart = np.diff(places, axis=0)
  assert (apart[..., 0] > 3).all()
  np.testing.assert_allclose(apart[..., 1], 0, atol=1e-9)
  middle = axes.transData.transform([(10, 40), (30, 80)])
  np.testing.assert_allclose(places[1], middle)
  # The axes show all of them.
  (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
  assert left < 10 and right > 30 and low < 30 and high > 90


def test_the_legend_is_beside_the_data(monkeypatch, tmp_path):
  kept = capture.figures(monkeypatch)
  with sheet.picture(tmp_path / 'a.png', (5, 3), 'errors, in $') as (
    figure,
    [[axes]],
  ):
    for i, style in enumerate(palette.styles(['sgd', 'sam', 'asam'])):
      axes.plot([0, 1], [i, i], label=f'a line with a long name {i}', **style)
    sheet.legend(figure, axes)
  assert len(capture.legend(kept[0])) == 3
  assert kept[0].get_suptitle() == r'errors, in \$'


def test_a_picture_leaves_no_trace_in_pyplot(tmp_path):
  before = matplotlib.rcParams['axes.grid']
  path = tmp_path / 'a.png'
  with sheet.picture(path, (3, 2), 'a', rows=2, columns=2, count=3) as (
    figure,
    axes,
  ):
    axes[0, 0].plot([1, 2])
    sheet.legend(figure, axes[0, 0])  # nothing has a label
  assert len(figure.axes) == 3 and not figure.legends
  assert plt.imread(path).std() > 0.01
  assert not plt.get_fignums()
  assert matplotlib.rcParams['axes.grid'] == before
