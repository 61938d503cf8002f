"""Pictures of a sweep: what is in them, before they become pixels."""

import pathlib

import numpy as np
import pytest
from matplotlib import pyplot as plt

from sam_jax.drawing import palette
from sam_jax.sweeps import (
  curves,
  pictures,
  results,
  settings as settings_lib,
)
from tests.drawing import capture
from tests.sweeps import made_up


def _setting(errors, *, cost=10.0, split='test', score=made_up.ERROR, **fields):
  """Replicas with these final scores."""
  runs = tuple(
    results.FinishedRun(
      pathlib.Path(),
      {'method.name': 'sam', 'data.name': 'digits'} | fields,
      {
        'final_score': error,
        'score': score,
        'gradient_evaluations': cost,
        'wall_seconds': 3 * cost,
        'split': split,
      },
    )
    for error in errors
  )
  return settings_lib.Setting(fields, runs, fields)


def _settings():
  """Two problems; two methods with three rhos and SGD for each."""
  settings = []
  for noise in (0.0, 0.4):
    problem = {'data.label_noise': noise}
    sgd = {'method.name': 'sgd', 'method.rho': None, 'm': None}
    settings.append(_setting([0.3 + noise], **problem, **sgd))
    for m in (1, 4):
      for rho in (0.5, 0.1, 0.2):
        error = 0.1 + noise / 2 + abs(rho - 0.2) + m / 100
        settings.append(
          _setting(
            [error, error + 0.02],
            cost=20.0,
            **problem,
            **{'method.name': 'sam', 'method.rho': rho, 'm': m},
          )
        )
  return settings


@pytest.fixture
def figures(monkeypatch, tmp_path):
  """Draws settings; returns the panels of each picture by its name."""
  kept = capture.figures(monkeypatch)

  def curve(setting, name):
    assert name == f'{setting.split}/error_rate'
    mean = setting.estimate('final_score').mean
    return np.array([1, 2]), np.array([0.9, mean]), np.array([0.0, 0.1])

  monkeypatch.setattr(settings_lib, 'curve', curve)

  def draw(settings):
    kept.clear()
    paths = pictures.draw(tmp_path, settings)
    return {
      path.stem: {axes.get_title(): axes for axes in figure.axes}
      for path, figure in zip(paths, kept, strict=True)
    }

  return draw


def _lines(axes):
  """The error bars of a panel by label: places, heights, half widths."""
  found = {}
  for bar in axes.containers:
    line, _, [bars] = bar.lines
    half = [np.ptp(s[:, 1]) / 2 for s in bars.get_segments()]
    found[bar.get_label()] = (*map(list, line.get_data()), half)
  return found


def test_a_problem_is_a_panel_and_a_method_a_line(figures):
  panels = figures(_settings())['score_vs_rho']
  assert list(panels) == ['0 % label noise', '40 % label noise']
  lines = _lines(panels['40 % label noise'])
  assert list(lines) == ['sam, m = 1', 'sam, m = 4']
  places, heights, half = lines['sam, m = 4']
  assert places == [0.1, 0.2, 0.5]
  np.testing.assert_allclose(heights, [45, 35, 65])
  # Two replicas 2 % apart: 12.706 times the error of the mean, 1 %.
  np.testing.assert_allclose(half, [12.706] * 3, rtol=1e-4)
  panels = figures(_settings())['score_vs_m']
  assert list(_lines(panels['0 % label noise'])) == [
    f'sam, rho = {rho}' for rho in (0.5, 0.1, 0.2)
  ]


def test_of_many_perturbations_the_best_is_compared_with_others(figures):
  made = figures(_settings())
  for name, factor in (('gradients', 1), ('seconds', 3)):
    panels = made[f'score_vs_{name}']
    lines = _lines(panels['0 % label noise'])
    assert list(lines) == ['sgd', 'sam']
    assert lines['sgd'][0] == [10 * factor]
    assert lines['sam'][0] == [20 * factor]
    np.testing.assert_allclose(lines['sam'][1], 12)
  panels = made['curves']
  drawn = {
    line.get_label(): line.get_ydata()
    for line in panels['40 % label noise'].get_lines()
  }
  np.testing.assert_allclose(drawn['sam'], [90, 32])
  np.testing.assert_allclose(drawn['sgd'], [90, 70])
  # One colour for a method in all pictures and panels.
  for axes in (*panels.values(), *made['score_vs_gradients'].values()):
    colours = [line.get_color() for line in axes.get_lines()]
    assert {palette.color(name) for name in ('sgd', 'sam')} <= {*colours}
  figure = panels['40 % label noise'].figure
  assert capture.legend(figure) == ['sgd', 'sam']
  assert figure.get_suptitle() == (
    'digits: test error along training; rho, m and alpha: the best of those '
    'shown\nmean and 95 % confidence interval over 1 to 2 seeds'
  )


def test_the_best_is_that_of_the_validation_split(figures):
  """Where there is one: the test split is not to choose by."""
  settings = [
    _setting([error], split=split, **{'data.split': split, 'method.rho': rho})
    for split, errors in (('validation', (0.3, 0.2)), ('test', (0.1, 0.4)))
    for rho, error in zip((0.1, 0.2), errors, strict=True)
  ]
  panels = figures(settings)['score_vs_gradients']
  assert _lines(panels['test split'])['sam'][1] == [40]
  assert _lines(panels['validation split'])['sam'][1] == [20]
  title = panels['test split'].figure.get_suptitle()
  assert title.startswith('digits: validation error and test error against')
  assert 'best of those shown' not in title


