"""What is remembered and written of a run, without making a step."""

import dataclasses
import json

import numpy as np
import pytest

from sam_jax import tasks
from sam_jax.runs import build, checkpoints, journal, metrics_log, workdir
from sam_jax.training import diagnostics
from tests import tiny


@pytest.fixture(scope='module')
def experiment():
  return build.build(tiny.config())


@pytest.fixture
def clock(monkeypatch):
  """A clock that a test moves."""
  now = [0.0]
  monkeypatch.setattr(journal.time, 'monotonic', lambda: now[0])
  return now


@pytest.fixture
def open_journal(experiment, tmp_path):
  """Opens a journal of the directory, with the fields of a config."""
  opened = []
  workdir.write_config(tmp_path, tiny.config())

  def open_(state=None, **fields):
    state = checkpoints.JournalState() if state is None else state
    config = tiny.config(**fields)
    opened.append(journal.Journal(config, experiment, tmp_path, state))
    return opened[-1]

  yield open_
  for one in opened:
    one.close()


def _step(loss, share=1.0, **perturbed):
  """Returns the metrics of a step, as the loop hands them over."""
  step = {'loss': loss, 'error_rate': 0.5}
  return journal.StepValues.of(
    diagnostics.Metrics(
      {name: np.float32(x) for name, x in step.items()},
      {name: np.float32(x) for name, x in perturbed.items()},
      np.float32(share),
    )
  )


def _lines(directory, key):
  return [line for line in metrics_log.read(directory) if key in line]


# --- Means -------------------------------------------------------------------


def test_an_epoch_has_the_means_over_its_steps(open_journal, tmp_path):
  one = open_journal()
  for step in range(1, 11):
    one.add_step(step, _step(float(step), sharpness=2.0 * step))
    if step % 5 == 0:
      one.add_epoch(step, {})
  lines = _lines(tmp_path, 'train/loss')
  assert [(x['step'], x['epoch']) for x in lines] == [(5, 1.0), (10, 2.0)]
  assert [x['train/loss'] for x in lines] == [3.0, 8.0]
  assert [x['train/sharpness'] for x in lines] == [6.0, 16.0]


def test_means_of_perturbations_are_over_perturbed_steps(
  open_journal, tmp_path
):
  """Weighted by the share of a step's groups that were perturbed."""
  one = open_journal()
  for step, share in enumerate((1.0, 0.0, 0.25, 0.0), 1):
    one.add_step(step, _step(1.0, share, sharpness=float(step)))
  one.add_epoch(4, {})
  steps = _lines(tmp_path, 'step/loss')
  assert ['step/sharpness' in x for x in steps] == [True, False, True, False]
  (line,) = _lines(tmp_path, 'train/loss')
  assert line['train/sharpness'] == (1.0 + 0.25 * 3.0) / 1.25
  assert line['train/loss'] == 1.0


def test_an_epoch_without_a_perturbation_logs_none(open_journal, tmp_path):
  one = open_journal()
  one.add_step(1, _step(1.0, 0.0, sharpness=0.0))
  one.add_epoch(1, {})
  (line,) = _lines(tmp_path, 'train/loss')
  assert 'train/sharpness' not in line


def test_what_is_remembered_resumes_the_means(open_journal, tmp_path):
  one = open_journal()
  one.add_step(1, _step(1.0, sharpness=4.0))
  one.sync(1)
  content = json.loads(json.dumps(vars(one.state)))
  other = open_journal(checkpoints.JournalState(**content))
  other.add_step(2, _step(2.0, 0.5, sharpness=1.0))
  other.add_epoch(2, {})
  (line,) = _lines(tmp_path, 'train/loss')
  assert (line['train/loss'], line['train/sharpness']) == (1.5, 3.0)


def test_steps_are_logged_as_often_as_asked(open_journal, tmp_path):
  for every, logged in ((0, []), (3, [3, 6])):
    one = open_journal(**{'log.every_steps': every})
    for step in range(1, 8):
      one.add_step(step, _step(1.0))
    assert [x['step'] for x in _lines(tmp_path, 'step/loss')] == logged


# --- The best ----------------------------------------------------------------


def test_the_first_lowest_score_is_the_best(open_journal):
  one = open_journal()
  scores = [0.5, 0.2, 0.4, 0.2, 0.3]
  found = [
    one.add_epoch(5 * i, {'test': {'loss': 9.0, 'error_rate': score}})
    for i, score in enumerate(scores, 1)
  ]
  assert found == [True, True, False, False, False]
  state = one.state
  assert (state.best_step, state.best_score, state.final_score) == (
    10,
    0.2,
    0.3,
  )


def test_a_score_that_is_no_number_is_better_than_none_alone(open_journal):
  one, scores = open_journal(), [float('nan'), 0.5, float('nan'), 0.6]
  found = [
    one.add_epoch(step, {'test': {'loss': 1.0, 'error_rate': score}})
    for step, score in enumerate(scores, 1)
  ]
  assert found == [True, True, False, False]
  assert one.state.best_step == 2


