"""Pictures of a sweep: what is in them, before they become pixels."""

import pathlib

import numpy as np
import pytest
from matplotlib import pyplot as plt

from sam_jax.sweeps import pictures, results, settings as settings_lib
from tests.sweeps import made_up


def _setting(errors, *, cost=10.0, split='test', score=made_up.ERROR, **fields):
  """Replicas with these final scores."""
  runs = tuple(
    results.FinishedRun(
      pathlib.Path(),
      {},
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
  kept = {}

  def save(figure, path, styles):
    kept[path.stem] = ({a.get_title(): a for a in figure.axes}, styles)

  def curve(setting, name):
    assert name == f'{setting.split}/error_rate'
    mean = setting.estimate('final_score').mean
    return np.array([1, 2]), np.array([0.9, mean]), np.array([0.0, 0.1])

  monkeypatch.setattr(pictures, '_save', save)
  monkeypatch.setattr(settings_lib, 'curve', curve)

  def draw(settings):
    paths = pictures.draw(tmp_path, settings)
    assert [path.stem for path in paths] == list(kept)
    return kept

  yield draw
  plt.close('all')


def _lines(axes):
  """The error bars of a panel by label: places, heights, half widths."""
  found = {}
  for bar in axes.containers:
    line, _, [bars] = bar.lines
    half = [np.ptp(s[:, 1]) / 2 for s in bars.get_segments()]
    found[bar.get_label()] = (*map(list, line.get_data()), half)
  return found


def test_a_problem_is_a_panel_and_a_method_a_line(figures):
  panels, _ = figures(_settings())['score_vs_rho']
  assert list(panels) == ['label_noise=0.0', 'label_noise=0.4']
  lines = _lines(panels['label_noise=0.4'])
  assert list(lines) == ['method=sam, m=1', 'method=sam, m=4']
  places, heights, half = lines['method=sam, m=4']
  assert places == [0.1, 0.2, 0.5]
  np.testing.assert_allclose(heights, [45, 35, 65])
  # Two replicas 2 % apart: 12.706 times the error of the mean, 1 %.
  np.testing.assert_allclose(half, [12.706] * 3, rtol=1e-4)
  panels, _ = figures(_settings())['score_vs_m']
  assert list(_lines(panels['label_noise=0.0'])) == [
    f'method=sam, rho={rho}' for rho in (0.5, 0.1, 0.2)
  ]


def test_of_many_perturbations_the_best_is_compared_with_others(figures):
  made = figures(_settings())
  for name, factor in (('gradients', 1), ('seconds', 3)):
    panels, _ = made[f'score_vs_{name}']
    lines = _lines(panels['label_noise=0.0'])
    assert list(lines) == ['method=sgd', 'method=sam']
    assert lines['method=sgd'][0] == [10 * factor]
    assert lines['method=sam'][0] == [20 * factor]
    np.testing.assert_allclose(lines['method=sam'][1], 12)
  panels, styles = made['curves']
  drawn = {
    line.get_label(): line.get_ydata()
    for line in panels['label_noise=0.4'].get_lines()
  }
  np.testing.assert_allclose(drawn['method=sam'], [90, 32])
  np.testing.assert_allclose(drawn['method=sgd'], [90, 70])
  # One colour for a method in all panels.
  assert styles['method=sam']['color'] != styles['method=sgd']['color']
  assert (
    'best of those shown' in panels['label_noise=0.4'].figure.get_suptitle()
  )


def test_the_best_is_that_of_the_validation_split(figures):
  """Where there is one: the test split is not to choose by."""
  settings = [
    _setting([error], split=split, **{'data.split': split, 'method.rho': rho})
    for split, errors in (('validation', (0.3, 0.2)), ('test', (0.1, 0.4)))
    for rho, error in zip((0.1, 0.2), errors, strict=True)
  ]
  panels, _ = figures(settings)['score_vs_gradients']
  assert _lines(panels['split=test'])['all'][1] == [40]
  assert _lines(panels['split=validation'])['all'][1] == [20]
  assert not panels['split=test'].figure.get_suptitle()


def test_without_a_perturbation_it_is_another_method(figures):
  settings = [
    _setting([0.1 + rho], **{'method.rho': rho}) for rho in (0.0, 0.1, 0.2)
  ]
  made = figures(settings)
  [panel] = made['score_vs_gradients'][0].values()
  assert {k: v[1] for k, v in _lines(panel).items()} == {
    'rho=0': [10],
    'all': [pytest.approx(20)],
  }
  [panel] = made['score_vs_rho'][0].values()
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
  panels, _ = figures(settings)['score_vs_rho']
  assert {title: axes.get_ylabel() for title, axes in panels.items()} == {
    'task=a': 'error, %',
    'task=b': 'loss, nats',
  }
  assert _lines(panels['task=b'])['all'][1] == [0.2, 0.2]
  assert _lines(panels['task=a'])['all'][1] == [10, 10]


def test_curves_of_a_few_settings_are_drawn_by_their_names(
  tmp_path, monkeypatch
):
  drawn = (np.array([1, 2]), np.array([0.9, 0.1]), np.array([0.0, 0.2]))
  monkeypatch.setattr(settings_lib, 'curve', lambda setting, name: drawn)
  kept = []
  monkeypatch.setattr(
    pictures, '_save', lambda figure, path, styles: kept.append(figure)
  )
  lines = {'SGD': _setting([0.1]), 'SAM': _setting([0.1])}
  pictures.draw_curves(tmp_path / 'a.png', lines, 'digits')
  [axes] = kept[0].axes
  assert [line.get_label() for line in axes.get_lines()] == list(lines)
  np.testing.assert_allclose(axes.get_lines()[1].get_ydata(), [90, 10])
  # The band does not reach below 0.
  band = axes.collections[0].get_paths()[0].vertices
  assert (band[:, 1].min(), band[:, 1].max()) == (0, 90)
  # Nine bands would hide each other.
  lines = {str(i): _setting([0.1]) for i in range(9)}
  pictures.draw_curves(tmp_path / 'a.png', lines, 'digits')
  [axes] = kept[1].axes
  assert (len(axes.get_lines()), len(axes.collections)) == (9, 0)
  plt.close('all')
