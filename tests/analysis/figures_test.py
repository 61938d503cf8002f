"""Figures of results: what they say, and results that are hard to draw."""

import types

import ml_collections
import numpy as np
import pytest

from sam_jax import tasks
from sam_jax.analysis import (
  figures,
  measure_evaluation,
  measure_sharpness,
  measure_slices,
  planes,
  terms,
)
from sam_jax.drawing import palette
from tests.drawing import capture

_ERROR = tasks.Score('error_rate', 'error', '%', 100.0)
_BITS = tasks.Score('bits_per_byte', 'bits per byte')


def _model(method='sam', score=_ERROR):
  """Returns what the figures read of a model."""
  config = {
    'data': {'name': 'digits', 'label_noise': 0.4},
    'model': {'name': 'cnn'},
    'method': {'name': method},
  }
  task = types.SimpleNamespace(score=score, examples='images', count=len)
  return types.SimpleNamespace(
    config=ml_collections.ConfigDict(config), task=task, examples=range(1500)
  )


_TWO = {'a': [_model('sgd')], 'b': [_model('sam')]}


def test_the_title_says_data_split_and_examples():
  options = terms.Options(split='validation')
  assert figures.title(_TWO, options, '{split} loss') == (
    'digits, cnn, 40 % label noise: validation loss\n1,500 images'
  )


def test_bars_state_rho_m_and_their_error(tmp_path, monkeypatch):
  kept = capture.figures(monkeypatch)
  found = {'mean': 0.1, 'standard_error': 0.02}
  measures = {'one_ascent_step': found, 'random_directions': found}
  results = {
    label: {'m': 25, 'num_groups': 40, 'measures': measures} for label in _TWO
  }
  measure_sharpness.SHARPNESS.draw(
    tmp_path, results, _TWO, terms.Options(rho=0.1)
  )
  [figure] = kept
  title = ' '.join(figure.get_suptitle().split())
  assert 'rise of the training loss within the L2 ball of rho = 0.1' in title
  assert 'm = 25' in title and 'mean over 40 groups of m examples' in title
  assert 'error bars: ± one standard error' in title
  assert [a.get_title() for a in figure.axes] == [
    'one ascent step',
    'random directions',
  ]
  for axes in figure.axes:
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert len(set(colours)) == 2
    assert axes.get_ylim() == figure.axes[0].get_ylim()  # they are comparable
    bars, _ = axes.containers
    assert [text.get_text() for text in axes.texts] == ['0.1', '0.1']


@pytest.mark.parametrize(
  ('score', 'metrics', 'labels', 'height'),
  [
    (_ERROR, ['loss', 'error_rate'], ['test loss', 'test error, %'], 20),
    (
      _BITS,
      ['loss', 'bits_per_byte'],
      ['test loss', 'test bits per byte'],
      0.2,
    ),
    (tasks.Score('loss', 'loss', 'nats'), ['loss'], ['test loss, nats'], 0.2),
  ],
)
def test_an_evaluation_has_the_words_of_the_task(
  tmp_path, monkeypatch, score, metrics, labels, height
):
  kept = capture.figures(monkeypatch)
  results = {'a': {'metrics': {name: {'mean': 0.2} for name in metrics}}}
  subjects = {'a': [_model(score=score)]}
  options = terms.Options(split='test')
  measure_evaluation.EVALUATION.draw(tmp_path, results, subjects, options)
  assert [axes.get_ylabel() for axes in kept[0].axes] == labels
  [bar] = kept[0].axes[-1].patches
  assert bar.get_height() == pytest.approx(height)
  # There is no error bar where nothing is known of the error.
  assert len(kept[0].axes[0].containers) == 1


def test_an_interpolation_marks_both_runs_and_has_the_error(
  tmp_path, monkeypatch
):
  kept = capture.figures(monkeypatch)
  models = [_model('sgd'), _model('sam')]
  result = {
    'coordinates': [-0.5, 0.0, 0.5, 1.0],
    'loss': [2.0, 0.5, 3.0, 0.25],
    'score': [0.9, 0.02, 0.5, 0.0],
  }
  draw = measure_slices.INTERPOLATE.draw
  draw(tmp_path, {'a to b': result}, {'a to b': models}, terms.Options())
  loss, error = kept[0].axes
  assert loss.get_ylabel() == 'training loss'
  assert error.get_ylabel() == 'training error, %'
  assert error.get_yscale() == 'symlog'  # there is a zero
  assert loss.get_title() == 'a to b'
  for axes, heights in ((loss, [0.5, 0.25]), (error, [2.0, 0.0])):
    marks = [line for line in axes.get_lines() if line.get_marker() != 'None']
    places = [tuple(mark.get_xydata()[0]) for mark in marks]
    assert places == [*zip((0, 1), heights, strict=True)]
    colours = [palette.color(name) for name in ('sgd', 'sam')]
    assert [mark.get_color() for mark in marks] == colours
  assert capture.legend(kept[0]) == ['0: sgd', '1: sam']
  # A task that is scored by its loss has nothing else to draw.
  del result['score']
  draw(tmp_path, {'a to b': result}, {'a to b': models}, terms.Options())
  assert len(kept[1].axes) == 1


