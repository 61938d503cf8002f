"""A loss that is not finite: the run skips the step, or gets past its end."""

import jax.numpy as jnp
import pytest

from sam_jax import tasks
from sam_jax.runs import loop, metrics_log, workdir as workdir_lib
from tests import tiny

_SKIP = {'on_nonfinite': 'skip', 'checkpoint.every_steps': 1}


@pytest.fixture
def broken_by(monkeypatch):
  """Makes the loss NaN for batches that begin with one of these classes."""
  tiny.use_devices(monkeypatch, 1)
  original = tasks.ImageClassification.example_losses

  def break_(classes):
    def example_losses(self, outputs, batch):
      is_broken = jnp.isin(batch['label'][0], jnp.array(classes))
      return jnp.where(is_broken, jnp.nan, original(self, outputs, batch))

    monkeypatch.setattr(
      tasks.ImageClassification, 'example_losses', example_losses
    )

  return break_


def _train(directory, **fields):
  return tiny.train(directory, **tiny.PLAIN, **fields)


def test_skipped_steps_are_counted_logged_and_resumed(
  monkeypatch, broken_by, tmp_path, capsys
):
  broken_by((0, 4, 7))
  tiny.share_programs(monkeypatch, {})
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  result = _train(whole, **_SKIP)
  lines = [x for x in capsys.readouterr().out.splitlines() if 'skipped' in x]
  assert 2 <= result['skipped_steps'] == len(lines) < 10
  assert ': loss, perturbed_loss' in lines[0] and 'at most 10' in lines[0]
  skipped = [int(line.split(':')[0].removeprefix('step ')) for line in lines]
  rows = metrics_log.read(whole)
  counts = [r['train/skipped_steps'] for r in rows if 'train/loss' in r]
  assert counts == [sum(s <= last for s in skipped) for last in (5, 10)]
  logged = {r['step'] for r in rows if 'step/loss' in r}
  assert logged == {*range(1, 11)} - {*skipped}
  # Stopped after a skipped step.
  tiny.crash_at(monkeypatch, parts, skipped[0] + 1, **tiny.PLAIN, **_SKIP)
  _train(parts, **_SKIP)
  tiny.assert_same_run(whole, parts)


def test_too_many_in_a_row_end_the_run_also_across_starts(
  monkeypatch, broken_by, tmp_path
):
  broken_by(range(10))
  fields = {**tiny.PLAIN, **_SKIP, 'max_skipped_steps': 4}
  tiny.crash_at(monkeypatch, tmp_path, 4, **fields)
  message = r'step 5: not finite, like the 4 steps before; checkpoints: '
  with pytest.raises(loop.TrainingFailed, match=message):
    tiny.train(tmp_path, **fields)


def test_what_the_message_advises_is_allowed_and_recorded(
  tmp_path, monkeypatch
):
  tiny.use_devices(monkeypatch, 1)
  fields = {'num_steps': 4, 'schedule.name': 'constant'}
  fields |= {'checkpoint.every_steps': 2}
  tiny.crash_at(monkeypatch, tmp_path, 3, **tiny.PLAIN, **fields)
  smaller = {'learning_rate': 0.01, 'method.rho': 0.02}
  with pytest.raises(ValueError, match=r"allow_change=\('learning_rate', 'me"):
    _train(tmp_path, **fields, **smaller)
  allowed = {'allow_change': tuple(smaller)}
  with pytest.raises(ValueError, match=r'seed is 1, was 0[^;]*; use another'):
    _train(tmp_path, **fields, **smaller, **allowed, seed=1)
  result = _train(tmp_path, **fields, **smaller, **allowed)
  assert result == workdir_lib.read_result(tmp_path)
  assert result['changes'] == [
    {'step': 2, 'field': 'learning_rate', 'from': 0.1, 'to': 0.01},
    {'step': 2, 'field': 'method.rho', 'from': 0.05, 'to': 0.02},
  ]
  rates = [line.get('step/learning_rate') for line in tiny.log(tmp_path)]
  assert [r for r in rates if r] == pytest.approx([0.1, 0.1, 0.01, 0.01])
  # From now on these are the run's.
  assert _train(tmp_path, **fields, **smaller) == result
  with pytest.raises(ValueError, match='is finished, and learning_rate cannot'):
    _train(tmp_path, **fields, **smaller | {'learning_rate': 0.1}, **allowed)


@pytest.mark.parametrize(
  ('before', 'after'),
  [
    ({'method.rho': 0.05}, {'method.rho': 0.0}),
    ({'gradient_clipping': 0.0}, {'gradient_clipping': 1.0}),
    ({'batch_size': 16}, {'batch_size': 32}),
  ],
)
def test_what_makes_another_state_cannot_be_allowed(before, after):
  config = tiny.config(**after, allow_change=tuple(after))
  with pytest.raises(ValueError, match='another config') as error:
    workdir_lib.adopt(config, tiny.config(**before))
  assert 'allow_change' not in str(error.value)