def test_without_a_perturbation_it_is_another_method(figures):
  settings = [
    _setting([0.1 + rho], **{'method.rho': rho}) for rho in (0.0, 0.1, 0.2)
  ]
  made = figures(settings)
  [panel] = made['score_vs_gradients'].values()
  assert {k: v[1] for k, v in _lines(panel).items()} == {
    'rho = 0': [10],
    'sam': [pytest.approx(20)],
  }
  [panel] = made['score_vs_rho'].values()
  # What is not 0 is apart, as on an axis without 0.
  places = panel.transData.transform([(r, 0) for r in (0.1, 0.2, 0.4)])[:, 0]
  assert places[2] - places[1] == pytest.approx(places[1] - places[0])


def test_nothing_is_drawn_against_a_field_that_does_not_vary(figures):
  settings = [c for c in _settings() if c.fields['method.rho'] in (None, 0.2)]
  made = figures(settings)
  assert 'score_vs_rho' not in made
  assert 'score_vs_m' in made


@pytest.mark.slow
def test_a_picture_is_written_with_its_legend(tmp_path, monkeypatch):
  empty = (np.array([]), np.array([]), np.array([]))
  monkeypatch.setattr(settings_lib, 'curve', lambda cell, name: empty)
  for path in pictures.draw(tmp_path, _settings()):
    assert plt.imread(path).std() > 0.01


def test_axes_have_the_words_and_the_scale_of_the_task(figures):
  loss = {'metric': 'error_rate', 'label': 'loss', 'unit': 'nats', 'scale': 2.0}
  problems = ({'task.name': 'b', 'score': loss}, {'task.name': 'a'})
  settings = [
    _setting([0.1], **problem, **{'method.rho': rho})
    for problem in problems
    for rho in (0.1, 0.2)
  ]
  panels = figures(settings)['score_vs_rho']
  assert {title: axes.get_ylabel() for title, axes in panels.items()} == {
    'a': 'test error, %',
    'b': 'test loss, nats',
  }
  assert _lines(panels['b'])['sam'][1] == [0.2, 0.2]
  assert _lines(panels['a'])['sam'][1] == [10, 10]


def test_curves_of_a_few_settings_are_drawn_by_their_names(
  tmp_path, monkeypatch
):
  drawn = (np.arange(1, 5), np.array([0.9, 0.5, 0.3, 0.1]), np.full(4, 0.2))
  monkeypatch.setattr(settings_lib, 'curve', lambda setting, name: drawn)
  kept = capture.figures(monkeypatch)
  sgd = {'method.name': 'sgd'}
  lines = {'SGD': _setting([0.1], **sgd), 'SGD, 2x': _setting([0.1], **sgd)}
  lines['SAM'] = _setting([0.1])
  curves.draw(tmp_path / 'a.png', lines, 'digits')
  [axes] = kept[0].axes
  assert capture.legend(kept[0]) == list(lines)
  assert axes.get_ylabel() == 'test error, %'
  assert axes.get_yscale() == 'log'
  one, two, sam = axes.get_lines()
  np.testing.assert_allclose(sam.get_ydata(), [90, 50, 30, 10])
  assert one.get_color() == palette.color('sgd') != two.get_color()
  assert sam.get_color() == palette.color('sam')
  # Curves that are the same have their markers at other places.
  assert len({line.get_markevery() for line in (one, two, sam)}) == 3
  # The band does not reach below 0 and above 100.
  band = axes.collections[0].get_paths()[0].vertices
  assert (band[:, 1].min(), band[:, 1].max()) == (0, 100)
  # A run that was evaluated once is a point.
  once = tuple(values[:1] for values in drawn)
  monkeypatch.setattr(settings_lib, 'curve', lambda setting, name: once)
  curves.draw(tmp_path / 'a.png', lines, 'digits')
  assert [x.get_markevery() for x in kept.pop().axes[0].get_lines()] == [1] * 3
  # Nine bands would hide each other.
  lines = {str(i): _setting([0.1]) for i in range(9)}
  curves.draw(tmp_path / 'a.png', lines, 'digits')
  [axes] = kept[1].axes
  assert (len(axes.get_lines()), len(axes.collections)) == (9, 0)


def test_points_of_several_lines_at_one_place_are_apart(figures):
  settings = [
    _setting([0.1, 0.2], **{'method.name': name, 'method.rho': rho})
    for name in ('sam', 'asam')
    for rho in (0.1, 0.2)
  ]
  [axes] = figures(settings)['score_vs_rho'].values()
  sam, asam = (
    line.get_transform().transform(line.get_xydata())
    for line in axes.get_lines()
    if line.get_linestyle() != 'None'
  )
  assert (np.abs(sam - asam)[:, 0] > 3).all()
  np.testing.assert_allclose(sam[:, 1], asam[:, 1])
  assert axes.get_xlabel() == 'rho, radius of the perturbation'
  # One that shares no place is where it belongs.
  settings.append(_setting([0.1], **{'method.name': 'gsam', 'method.rho': 0.4}))
  [axes] = figures(settings)['score_vs_rho'].values()
  gsam = axes.containers[-1].lines[0]
  np.testing.assert_allclose(
    gsam.get_transform().transform(gsam.get_xydata()),
    axes.transData.transform([(0.4, 10)]),
  )
