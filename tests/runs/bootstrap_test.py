"""Bootstrap: the second run's labels are what the first run predicts."""

import shutil

import numpy as np
import pytest

import sam_jax
from sam_jax import analysis
from sam_jax.runs import bootstrap, dry_run, factories, preparation
from tests import tiny

FIELDS = tiny.PLAIN | {
  'method.name': 'sgd',
  'data.label_noise': 0.5,
  'num_epochs': 1,
}


@pytest.fixture(autouse=True, scope='module')
def _one_device():
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    yield


@pytest.fixture(scope='module')
def first(tmp_path_factory):
  """A finished run on noisy labels."""
  directory = tmp_path_factory.mktemp('bootstrap') / 'first'
  tiny.train(directory, **FIELDS)
  return directory


def _dataset(config):
  return factories.load_data(config)


def _begin(config, directory):
  """Returns a run that has begun; its lock is given back."""
  with preparation.begin(config, directory) as begun:
    return begun


def _predicted(run, dataset):
  """The classes a loaded model gives the training images, as users would."""
  model, variables, _ = sam_jax.load(run)
  images = dataset.train.images.astype(np.float32) / 255
  images = (images - np.array(dataset.mean)) / np.array(dataset.std)
  logits = model.apply(variables, images.astype(np.float32), train=False)
  return np.argmax(logits, axis=-1)


def test_training_labels_are_those_that_the_first_run_predicts(
  first, tmp_path, capsys
):
  config = tiny.config(**FIELDS, labels_from=str(first))
  dataset = _dataset(config)
  begun = _begin(config, tmp_path / 'second')
  relabelled = begun.experiment.dataset
  expected = _predicted(first, dataset)
  assert 0 < np.mean(expected != dataset.train.labels) < 1
  np.testing.assert_array_equal(relabelled.train.labels, expected)
  assert relabelled.train.labels.dtype == np.int32
  # What is evaluated on is clean, and the images are the same.
  np.testing.assert_array_equal(
    relabelled.evaluation.labels, dataset.evaluation.labels
  )
  np.testing.assert_array_equal(relabelled.train.images, dataset.train.images)
  share = np.mean(expected != dataset.train.labels)
  assert f'step 5: {share:.2%} changed' in capsys.readouterr().out


@pytest.mark.slow
def test_a_second_run_trains_on_them_and_is_resumed_without_the_first(
  first, tmp_path
):
  """From scratch, to the same bits as a data set with those labels."""
  own = tmp_path / 'first'
  shutil.copytree(first, own)
  fields = FIELDS | {'labels_from': str(own), 'schedule.name': 'constant'}
  tiny.train(tmp_path / 'whole', **fields | {'num_epochs': 2})
  tiny.train(tmp_path / 'part', **fields)
  shutil.rmtree(own)
  tiny.train(tmp_path / 'part', **fields | {'num_epochs': 2})
  tiny.assert_same_run(tmp_path / 'part', tmp_path / 'whole')
  plain = tmp_path / 'plain'
  tiny.train(plain, **fields | {'num_epochs': 2, 'labels_from': ''})
  assert tiny.log(plain) != tiny.log(tmp_path / 'whole')


def test_a_start_that_failed_predicts_anew(first, tmp_path):
  """Labels that a run never trained on are nobody's."""
  config = tiny.config(**FIELDS, labels_from=str(first))
  directory = tmp_path / 'second'
  _begin(config, directory)
  bootstrap.write(np.zeros(80, np.int32), directory)
  dataset = _begin(config, directory).experiment.dataset
  np.testing.assert_array_equal(
    dataset.train.labels, _predicted(first, dataset)
  )


@pytest.mark.slow
def test_a_second_run_is_measured_on_the_labels_that_it_had(tmp_path):
  fields = FIELDS | {'data.split': 'validation'}
  tiny.train(tmp_path / 'first', **fields)
  second = tmp_path / 'second'
  tiny.train(second, **fields, labels_from=str(tmp_path / 'first'))
  clean = _dataset(tiny.config())
  loaded = analysis.load(second, split='train')
  expected = _predicted(tmp_path / 'first', _dataset(tiny.config(**fields)))
  np.testing.assert_array_equal(loaded.examples.labels, expected)
  # All test labels are the data set's.
  loaded = analysis.load(second, split='test')
  np.testing.assert_array_equal(loaded.examples.labels, clean.evaluation.labels)


def _unfinished(first, directory):
  shutil.copytree(first, directory)
  (directory / 'result.json').unlink()


@pytest.mark.parametrize('start', [_begin, dry_run.run])
@pytest.mark.parametrize(
  ('make', 'fields', 'message'),
  [
    (lambda first, path: None, {}, 'is no run directory'),
    (_unfinished, {}, 'is not finished; finish it first'),
    (
      shutil.copytree,
      {'data.label_noise': 0.4},
      'other data: data.label_noise is 0.4, there 0.5; they must agree',
    ),
    (
      shutil.copytree,
      {'data.train_size': 90, 'data.seed': 1},
      'data.seed is 1, there 0; data.train_size is 90, there 80',
    ),
  ],
)
def test_what_cannot_label_the_images_is_refused(
  first, tmp_path, start, make, fields, message
):
  source = tmp_path / 'source'
  make(first, source)
  config = tiny.config(**FIELDS | {'labels_from': str(source)} | fields)
  with pytest.raises(ValueError, match=message):
    start(config, tmp_path / 'second')
  assert not (tmp_path / 'second').exists()


@pytest.mark.slow
def test_a_task_without_labels_has_none_to_predict(tmp_path):
  fields = FIELDS | {
    'plugins': ('tests.plugins.regression',),
    'task.name': 'digit_regression',
    'num_steps': 1,
  }
  first, second = tmp_path / 'first', tmp_path / 'second'
  tiny.train(first, **fields)
  with pytest.raises(ValueError, match='needs a task that predicts labels'):
    tiny.train(second, **fields, labels_from=str(first))
  assert not second.exists()
  with pytest.raises(ValueError, match="task.name is 'image_classification'"):
    tiny.train(second, **FIELDS, labels_from=str(first))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, 'cannot be read'),
    (b'no array', 'cannot be read'),
    (np.zeros(3, np.int32), r'\(3,\) labels for 80 training images'),
  ],
)
def test_damaged_labels_of_a_run_that_has_begun_are_refused(
  first, tmp_path, content, message
):
  fields = FIELDS | {'labels_from': str(first), 'schedule.name': 'constant'}
  tiny.train(tmp_path, **fields)
  path = tmp_path / 'labels.npy'
  path.unlink()
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif content is not None:
    np.save(path, content)
  with pytest.raises(ValueError, match=message):
    tiny.train(tmp_path, **fields | {'num_epochs': 2})


def test_labels_are_what_was_written_to_the_last_bit(tmp_path, monkeypatch):
  config = tiny.config(**FIELDS, labels_from='gone')
  dataset = _dataset(config)
  expected = (dataset.train.labels + 1) % 10
  bootstrap.write(expected, tmp_path)
  monkeypatch.setattr(bootstrap.workdir_lib, 'has_begun', lambda _: True)
  found = bootstrap.relabel(dataset, config, tmp_path, {}).train.labels
  np.testing.assert_array_equal(found, expected)
  path = tmp_path / 'labels.npy'
  content = path.read_bytes()
  for at in (130, len(content) - 40, len(content) - 1):
    path.write_bytes(
      content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    )
    with pytest.raises(ValueError, match='its checksum is of other labels'):
      bootstrap.relabel(dataset, config, tmp_path, {})
