"""What is said of the runs of a comparison."""

import csv

import pytest

from sam_jax.drawing import palette
from sam_jax.sweeps import (
  cells as cells_lib,
  comparison,
  comparison_report,
  results,
  settings as settings_lib,
)
from tests import tiny
from tests.drawing import capture
from tests.sweeps import made_up


def _setting(scores, directory='runs'):
  """Returns a setting that has these scores, by seed."""
  runs = [
    results.FinishedRun(
      directory, {'seed': seed}, made_up.RESULT | {'final_score': score}
    )
    for seed, score in scores.items()
  ]
  return settings_lib.Setting({}, tuple(runs), {})


@pytest.mark.parametrize(
  ('scores', 'others', 'mean', 'half_width', 'n', 'said'),
  [
    # Seeds differ by ten times as much as methods: -0.02, -0.03, -0.02 have the
    # standard deviation 0.0057735; t = 4.30265 and sqrt(3) make 0.014342.
    (
      {0: 0.1, 1: 0.2, 2: 0.3},
      {0: 0.12, 1: 0.23, 2: 0.32},
      -7 / 300,
      0.014342,
      3,
      'better',
    ),
    (
      {0: 0.12, 1: 0.23, 2: 0.32},
      {2: 0.3, 1: 0.2, 0: 0.1},
      7 / 300,
      0.014342,
      3,
      'worse',
    ),
    # 0.01 and -0.02: 0.0212132 x 12.7062 / sqrt(2).
    ({0: 0.2, 1: 0.1}, {0: 0.19, 1: 0.12}, -0.005, 0.190593, 2, 'within the'),
    ({0: 0.2, 1: 0.1}, {0: 0.2, 1: 0.1}, 0.0, 0.0, 2, 'within the noise'),
    # A seed that only one of them has tells nothing.
    ({0: 0.2, 3: 0.0}, {0: 0.3, 1: 0.1}, -0.1, None, 1, 'one seed cannot tell'),
  ],
)
def test_differences_are_those_of_equal_seeds(
  scores, others, mean, half_width, n, said
):
  found = comparison_report.difference(_setting(scores), _setting(others))
  assert found.mean == pytest.approx(mean, abs=1e-12)
  assert found.n == n
  if half_width is not None:
    assert found.half_width == pytest.approx(half_width, abs=1e-6)
  assert comparison_report.verdict(found).startswith(said)


def test_without_a_common_seed_there_is_no_difference():
  one, other = _setting({0: 0.2}), _setting({1: 0.2})
  assert comparison_report.difference(one, other) is None


@pytest.mark.parametrize(
  ('name', 'expected'),
  [('sam', 'sam'), ('sgd', 'sgd'), ('asam', 'asam(eta=0)'), ('sam(p=1)',) * 2],
)
def test_the_reference_is_a_label_or_a_name(name, expected):
  labels = ['sgd', 'sam', 'sam(p=1)', 'asam(eta=0)']
  assert comparison_report.find_reference(labels, name) == expected


@pytest.mark.parametrize(
  ('labels', 'message'),
  [
    (['sgd', 'asam'], '--reference=sam: no method .* one of sgd, asam, or'),
    (['sam(p=1)', 'sam(p=2)'], '2 methods .* one of sam\\(p=1\\), sam'),
  ],
)
def test_a_reference_that_is_not_there_is_refused(labels, message):
  with pytest.raises(ValueError, match=message):
    comparison_report.find_reference(labels, 'sam')


def _write(directory, cells, scores):
  """Writes finished runs, two evaluations each."""
  for cell, score in zip(cells, scores, strict=False):
    fields = {k: v for k, v in cell.items() if k != 'config'}
    made = made_up.VERSIONS | {
      'gradient_evaluations': 20,
      'steps': cell['num_steps'],
      'epochs': 2,
    }
    name = cells_lib.cell_name(cell)
    made_up.write_run(directory, name, [0.9, score], versions=made, **fields)


@pytest.fixture
def report(tmp_path):
  """A comparison of which everything is known, and not everything is good."""
  made = comparison.create(
    str(tiny.config_file(tmp_path)),
    {},
    'sgd,sam,asam(eta=0.5),random(rho=0.1|0.2),sam(p=1,rho=0.3)',
    budget=20,
    rho_factors=[0.5, 1, 2],
    tuning_seeds=1,
    seeds=2,
  )
  tuning = {'sam': [0.3, 0.1, 0.1], 'asam(eta=0.5)': [0.5, 0.6, None]}
  for label, scores in tuning.items():
    for candidate, score in zip(made.candidates[label], scores, strict=True):
      if score is not None:
        _write(tmp_path, made.validation_cells(candidate), [score])
  tried = made.choose(tmp_path)
  tests = {'sgd': [0.4, 0.6], 'sam': [0.2, 0.4], 'asam(eta=0.5)': [0.1]}
  for label, scores in tests.items():
    _write(tmp_path, made.test_cells(tried[label].best), scores)
  return comparison_report.Report(made, tried, tmp_path, 'sam')


