"""The evaluation command."""

import csv
import json
import os

import numpy as np
import pytest

from sam_jax.runs import factories, loading, metrics_log, workdir
from tests import image_files, tiny


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run directory of two epochs, noisy labels, validation split."""
  directory = tmp_path_factory.mktemp('run')
  tiny.train(
    directory,
    **{
      'data.split': 'validation',
      'data.label_noise': 0.5,
      'checkpoint.every_steps': 5,
      'eval_train': True,
    },
  )
  return directory


def _logged(run, step, split):
  """What the run found at the end of an epoch."""
  (line,) = [
    x for x in metrics_log.read(run) if x['step'] == step and 'train/loss' in x
  ]
  return {
    name: line[f'{split}/{name}']
    for name in ('loss', 'error_rate', 'top5_error_rate')
  }


def _dataset(run, **changes):
  return factories.load_data(workdir.read_config(run), **changes)


@pytest.mark.parametrize(
  ('split', 'logged'), [('validation', 'validation'), ('train', 'train_eval')]
)
def test_it_finds_what_the_run_found(command, run, tmp_path, split, logged):
  done = command(
    'evaluate',
    f'--workdir={run}',
    f'--split={split}',
    f'--output={tmp_path}/p.csv',
  )
  assert done.status == 0, done.err
  summary = json.loads(done.out)
  assert summary['checkpoint'] == 8
  assert summary['split'] == split
  assert summary['examples'] == {'validation': 8, 'train': 72}[split]
  for name, value in _logged(run, 8, logged).items():
    # Float32 sums, in another order.
    assert summary[name] == pytest.approx(value, rel=1e-5), name


_SIZED_MODEL = """
from flax import linen as nn
from sam_jax import models

@models.register('sized_for_evaluation')
class Sized(nn.Module):
  num_classes: int
  resolution: int = 12

  @nn.compact
  def __call__(self, images, *, train, true_gradient=False):
    return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))