@pytest.mark.parametrize('margin', [0.0, 0.25, 0.3])
@pytest.mark.parametrize('points', [2, 4, 25])
def test_both_runs_are_measured(margin, points):
  options = terms.Options(margin=margin, points=points)
  found = measure_slices._fractions(options)
  assert {0.0, 1.0} <= {*found}
  assert found[0] == pytest.approx(-margin)
  assert found[-1] == pytest.approx(1 + margin)
  assert len(found) <= points + 2 and (np.diff(found) > 1e-6).all()


def test_losses_along_a_line_are_told_apart(tmp_path, monkeypatch):
  kept = capture.figures(monkeypatch)
  result = {'coordinates': [-1, 0, 1], 'loss': [2.0, None, 3.0]}
  options = terms.Options(dimensions=1)
  measure_slices.LANDSCAPE.draw(
    tmp_path, {'a': result, 'b': result}, _TWO, options
  )
  assert capture.legend(kept[0]) == ['a', 'b']
  one, two, _ = kept[0].axes[0].get_lines()
  assert one.get_color() == palette.color('sgd')
  assert two.get_color() == palette.color('sam')
  assert one.get_markevery() != two.get_markevery()
  assert 'training loss along one random direction' in kept[0].get_suptitle()


def test_spectra_say_whose_they_are(tmp_path, monkeypatch):
  kept = capture.figures(monkeypatch)
  point = {'nodes': [[0.0]], 'weights': [[1.0]], 'eigenvalues': [0.0]}
  ends = point | {'smallest_eigenvalues': [-1.0, 0.0]}
  point['smallest_eigenvalues'] = []
  figures.spectra(tmp_path, {'a': point, 'b': ends}, _TWO, 'a title')
  assert [axes.get_title() for axes in kept[0].axes] == [
    'a: largest eigenvalue 0',
    'b: largest eigenvalue 0',
  ]
  assert kept[0].get_suptitle() == 'a title'


# --- Planes ------------------------------------------------------------------


def _labels(axes):
  """Returns the labels of the contours of a plane."""
  return sorted(float(text.get_text()) for text in axes.texts)


def test_contours_have_labels(tmp_path, monkeypatch):
  kept = capture.figures(monkeypatch)
  along = np.linspace(-1, 1, 9)
  steep = np.exp(3 * np.add.outer(along**2, along**2))  # 1 to 403
  shallow = 1 + 0.2 * steep / steep.max()
  runs = {
    'steep': {'coordinates': along, 'loss': steep},
    'shallow': {'coordinates': along, 'loss': shallow},
  }
  planes.draw(tmp_path, runs, 'training loss', 'direction')
  one, two, bar = kept[0].axes
  for axes, loss in ((one, steep), (two, shallow)):
    labels = _labels(axes)
    assert labels and loss.min() < labels[0] <= labels[-1] < loss.max()
  assert len(set(_labels(one))) > 3
  assert bar.get_ylabel() == 'loss (+: the run)'
  assert (one.get_xlabel(), one.get_ylabel()) == ('direction 1', 'direction 2')
  assert kept[0].get_suptitle() == 'training loss'


def test_a_flat_loss_can_be_drawn(tmp_path, monkeypatch):
  kept = capture.figures(monkeypatch)
  flat = {'coordinates': [-1, 1], 'loss': [[0.5, 0.5], [0.5, 0.5]]}
  planes.draw(tmp_path, {'a': flat, 'b': flat}, '', 'direction')
  assert not _labels(kept[0].axes[0])


def test_many_planes_take_several_rows(tmp_path, monkeypatch):
  kept = capture.figures(monkeypatch)
  flat = {'coordinates': [-1, 1], 'loss': [[0.5, 1.5], [0.5, 2.5]]}
  for count in (4, 5):
    runs = {str(i): flat for i in range(count)}
    planes.draw(tmp_path, runs, '', 'direction')
  one, two = kept
  assert one.get_figwidth() == two.get_figwidth()
  assert two.get_figheight() > 1.5 * one.get_figheight()
  assert len(two.axes) == 6  # with the bar of the colours


def test_what_is_not_a_number_is_left_white(tmp_path, monkeypatch):
  """None in the results' JSON, as a loss that overflows may be."""
  kept = capture.figures(monkeypatch)
  along = np.linspace(-1, 1, 5)
  losses = np.add.outer(along**2, along**2) + 1
  holed = losses.tolist()
  holed[0][0] = holed[0][1] = holed[1][0] = holed[1][1] = None
  none = [[None] * 5] * 5
  areas = []
  for loss in (losses, holed, none):
    run = {'coordinates': along, 'loss': loss}
    planes.draw(tmp_path, {'a': run}, '', 'direction')
    filled = kept[-1].axes[0].collections[0]
    areas.append(sum(map(_area, filled.get_paths())))
  assert areas[0] == pytest.approx(4)  # the whole plane
  assert areas[1] == pytest.approx(3.125)  # the cells at the corner are not
  assert areas[2] == 0


def _area(path):
  """Returns the area within a path, holes left out."""
  total = 0.0
  for polygon in path.to_polygons():
    x, y = polygon.T
    total += (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
  return abs(total)
