"""The grid of a search for rho, and what follows from its scores."""

import json

import pytest

from sam_jax import configs, tasks
from sam_jax.drawing import palette
from sam_jax.runs import factories
from sam_jax.sweeps import cells as cells_lib, rho_search
from tests import tiny
from tests.drawing import capture
from tests.sweeps import made_up

_LOSS = {'metric': 'mse', 'label': 'loss', 'unit': 'nats', 'scale': 1.0}
_FALLING = {'method.rho_schedule': 'linear', 'method.rho_min': 0.05}


@pytest.mark.parametrize(
  ('errors', 'lines'),
  [
    # Paired differences to 0.2: 0.1, 0.1 and 0.1 in every seed; 0.05 once.
    (
      {0.0: [0.5, 0.6, 0.7], 0.1: [0.3, 0.3, 0.4], 0.2: [0.2, 0.3, 0.4]}
      | {0.5: [0.3, 0.4, 0.5]},
      ['rho = 0.2; cannot be told apart from it: 0.1'],
    ),
    (
      {0.0: [0.5, 0.6], 0.1: [0.4, 0.5], 0.2: [0.3, 0.4]},
      ['rho = 0.2', 'it is the largest that was tried'],
    ),
    ({0.0: [0.1, 0.2], 0.1: [0.4, 0.5]}, ['no rho of these is better']),
    # Of equal means, the smallest; of one run nobody knows.
    (
      {0.0: [0.5], 0.1: [0.3], 0.2: [0.3], 0.5: [0.4]},
      ['rho = 0.1; cannot be told apart from it: 0, 0.2, 0.5'],
    ),
  ],
)
def test_it_recommends_the_lowest_mean_and_says_what_is_as_good(errors, lines):
  found = rho_search.recommend(errors).splitlines()
  assert len(found) == len(lines)
  for line, expected in zip(found, lines, strict=True):
    assert line.endswith(expected) or expected in line
  # Nothing is said of others.
  assert ('cannot be told apart' in found[0]) == (';' in lines[0])


def test_the_grid_is_run_on_the_validation_split(tmp_path):
  config = str(tiny.config_file(tmp_path, num_epochs=12))
  given = {'data.label_noise': 0.2}
  cells = rho_search.cells(config, ['0.2', '0.1'], 2, given)
  assert [(c['method.rho'], c['seed']) for c in cells] == [
    (rho, seed) for rho in (0.0, 0.1, 0.2) for seed in (0, 1)
  ]
  for cell in cells:
    assert cell['data.split'] == 'validation'
    # A fifth of the length.
    assert (cell['data.label_noise'], cell['num_epochs']) == (0.2, 2)
    assert cells_lib.config(cell, tmp_path).seed == cell['seed']
  whole = rho_search.cells(config, ['0.2'], 1, {'num_epochs': 9})
  assert {cell['num_epochs'] for cell in whole} == {9}


def test_without_a_perturbation_there_is_no_smallest_radius(tmp_path):
  path = str(tiny.config_file(tmp_path, **_FALLING))
  for file, given in ((path, {}), (configs.find('digits'), _FALLING)):
    cells = rho_search.cells(file, ['0.05', '0.1'], 1, given)
    made = [cells_lib.config(cell, tmp_path) for cell in cells]
    assert [c.method.rho_min for c in made] == [None, 0.05, 0.05]
    for config in made:
      factories.create_method(config)  # refuses a radius that is none


def test_the_length_is_a_fifth_of_the_steps_where_steps_count(tmp_path):
  config = str(tiny.config_file(tmp_path, num_steps=50))
  cells = rho_search.cells(config, ['0.2'], 1, {})
  assert {cell['num_steps'] for cell in cells} == {10}
  with pytest.raises(ValueError, match='num_steps is 50, so --set=num_epochs'):
    rho_search.cells(config, ['0.2'], 1, {'num_epochs': 2})


@pytest.mark.parametrize(
  ('rhos', 'given', 'message'),
  [
    (['0.1', 'much'], {}, "'much', which is not a number"),
    (['-0.1'], {}, 'rho is a radius'),
    (['0'], {}, 'give values above 0'),
    (['0.1'], {'method.roh': 1}, 'roh'),
    (['0.1'], {'seed': 3}, 'give --seeds'),
    (['0.1'], {'method.rho': 3}, 'give --rhos'),
    (['0.1'], {'data.split': 'test'}, 'always validation'),
    (['0.1'], {'method.name': 'sgd'}, "'sgd' has no rho"),
    (['0.01', '0.1'], _FALLING, '--rhos has 0.01, which is below .*= 0.05'),
  ],
)
def test_a_bad_grid_is_refused(rhos, given, message):
  with pytest.raises(ValueError, match=message):
    rho_search.cells(configs.find('digits'), rhos, 3, given)


def test_what_was_found_is_shown_in_the_words_of_the_task(
  tmp_path, monkeypatch
):
  cells = rho_search.cells(configs.find('digits'), ['0.1', '0.2'], 2, {})
  for cell in cells:
    path = cells_lib.workdir(cell, tmp_path)
    path.mkdir()
    value = 1 - cell['method.rho'] + cell['seed'] / 4
    result = made_up.RESULT | {'final_score': value, 'score': _LOSS}
    (path / 'result.json').write_text(json.dumps(result))
  found, score = rho_search.read(cells, tmp_path)
  assert found == {0.0: [1, 1.25], 0.1: [0.9, 1.15], 0.2: [0.8, 1.05]}
  assert score == tasks.Score(**_LOSS)
  header, *rows = rho_search.table(found, score).splitlines()
  assert header.split() == ['rho', 'validation', 'loss,', 'nats', 'n']
  # t = 12.706, the error of the mean is 1/8.
  assert rows[2].split() == ['0.2', '0.925', '±', '1.588', '2']
  kept = capture.figures(monkeypatch)
  rho_search.draw(found, score, 'asam', 'digits', tmp_path / 'rho.png')
  [axes] = kept[0].axes
  assert axes.get_ylabel() == 'validation loss, nats'
  assert axes.get_xlabel() == 'rho, radius of the perturbation'
  line = axes.containers[0].lines[0]
  assert list(line.get_ydata()) == pytest.approx([1.025, 0.925])
  assert line.get_color() == palette.color('asam')
  assert capture.legend(kept[0])[-1] == 'asam'
  assert (
    kept[0].get_suptitle().startswith('digits: validation loss against rho')
  )


def test_errors_are_percent(tmp_path):
  score = tasks.Score(**made_up.ERROR)
  rows = rho_search.table({0.0: [0.125]}, score).splitlines()
  assert 'validation error, %' in rows[0]
  assert rows[1].split() == ['0', '12.50', '1']