"""


@pytest.mark.slow
def test_it_shows_a_model_images_of_its_resolution(
  command, monkeypatch, tmp_path
):
  (tmp_path / 'sized_model.py').write_text(_SIZED_MODEL)
  monkeypatch.syspath_prepend(tmp_path)
  run = tmp_path / 'run'
  tiny.train(
    run, model={'name': 'sized_for_evaluation'}, plugins=('sized_model',)
  )
  info = loading.restore(run).task.info
  assert info['image_shape'] == [8, 8, 1]
  done = command('evaluate', f'--workdir={run}')
  assert done.status == 0, done.err
  summary = json.loads(done.out)
  logged = _logged(run, 10, 'test')
  for name, value in logged.items():
    # Float32 sums, in another order.
    assert summary[name] == pytest.approx(value, rel=1e-5), name


def test_the_csv_has_a_row_per_example(command, run):
  done = command(
    'evaluate', f'--workdir={run}', '--split=test', '--checkpoint=5'
  )
  assert done.status == 0, done.err
  summary = json.loads(done.out)
  path = run / 'predictions_test_5.csv'
  assert summary['predictions'] == str(path)
  with path.open() as stream:
    rows = list(csv.DictReader(stream))
  labels = _dataset(run, split='test').evaluation.labels
  assert [int(row['index']) for row in rows] == list(range(len(labels)))
  assert [int(row['label']) for row in rows] == labels.tolist()
  errors = [row['prediction'] != row['label'] for row in rows]
  assert np.mean(errors) == pytest.approx(summary['error_rate'], abs=1e-7)
  assert all(0.1 <= float(row['probability']) <= 1 for row in rows)


def test_the_npz_has_the_logits_whatever_the_batch_size(command, run, tmp_path):
  saved = []
  for size in (7, 500):
    path = tmp_path / f'{size}.npz'
    done = command(
      'evaluate',
      f'--workdir={run}',
      '--checkpoint=best',
      f'--output={path}',
      f'--batch_size={size}',
    )
    assert done.status == 0, done.err
    saved.append(dict(np.load(path)))
  assert saved[0].keys() == {
    'label',
    'label_name',
    'prediction',
    'prediction_name',
    'probability',
    'outputs',
  }
  logits = saved[0]['outputs']
  assert (logits.dtype, logits.shape) == (np.float32, (1717, 10))
  np.testing.assert_array_equal(saved[0]['prediction'], logits.argmax(-1))
  np.testing.assert_allclose(logits, saved[1]['outputs'], atol=1e-5)
  best = tiny.result(run)['best_step']
  assert json.loads(done.out)['checkpoint'] == best


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
  """A run on a folder of images; one name has a comma, one is no Unicode."""
  root = tmp_path_factory.mktemp('photographs')
  data = image_files.folder(
    root / 'data', {'train': 4, 'test': 2}, height=9, width=9
  )
  red = data / 'test' / 'red'
  (red / '000.jpg').rename(red / 'a, "b".jpg')
  (red / '001.jpg').rename(red / os.fsdecode(b'\xff.jpg'))
  fields = {
    'data.name': 'image_folder',
    'data.directory': str(data),
    'data.train_size': None,
    'data.image_size': 8,
    'batch_size': 16,
    'num_steps': 1,
    'method.name': 'sgd',
  }
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    tiny.train(root / 'run', **tiny.PLAIN | fields)
  return root / 'run', data


def _rows(run):
  path = next(run.glob('predictions_*.csv'))
  with path.open(encoding='utf-8', errors='surrogateescape') as stream:
    return list(csv.DictReader(stream))


def test_predictions_have_the_files_and_the_classes(command, photographs):
  run, data = photographs
  done = command('evaluate', f'--workdir={run}')
  assert done.status == 0, done.err
  rows = _rows(run)
  assert list(rows[0]) == [
    'index',
    'file',
    'label',
    'label_name',
    'prediction',
    'prediction_name',
    'probability',
  ]
  assert {row['file'] for row in rows} == {
    str(path.relative_to(data)) for path in data.glob('test/*/*')
  }
  classes = ['blue', 'green', 'grey', 'red']
  for row in rows:
    assert row['file'].split('/')[1] == row['label_name']
    assert classes[int(row['label'])] == row['label_name']
    assert classes[int(row['prediction'])] == row['prediction_name']


def test_other_data_of_the_same_classes_are_announced(
  command, photographs, tmp_path
):
  run, data = photographs
  other = image_files.folder(
    tmp_path / 'other', {'train': 1, 'test': 3}, height=9, width=9
  )
  arguments = (f'--workdir={run}', f'--output={tmp_path}/p.csv')
  done = command('evaluate', *arguments, f'--directory={other}')
  assert done.status == 0, done.err
  assert done.err.count('\n') == 1
  assert f'of {other}, which may be other data' in done.err
  assert json.loads(done.out)['examples'] == 12
  # Of other classes they are refused, and so are the run's own once changed.
  for split in ('train', 'test'):
    (other / split / 'red').rename(other / split / 'pink')
  done = command('evaluate', *arguments, f'--directory={other}')
  assert (done.status, done.out) == (2, '')
  assert "class 3 is 'pink', was 'red'" in done.err
  test = data / 'test' / 'blue' / '000.jpg'
  test.write_bytes((data / 'test' / 'grey' / '000.jpg').read_bytes())
  done = command('evaluate', *arguments)
  assert (done.status, done.out, done.err.count('\n')) == (2, '', 1)
  assert 'the test images have the same names, but other contents' in done.err


@pytest.mark.parametrize(
  ('arguments', 'answer'),
  [
    (('--workdir={tmp}',), 'no run directory'),
    (('--workdir={run}', '--checkpoint=7'), 'no checkpoint 7'),
    (('--workdir={run}', '--output={tmp}/a.txt'), r'must end in .csv or .npz'),
    (('--workdir={run}', '--output={tmp}/no/a.csv'), 'no/a.csv'),
    (('--workdir={run}', '--directory={tmp}'), 'give --output too'),
    (('--workdir={run}', 'extra'), 'unknown arguments: extra'),
  ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
  command, run, tmp_path, arguments, answer
):
  before = tiny.tree(run)
  done = command(
    'evaluate',
    *(
      a.replace('{run}', str(run)).replace('{tmp}', str(tmp_path))
      for a in arguments
    ),
  )
  assert done.status == 2
  assert done.err.startswith('evaluate: ') and answer in done.err
  assert done.err.count('\n') == 1
  assert done.out == ''
  assert tiny.tree(run) == before
  assert tiny.tree(tmp_path) == {}