def test_the_table_has_what_was_chosen_and_what_it_is_worth(report, tmp_path):
  text, *remarks, _ = report.write(tmp_path)
  shown = (tmp_path / 'comparison.md').read_text()
  assert shown.endswith('\n\n' + ''.join(f'- {each}\n' for each in remarks))
  with (tmp_path / 'comparison.csv').open() as stream:
    sgd, sam, asam = csv.DictReader(stream)
  assert (sgd['method'], sgd['chosen'], sgd['of']) == ('sgd', '-', '1')
  assert (sgd['gradients/step'], sgd['steps'], sgd['n']) == ('1', '20', '2')
  # t = 12.706, the error of the mean is 0.1.
  assert sgd['error, %'] == '50.00 ± 127.06'
  # Both seeds differ by 0.2, up to the last bit.
  assert sgd['minus sam'] == '+20.00 ± 0.00'
  assert (sgd['than sam'], sam['than sam']) == ('worse', '')
  assert (sam['chosen'], sam['of'], sam['steps']) == ('rho=0.05', '3', '10')
  assert (asam['method'], asam['chosen']) == ('asam(eta=0.5)', 'rho=0.25')
  assert (asam['error, %'], asam['minus sam']) == ('10.00', '-10.00')
  assert asam['than sam'] == 'one seed cannot tell'
  assert (tmp_path / 'comparison.txt').read_text() == text + '\n'
  with (tmp_path / 'tuning.csv').open() as stream:
    rows = [list(row.values()) for row in csv.DictReader(stream)]
  assert rows == [
    ['sam', 'rho=0.025', '1', '30.00', ''],
    ['sam', 'rho=0.05', '1', '10.00', 'x'],
    ['sam', 'rho=0.1', '1', '10.00', ''],
    ['asam(eta=0.5)', 'rho=0.25', '1', '50.00', 'x'],
    ['asam(eta=0.5)', 'rho=0.5', '1', '60.00', ''],
  ]


def test_what_weakens_the_table_is_said(report):
  lines = list(report.remarks())
  expected = [
    # Nothing is said of SGD.
    'sam: as good on the validation split as the chosen: rho=0.1',
    'left out of the choice, because a run of it failed: asam(eta=0.5), '
    'rho=1.0',
    'asam(eta=0.5): rho = 0.25 is the smallest that was tried;',
    'left out of the choice, because a run of it failed: random, rho=0.1',
    'left out of the choice, because a run of it failed: random, rho=0.2',
    'not tested, because no choice was left: random',
    'not in the table, because all runs failed: sam(p=1, rho=0.3)',
    'warning: 1 of 2 runs of asam(eta=0.5) are finished',
    '± is a 95 % confidence interval of a mean over seeds; "minus sam"',
  ]
  assert len(lines) == len(expected)
  for line, start in zip(lines, expected, strict=True):
    assert line.startswith(start)


def test_the_picture_has_scores_along_the_runs_and_at_their_end(
  report, tmp_path, monkeypatch
):
  kept = capture.figures(monkeypatch)
  *_, path = report.write(tmp_path)
  assert path.endswith('comparison.png')
  upper, lower = kept[0].axes
  assert kept[0].get_suptitle() == (
    'digits, cnn: test error of each method, 20 gradients each\n'
    'mean and 95 % confidence interval over 1 to 2 seeds'
  )
  assert upper.get_xlabel().startswith('gradients, as if spent evenly')
  assert upper.get_ylabel() == 'test error, %'
  assert upper.get_yscale() == lower.get_xscale() == 'log'
  assert len(upper.collections) == 3  # the bands
  asam, sam, sgd = upper.get_lines()  # the best one first
  # Evaluated after half of the gradients, and after all of them.
  assert list(sgd.get_xdata()) == list(asam.get_xdata()) == [10, 20]
  assert list(sam.get_ydata()) == pytest.approx([90, 30])
  names = [text.get_text() for text in lower.get_yticklabels()]
  assert names[0] == 'asam(eta=0.5), rho=0.25: 10.00 %'
  assert names[1].startswith('sam, rho=0.05: 30.00')
  assert names[2] == 'sgd: 50.00 ± 127.06 %'
  # Each name is beside the marker of its curve.
  points = [bar.lines[0] for bar in lower.containers]
  for i, (line, point, name) in enumerate(
    zip((asam, sam, sgd), points, ('asam', 'sam', 'sgd'), strict=True)
  ):
    assert line.get_color() == point.get_color() == palette.color(name)
    assert line.get_marker() == point.get_marker()
    assert [*point.get_ydata()] == [i]
  # The interval ends at 0 and 100 %.
  [bar] = lower.containers[2].lines[2][0].get_segments()
  assert [*bar[:, 0]] == [0, 100]
