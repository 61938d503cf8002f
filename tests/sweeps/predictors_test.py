"""What is compared with what, and the tables of it; nothing is measured."""

import csv

import pytest

from sam_jax.drawing import palette
from sam_jax.sweeps import agreement, gaps, predictors, results, scatter
from tests.drawing import capture
from tests.sweeps import made_up

LOSS = {'metric': 'loss', 'label': 'loss', 'unit': 'nats', 'scale': 1.0}


def _rows(path):
  with path.open() as stream:
    return list(csv.DictReader(stream))


def _comparison(directory, ms=(1, 4), replicas=('seed',)):
  """Gaps that grow with the error; the 4-sharpness is their reverse."""
  found, _ = gaps.problems(results.collect(directory).runs, replicas)
  measured = {}
  for problem in found:
    for run in problem.runs:
      error = run.result['final_score']
      metric = run.score.metric
      measured[str(run.workdir)] = gaps.Measured(
        {m: error if m == 1 else 1 - error for m in ms},
        {metric: 0.01, 'loss': 0.1},
        {metric: error, 'loss': 0.1 + error**2},
      )
  return gaps.Comparison(found, measured, [])


def test_each_problem_has_its_gaps_and_its_hyper_parameters(tmp_path):
  """Two splits with SGD and three rhos each, two seeds of each."""
  comparison = _comparison(made_up.sweep(tmp_path / 'runs'))
  predictions = predictors.predict(comparison, ('seed',))
  printed = list(predictors.write(tmp_path, comparison, predictions))
  rows = _rows(tmp_path / 'predictors.csv')
  assert [(r['data.split'], r['gap'], r['sharpness']) for r in rows] == [
    (split, f'{split} - train {gap}', f'm={m}')
    for split in ('test', 'validation')
    for gap in ('error, %', 'loss')
    for m in (1, 4)
  ]
  assert {r['runs'] for r in rows} == {'8'}
  assert [float(r["Kendall's tau"]) for r in rows] == [1, -1] * 4
  assert [float(r['CMI']) for r in rows[::2]] == [1] * 4
  # By hand: what agreement says of these runs.
  [problem] = [p for p in comparison.problems if p.settings[0].split == 'test']
  found = comparison.of(problem.runs)
  expected = agreement.information(
    [each.sharpness[4] for each in found],
    [each.gap('loss') for each in found],
    {
      name: [str(run.fields.get(name)) for run in problem.runs]
      for name in ('method.name', 'method.rho', 'm')
    },
  )
  last = rows[3]  # of the test split
  assert last['CMI'] == f'{expected.value:.3f}'
  assert last['CMI by chance'] == f'{expected.chance:.3f}'
  settings = _rows(tmp_path / 'gaps.csv')
  assert len(settings) == 8 and {row['n'] for row in settings} == {'2'}
  [best] = [
    row
    for row in settings
    if (row['data.split'], row['method.rho']) == ('test', '0.2')
  ]
  # Errors of 0.12 and 0.13 there, and 0.01 on the training examples.
  assert best['test - train error, %'].startswith('11.50 ± ')
  assert best['sharpness, m=1'].startswith('0.125 ± ')
  of_runs = _rows(tmp_path / 'gaps_of_runs.csv')
  assert [row['run'] for row in of_runs[:2]] == [
    run.workdir.name for run in comparison.problems[0].runs[:2]
  ]
  assert len(of_runs) == 16
  assert '11.50 ± ' in printed[0] and "Kendall's tau" in printed[2]


def test_a_task_that_is_scored_by_its_loss_has_one_gap(tmp_path):
  for i, loss in enumerate((1.0, 2.0, 2.5)):
    name = f'run-{i}'
    made_up.write_run(
      tmp_path / 'runs', name, [loss], score=LOSS, learning_rate=0.1 + i
    )
  comparison = _comparison(tmp_path / 'runs')
  predictions = predictors.predict(comparison, ('seed',))
  assert len(predictions) == 2
  list(predictors.write(tmp_path, comparison, predictions))
  row, _ = _rows(tmp_path / 'predictors.csv')
  assert row['gap'] == 'test - train loss, nats'
  assert 'data.split' not in row


@pytest.mark.parametrize(
  ('seeds', 'reason'),
  [
    ((0,), 'are one run, '),
    ((0, 0), 'are one run, '),  # a seed that is repeated
    ((0, 1), 'differ in nothing but seed'),
  ],
)
def test_what_cannot_be_compared_is_said(tmp_path, seeds, reason):
  runs = made_up.sweep(tmp_path / 'runs')
  for i, seed in enumerate(seeds):
    made_up.write_run(
      runs, f'noisy-{i}', [0.5], seed=seed, **{'data.label_noise': 0.4}
    )
  everything = results.collect(runs).runs
  found, refused = gaps.problems(everything, ('seed',))
  assert len(found) == 2
  assert len(refused) == 1 and reason in refused[0]
  assert 'data.label_noise=0.4' in refused[0]
  alone = [run for run in everything if 'noisy' in run.workdir.name]
  with pytest.raises(ValueError, match=f'nothing to compare: .*{reason}'):
    gaps.problems(alone, ('seed',))


def test_the_picture_has_a_colour_for_each_method(tmp_path, monkeypatch):
  for method in ('sgd', 'sam'):
    for rate in (0.1, 0.2, 0.3):
      made_up.write_run(
        tmp_path / 'runs',
        f'{method}-{rate}',
        [rate if method == 'sam' else rate / 2],
        score=LOSS,
        learning_rate=rate,
        **{'method.name': method},
      )
  comparison = _comparison(tmp_path / 'runs')
  predictions = predictors.predict(comparison, ('seed',))
  kept = capture.figures(monkeypatch)
  scatter.draw(tmp_path / 'a.png', predictions, 0.1)
  [figure] = kept
  assert len(figure.axes) == len(predictions) == 2
  for axes, prediction in zip(figure.axes, predictions, strict=True):
    points = axes.get_lines()
    places = [tuple(point.get_xydata()[0]) for point in points]
    assert places == [*zip(prediction.sharpness, prediction.gap, strict=True)]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert all(left < x < right and low < y < high for x, y in places)
    colours = [point.get_color() for point in points]
    assert colours == [palette.color(name) for name in prediction.methods]
  assert sorted(capture.legend(figure)) == ['sam', 'sgd']
  assert 'm-sharpness (rho = 0.1)' in figure.get_suptitle()


def test_runs_with_the_same_numbers_are_drawn_apart():
  moves = scatter._apart([(1, 2), (3, 4), (1, 2)])
  assert moves[1] == (0, 0)
  assert abs(moves[0][0] - moves[2][0]) > 4


def test_a_number_that_does_not_exist_is_a_dash(tmp_path):
  """All gaps are the same."""
  for rate in (0.1, 0.2, 0.3):
    made_up.write_run(tmp_path / 'runs', f'{rate}', [0.5], learning_rate=rate)
  comparison = _comparison(tmp_path / 'runs')
  predictions = predictors.predict(comparison, ('seed',))
  list(predictors.write(tmp_path, comparison, predictions))
  row = _rows(tmp_path / 'predictors.csv')[0]
  assert [row[k] for k in ("Kendall's tau", 'p', 'CMI', 'CMI by chance')] == [
    *'----'
  ]
