"""A task of a user's own, from a plug-in, through a whole run."""

import json

import numpy as np
import pytest

import sam_jax
from sam_jax import analysis
from sam_jax.runs import loading, metrics_log
from tests import tiny

FIELDS = tiny.PLAIN | {
  'plugins': ('tests.plugins.regression',),
  'task.name': 'digit_regression',
  'task.largest': 9.0,
}


@pytest.fixture(autouse=True, scope='module')
def _one_device():
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    tiny.share_programs(patch, {})
    yield


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  directory = tmp_path_factory.mktemp('regression')
  tiny.train(directory, **FIELDS)
  return directory


@pytest.mark.slow
def test_it_trains_and_is_told_in_its_own_words(tmp_path, capsys):
  tiny.train(tmp_path, **FIELDS, **{'log.progress_seconds': 0.0})
  lines = capsys.readouterr().out.splitlines()
  assert lines[2] == 'compiling the first step'
  assert lines[3].startswith('step 1/10: loss 0.')
  (epoch, *_) = (line for line in lines if line.startswith('epoch 1'))
  names = [part.split()[0] for part in epoch.split(': ')[1].split(', ')]
  assert names == [
    'train/loss',
    'train/sharpness',
    'test/loss',
    'test/squared_error',
  ]
  assert lines[-1].startswith('finished: test squared error 0.')
  assert 'error_rate' not in '\n'.join(lines)


def test_its_score_is_in_the_log_and_the_result(whole):
  result = json.loads((whole / 'result.json').read_text())
  logged = {
    line['step']: line['test/squared_error']
    for line in metrics_log.read(whole)
    if 'test/squared_error' in line
  }
  assert result['final_score'] == logged[10]
  assert result['best_score'] == min(logged.values())
  assert result['score'] == {
    'metric': 'squared_error',
    'label': 'squared error',
    'unit': '',
    'scale': 1.0,
  }
  # It learns: always the mean digit, half of the largest, has 0.1.
  assert logged[10] < logged[5]


def test_it_is_resumed_bit_for_bit(monkeypatch, whole, tmp_path):
  tiny.crash_at(monkeypatch, tmp_path, 5, **FIELDS)
  tiny.train(tmp_path, **FIELDS)
  tiny.assert_same_run(tmp_path, whole)


def test_it_is_loaded_and_measured(whole):
  model, _, config = sam_jax.load(whole)
  assert (model.num_classes, config.task.largest) == (1, 9.0)
  logged = metrics_log.read(whole)[-1]
  measured = analysis.load(whole, split='test')
  assert measured.objective().value(measured.params) == pytest.approx(
    logged['test/loss'], rel=1e-5
  )
  parts = loading.restore(whole).predict(measured.examples)
  errors = np.concatenate([part.metrics['squared_error'] for part in parts])
  assert np.mean(errors) == pytest.approx(
    logged['test/squared_error'], rel=1e-5
  )


@pytest.mark.parametrize(
  ('field', 'message'),
  [
    ({'mixing.name': 'mixup'}, "'digit_regression' takes no mixing"),
    ({'label_smoothing': 0.1}, "'digit_regression' takes no label_smoothing"),
    ({'task.smallest': 1.0}, "'digit_regression' takes no smallest"),
  ],
  ids=str,
)
def test_what_it_does_not_take_is_refused(tmp_path, field, message):
  with pytest.raises(ValueError, match=message):
    tiny.train(tmp_path / 'run', **FIELDS | field)
  assert not (tmp_path / 'run').exists()