def test_an_epoch_without_an_evaluation_is_never_the_best(open_journal):
  one = open_journal()
  assert not one.add_epoch(5, {})
  assert one.state.best_step is None


# --- Time and provenance -----------------------------------------------------


def test_time_adds_up_over_starts(open_journal, clock):
  one = open_journal()
  clock[0] = 6.0
  one.sync(3)
  clock[0] = 9.0  # lost by a crash
  other = open_journal(one.state)
  clock[0] = 13.0
  other.add_epoch(10, {'test': {'loss': 1.0, 'error_rate': 0.5}})
  assert other.finish(7)['wall_seconds'] == 10


def test_the_rate_counts_the_steps_of_this_start_only(
  open_journal, clock, tmp_path
):
  one = open_journal(checkpoints.JournalState(step=3))
  for step, now in ((5, 4.0), (10, 9.0)):
    clock[0] = now
    one.add_epoch(step, {})
  rates = [x['examples_per_second'] for x in metrics_log.read(tmp_path)]
  assert rates == [2 * 16 / 4, 5 * 16 / 5]


@pytest.mark.parametrize(
  ('start', 'end', 'rate'), [(0, 5, 4 * 16 / 4), (9, 10, 1 * 16 / 100)]
)
def test_the_rate_leaves_out_the_compilation(
  open_journal, clock, tmp_path, start, end, rate
):
  """Of the first step of a start, unless its epoch has no other one."""
  one = open_journal(checkpoints.JournalState(step=start))
  for step in range(start + 1, end + 1):
    clock[0] += 100.0 if step == start + 1 else 1.0
    one.add_step(step, _step(1.0))
  one.add_epoch(end, {})
  [line] = _lines(tmp_path, 'examples_per_second')
  assert line['examples_per_second'] == rate


def test_a_run_of_one_step_has_a_rate(
  monkeypatch, experiment, open_journal, clock, tmp_path
):
  """The step ends the run, within its epoch: no other step can be counted."""
  one = open_journal()
  short = dataclasses.replace(experiment, num_steps=1)
  monkeypatch.setattr(one, '_experiment', short)
  clock[0] = 4.0
  one.add_step(1, _step(1.0))
  one.add_epoch(1, {})
  [line] = _lines(tmp_path, 'examples_per_second')
  assert line['examples_per_second'] == 16 / 4


def test_a_result_says_with_what_it_was_started_each_time(
  monkeypatch, open_journal
):
  """By the end, a checkout may be another one than that which runs."""
  state = checkpoints.JournalState()
  for commit in 'aab':
    monkeypatch.setattr(
      journal.provenance, 'describe', lambda c=commit: {'git_commit': c}
    )
    one = open_journal(state)
  monkeypatch.setattr(journal.provenance, 'describe', lambda: pytest.fail())
  one.add_epoch(10, {'test': {'loss': 1.0, 'error_rate': 0.5}})
  result = one.finish(7)
  assert result['git_commit'] == 'b'
  assert result['starts'] == [{'git_commit': 'a'}, {'git_commit': 'b'}]


# --- What people read --------------------------------------------------------


def test_an_epoch_is_one_line_in_the_words_of_the_task(open_journal, capsys):
  one = open_journal()
  one.add_step(1, _step(1.25, sharpness=0.5))
  one.add_epoch(5, {'test': {'loss': 2.0, 'error_rate': 0.0321}})
  assert capsys.readouterr().out == (
    'epoch 1: train/loss 1.2500, train/sharpness 0.5000, train/error_rate '
    '50.00 %, test/loss 2.0000, test/error_rate 3.21 %\n'
  )


def test_a_result_rebuilds_the_score_and_reads_in_one_line(
  open_journal, tmp_path, capsys
):
  one = open_journal()
  one.add_epoch(5, {'test': {'loss': 2.0, 'error_rate': 0.0321}})
  one.add_epoch(10, {'test': {'loss': 2.0, 'error_rate': 0.05}})
  one.finish(7)
  result = json.loads((tmp_path / 'result.json').read_text())
  score = tasks.Score(**result['score'])
  assert score == tasks.ImageClassification.score
  assert (
    'finished: test error 5.00 % at the end, 3.21 % at best (step 5), 10 steps '
    in capsys.readouterr().out
  )
  assert result['parameters'] == 7
  assert result['gradient_evaluations'] == 2 * 10  # two passes per step


def test_what_a_run_has_been_told_is_not_told_again(open_journal, capsys):
  """Neither later in the run nor when it is resumed."""
  cosines = (0.95, 0.5, 0.4)
  one = open_journal()
  for cosine in cosines:
    one.add_step(1, _rounded(cosine))
  content = json.loads(json.dumps(vars(one.state)))
  open_journal(checkpoints.JournalState(**content)).add_step(2, _rounded(0.3))
  printed = capsys.readouterr().out
  assert printed.count('rounding changes the perturbation') == 1
  assert 'one 1.60 times as long, at a cosine of 0.50; use comp' in printed


def _rounded(cosine):
  return _step(
    1.0,
    perturbation_norm=0.1,
    effective_perturbation_ratio=1.6,
    effective_perturbation_cosine=cosine,
  )
