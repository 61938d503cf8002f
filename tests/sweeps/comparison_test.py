"""Which runs a comparison of methods takes, and what it chooses."""

import pytest

from sam_jax import methods
from sam_jax.runs import factories
from sam_jax.sweeps import cells as cells_lib, comparison, failures
from tests import tiny
from tests.sweeps import made_up

# An epoch of the tiny config has 5 steps on the test split.


def _create(directory, listed, given=None, budget=30, factors=(1.0, 2.0), **of):
  """Returns a comparison on a tiny config."""
  return comparison.create(
    str(tiny.config_file(directory, **of)),
    given or {},
    listed,
    budget=budget,
    rho_factors=factors,
    tuning_seeds=2,
    seeds=3,
  )


def _write(directory, cells, scores):
  """Writes finished runs, with these scores at their ends."""
  for cell, score in zip(cells, scores, strict=True):
    fields = {k: v for k, v in cell.items() if k != 'config'}
    values = [0.9] * (cell['num_steps'] // 5 - 1) + [score]
    made_up.write_run(directory, cells_lib.cell_name(cell), values, **fields)


def test_every_run_takes_the_same_number_of_gradients(tmp_path):
  made = _create(tmp_path, 'sgd,sam,looksam(every=2|4),sam(ascent_steps=2)')
  steps = {
    label: {candidate.num_steps for candidate in candidates}
    for label, candidates in made.candidates.items()
  }
  assert steps == {
    'sgd': {30},
    'sam': {15},
    'looksam': {20, 24},  # 1.5 and 1.25 in a step
    'sam(ascent_steps=2)': {10},
  }
  tuning = made.tuning_cells()
  # SGD has nothing to choose. Two values of rho, two seeds.
  assert len(tuning) == 2 * (2 + 4 + 2)
  assert {cell['data.split'] for cell in tuning} == {'validation'}
  assert {cell['seed'] for cell in tuning} == {0, 1}
  for cell in tuning:
    method = factories.create_method(cells_lib.config(cell, tmp_path))
    assert cell['num_steps'] * method.gradient_evaluations == 30
  lines = list(made.lines())
  assert lines[0] == '4 methods, each run for 30 gradient evaluations'
  default = methods.defaults('looksam')['rho']
  assert lines[3] == (
    '  looksam: 20 or 24 steps; chooses every of 2, 4 and rho of '
    f'{default}, {2 * default}'
  )
  assert lines[-2:] == [
    'to choose on the validation split: 16 runs, at most 480 gradient '
    'evaluations',
    'on the test split: 12 runs, at most 360 gradient evaluations',
  ]


def test_the_section_of_the_configs_own_method_counts_for_nothing(tmp_path):
  own = {'method.name': 'asam', 'method.rho': 0.7, 'method.eta': 0.3}
  made = _create(tmp_path, 'sgd,sam(p=1),asam(rho=0.2)', **own)
  kept = {}
  for label, [candidate, *_] in made.candidates.items():
    [cell, *_] = made.test_cells(candidate)
    assert cell['data.split'] == 'test'
    section = cells_lib.config(cell, tmp_path).method
    kept[label] = {k: v for k, v in section.items() if v is not None}
  assert kept == {
    'sgd': {'name': 'sgd'},
    'sam(p=1)': {'name': 'sam', 'p': 1, 'rho': methods.defaults('sam')['rho']},
    'asam(rho=0.2)': {'name': 'asam', 'rho': 0.2},
  }


@pytest.mark.parametrize(
  ('given', 'budget'),
  [({}, 20), ({'num_epochs': 6}, 60), ({'num_steps': 7}, 14)],
)
def test_without_a_budget_it_is_that_of_sam(tmp_path, given, budget):
  made = _create(tmp_path, 'sam,sgd', given, None)
  assert made.budget == budget
  [candidate] = made.candidates['sgd']
  [cell, *_] = made.test_cells(candidate)
  assert cell['num_steps'] == budget and 'num_epochs' not in cell


@pytest.mark.parametrize(
  ('listed', 'given', 'message'),
  [
    ('sam', {'method.rho': 0.1}, 'config.method.rho is .*give it in --methods'),
    ('sam', {'seed': 1}, 'config.seed is not allowed: give --seeds'),
    ('sam', {'data.split': 'test'}, 'tuned on validation'),
    ('sam', {'num_steps': 9}, '--gradients is the length'),
    ('sam', {'data.nam': 'digits'}, 'data.nam'),
    ('sam,sam(p=0.5)', {}, '0.5'),
    ('sam(rho=a|0.1)', {}, "rho is 'a'; it must be a number"),
    ('sam(rho=0.1|-1)', {}, '-1'),
    ('sgd,sam', {'data.train_size': 256}, '15 steps of sam, .* has 16; .* 32'),
    ('sgd,sma', {}, "unknown method 'sma'"),
  ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, listed, given, message):
  with pytest.raises(ValueError, match=message) as error:
    _create(tmp_path, listed, given, 31)
  assert '\n' not in str(error.value)


def test_the_validation_split_alone_chooses(tmp_path):
  made = _create(tmp_path, 'sgd,sam(rho=0.1|0.2|0.3|0.4)')
  candidates = made.candidates['sam']
  scores = ([0.3, 0.5], [0.2, 0.4], [0.4, 0.2])
  for candidate, pair in zip(candidates, scores, strict=False):
    _write(tmp_path, made.validation_cells(candidate), pair)
  # On the test split another value is far better: nobody looks.
  for candidate, score in zip(candidates, (0.0, 0.9, 0.9, 0), strict=True):
    _write(tmp_path, made.test_cells(candidate), [score] * 3)
  # One run of the last value is good, and the other one has failed.
  good, bad = made.validation_cells(candidates[3])
  _write(tmp_path, [good], [0.0])
  assert not comparison.is_settled(made.tuning_cells(), tmp_path)
  failures.write(bad, tmp_path, 'loss not finite')
  assert comparison.is_settled(made.tuning_cells(), tmp_path)
  tried = made.choose(tmp_path)
  assert tried['sgd'].settings == ()
  # Of equal means, the first.
  assert tried['sam'].best is candidates[1]
  means = [
    setting and setting.estimate('final_score').mean
    for _, setting in tried['sam'].settings
  ]
  assert means == [pytest.approx(0.4), *[pytest.approx(0.3)] * 2, None]
  cells = made.chosen_cells(tried)
  assert [(c['method.name'], c['seed']) for c in cells] == [
    (name, seed) for seed in range(3) for name in ('sgd', 'sam')
  ]
  assert {c.get('method.rho') for c in cells} == {None, 0.2}


def test_a_run_of_another_config_settles_nothing(tmp_path):
  made = _create(tmp_path, 'sam')
  cells = made.tuning_cells()
  _write(tmp_path, cells, [0.1] * 4)
  assert comparison.is_settled(cells, tmp_path)
  tiny.config_file(tmp_path, learning_rate=0.7)
  assert not comparison.is_settled(cells, tmp_path)


def test_a_method_of_which_every_value_fails_is_not_tested(tmp_path):
  made = _create(tmp_path, 'sgd,sam')
  for cell in made.tuning_cells():
    failures.write(cell, tmp_path, 'loss not finite')
  tried = made.choose(tmp_path)
  assert tried['sam'].best is None
  names = {c['method.name'] for c in made.chosen_cells(tried)}
  assert names == {'sgd'}
