"""What is chosen on the validation split, and what a method has to beat."""

import pytest

from sam_jax.sweeps import choice as choice_lib, results, settings
from tests.sweeps import made_up


def test_rho_is_chosen_on_the_validation_split(tmp_path):
  runs = results.collect(made_up.sweep(tmp_path)).runs
  choices = choice_lib.choose(settings.group(runs))
  by_method = {c.test.fields['method.name']: c for c in choices}
  assert set(by_method) == {'sgd', 'sam'}
  choice = by_method['sam']
  assert (
    choice.test.fields['method.rho'] == choice.best.fields['method.rho'] == 0.2
  )
  assert (choice.test.split, choice.best.split) == ('test', 'validation')
  assert len(choice.tried) == 3
  assert not by_method['sgd'].is_needed
  error = choice.test.estimate('final_score')
  assert error.mean == pytest.approx(0.125)
  assert by_method['sgd'].test.split == 'test'


def test_rho_is_chosen_where_all_start_from_one_run(tmp_path):
  """One of them has the rho of that run; it is a rival like the others."""
  made_up.write_run(tmp_path, 'first', [0.3], **{'method.rho': 0.1})
  for split in ('validation', 'test'):
    for rho, error in ((0.1, 0.1), (0.2, 0.2), (0.5, 0.3)):
      fields = {'method.rho': rho, 'data.split': split}
      source = {'labels_from': str(tmp_path / 'first')}
      made_up.write_run(tmp_path, f'{split}-{rho}', [error], **fields, **source)
  choices = choice_lib.choose(settings.group(results.collect(tmp_path).runs))
  [choice] = [c for c in choices if c.is_needed]
  assert choice.test.fields['method.rho'] == 0.1
  assert len(choice.tried) == 3


def test_alpha_is_chosen_where_each_starts_from_one_of_its_own(tmp_path):
  """As in table 4: the first run has the same alpha, and split."""
  mixup = {'method.name': 'sgd', 'mixing.name': 'mixup'}
  for split in ('validation', 'test'):
    for alpha, error in ((1.0, 0.3), (8.0, 0.1), (16.0, 0.2)):
      fields = mixup | {'mixing.alpha': alpha, 'data.split': split}
      made_up.write_run(
        tmp_path, f'first-{split}-{alpha}', [0.5 - error], **fields
      )
      source = {'labels_from': str(tmp_path / f'first-{split}-{alpha}')}
      made_up.write_run(
        tmp_path, f'second-{split}-{alpha}', [error], **fields, **source
      )
  choices = choice_lib.choose(settings.group(results.collect(tmp_path).runs))
  chosen = {c.test.shown['labels_from']: c.test.fields for c in choices}
  assert chosen.keys() == {'', 'same'}
  assert chosen['']['mixing.alpha'] == 1
  assert chosen['same']['mixing.alpha'] == 8


@pytest.mark.parametrize(('tested', 'listed'), [(8.0, True), (1.0, False)])
def test_a_value_that_is_not_the_best_is_not_called_so(
  tmp_path, tested, listed
):
  """Of two that are as good, either is the best."""
  mixup = {'method.name': 'sgd', 'mixing.name': 'mixup'}
  for alpha, error in ((1.0, 0.3), (4.0, 0.2), (8.0, 0.2)):
    fields = mixup | {'mixing.alpha': alpha, 'data.split': 'validation'}
    made_up.write_run(tmp_path, f'validation-{alpha}', [error], **fields)
  made_up.write_run(tmp_path, 'test', [0.3], **mixup | {'mixing.alpha': tested})
  [choice] = choice_lib.choose(settings.group(results.collect(tmp_path).runs))
  if listed:
    assert choice.test.fields['mixing.alpha'] == 8
    assert choice.best.fields['mixing.alpha'] == 8
  else:
    assert choice.test is None
    assert choice.best.fields['mixing.alpha'] == 4


def test_a_value_of_which_runs_failed_is_not_the_best(tmp_path):
  found = {0.1: (0.3, 0.4, 0.3), 0.2: (0.4,) * 3, 0.3: (0.2,) * 2, 0.5: (0.1,)}
  for rho, errors in found.items():
    for seed, error in enumerate(errors):
      fields = {'method.rho': rho, 'data.split': 'validation', 'seed': seed}
      made_up.write_run(tmp_path, f'{rho}-{seed}', [error], **fields)
  [choice] = choice_lib.choose(settings.group(results.collect(tmp_path).runs))
  # One that is missing does not decide.
  assert choice.best.fields['method.rho'] == 0.3
  assert [cell.fields['method.rho'] for cell in choice.left_out] == [0.5]
  assert choice.test is None


def test_the_rival_is_the_better_sgd_within_the_same_gradients(tmp_path):
  """Of the same data: no more epochs than the cost of SAM allows."""
  lengths = {1: 0.3, 2: 0.2, 3: 0.1}
  for epochs, error in lengths.items():
    for noise in (0.0, 0.4):
      fields = {'num_epochs': epochs, 'data.label_noise': noise}
      made_up.write_run(
        tmp_path,
        f'sgd-{epochs}-{noise}',
        [0.9] * (epochs - 1) + [error + noise],
        **{'method.name': 'sgd'},
        **fields,
      )
  # Two gradients a step: as many as SGD's of 2 epochs.
  fields = {'num_epochs': 1, 'data.label_noise': 0.4}
  made_up.write_run(tmp_path, 'sam', [0.9, 0.15], **fields)
  made_up.write_run(
    tmp_path, 'mixup', [0.1], **fields | {'mixing.name': 'mixup'}
  )
  cells = settings.group(results.collect(tmp_path).runs)
  by_name = {cell.runs[0].workdir.name: cell for cell in cells}
  rival = choice_lib.sgd_at_equal_compute(by_name['sam'], cells)
  assert rival is by_name['sgd-2-0.4']
  for name in ('sgd-1-0.0', 'mixup'):
    assert choice_lib.sgd_at_equal_compute(by_name[name], cells) is None
