"""Prediction of images by a trained model."""

import csv
import io
import json
import types

import numpy as np
import pytest

from sam_jax import datasets
from sam_jax.runs import evaluation, loading, prediction
from tests import image_files, tiny


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
  """Where shipped runs are unpacked, once for all tests of this file."""
  base = tmp_path_factory.getbasetemp() / 'predict_cache'
  monkeypatch.setenv('XDG_CACHE_HOME', str(base))
  return base


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
  """Twenty test images as files, some in a deeper folder, and their labels."""
  root = tmp_path_factory.mktemp('digits')
  (root / 'more').mkdir()
  data = datasets.create('digits').evaluation
  for i in range(20):
    image = data.images[i, ..., 0]
    if i % 2:  # an image of three equal colours is as grey
      image = np.repeat(image[..., None], 3, axis=-1)
    path = root / ('more' if i > 9 else '') / f'{i:02}.png'
    path.write_bytes(image_files.encode(image, 'PNG'))
  return root, data.select(slice(20))


def _probabilities(run, examples):
  """What an evaluation of the run finds."""
  restored = loading.restore(run)
  parts = list(restored.predict(examples))
  assert isinstance(parts[0], evaluation.Predictions)
  outputs = np.concatenate([part.outputs for part in parts])
  return restored.task.probabilities(outputs)


def test_images_are_predicted_as_an_evaluation_does(command, digits):
  root, examples = digits
  options = ('--format=json', '--top_k=20', '--batch_size=8')
  done = command('predict', 'digits_cnn_sam', root, *options)
  assert done.status == 0, done.err
  lines = list(map(json.loads, done.out.splitlines()))
  files = [str(path) for path in sorted(root.rglob('*.png'))]
  assert [line['file'] for line in lines] == files
  expected = _probabilities('digits_cnn_sam', examples)
  for line, row in zip(lines, expected, strict=True):
    found = {int(c['class']): c['probability'] for c in line['classes']}
    assert sorted(found.values(), reverse=True) == list(found.values())
    np.testing.assert_allclose([found[i] for i in range(10)], row, atol=2e-6)


def test_the_table_and_the_text_have_the_same_classes(command, digits):
  root, _ = digits
  path, options = root / '03.png', ('--top_k=2',)
  done = command('predict', 'digits_cnn_sgd', path, '--format=csv', *options)
  rows = list(csv.DictReader(io.StringIO(done.out)))
  assert [(row['file'], row['rank']) for row in rows] == [
    (str(path), '1'),
    (str(path), '2'),
  ]
  listed = ', '.join(
    f'{row["class"]} {100 * float(row["probability"]):.1f} %' for row in rows
  )
  done = command('predict', 'digits_cnn_sgd', path, *options)
  assert done.out == f'{path}: {listed}\n'


def test_bad_images_are_named_and_the_others_predicted(command, digits):
  root, _ = digits
  bad = root.parent / 'bad'
  bad.mkdir()
  (bad / 'text.png').write_bytes(b'no image')
  (bad / 'large.png').write_bytes(image_files.encode(image_files.pixels(0)))
  done = command('predict', 'digits_cnn_sam', bad, root / '00.png')
  assert done.status == 1
  assert done.out.splitlines() == [
    line for line in done.out.splitlines() if line.startswith(f'{root}/00.png')
  ]
  assert len(done.out.splitlines()) == 1
  large, text = done.err.splitlines()
  assert 'large.png: it has 32 x 24 pixels, and the run takes' in large
  assert 'images of 8 x 8; resize it first' in large
  assert 'text.png: it is no image that can be decoded' in text
  done = command('predict', 'digits_cnn_sam', bad)
  assert (done.status, done.out, done.err.count('\n')) == (2, '', 1)
  assert done.err.endswith('(2 images in all)\n')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('digits_cnn_sam',), 'give a run directory, and then image files'),
    (('digits_cnn_sam', '{tmp}/no.png'), 'there is no file or folder'),
    (('digits_cnn_sam', '{tmp}'), 'has no images; files are left out: 1 '),
    (('{tmp}', '{image}'), 'is no run directory'),
    (('digits_cnn_sam', '{image}', '--checkpoint=7'), 'no checkpoint 7'),
    (('digits_cnn_sam', '{image}', '--top_k=0'), 'top_k'),
  ],
)
def test_bad_input_is_one_line(command, digits, tmp_path, arguments, message):
  (tmp_path / 'notes.txt').write_text('of no use')
  image = str(digits[0] / '00.png')
  texts = (
    a.replace('{tmp}', str(tmp_path)).replace('{image}', image)
    for a in arguments
  )
  done = command('predict', *texts)
  assert (done.status, done.out) == (2, '')
  assert done.err.startswith('predict: ') and message in done.err
  assert done.err.count('\n') == 1


@pytest.mark.parametrize(
  ('info', 'message'),
  [
    ({'tokenizer': 'bytes'}, "task 'mine', which predicts .*; sam-generate"),
    ({'image_shape': [8, 8, 1]}, "'mine', which predicts no classes of images"),
    ({'image_shape': [8, 8, 7]}, 'have 7 channels'),
  ],
)
def test_a_run_that_tells_no_classes_of_images_is_refused(info, message):
  config = types.SimpleNamespace(task=types.SimpleNamespace(name='mine'))
  task = types.SimpleNamespace(info=info)
  with pytest.raises(ValueError, match=message):
    prediction.check(loading.Restored(task, {}, config, 1))


def test_images_of_any_size_are_cropped_for_a_run_that_crops(
  command, monkeypatch, tmp_path
):
  data = image_files.folder(
    tmp_path / 'data', {'train': 4, 'test': 2}, height=9, width=15
  )
  tiny.use_devices(monkeypatch, 1)
  fields = {
    'data.name': 'image_folder',
    'data.directory': str(data),
    'data.train_size': None,
    'data.image_size': 8,
    'batch_size': 16,
    'num_steps': 1,
    'method.name': 'sgd',
    'ema.decay': 0.5,
  }
  run = tmp_path / 'run'
  tiny.train(run, **tiny.PLAIN | fields)
  done = command('predict', run, data / 'test', '--format=json', '--top_k=4')
  assert done.status == 0, done.err
  lines = list(map(json.loads, done.out.splitlines()))
  options = {'directory': str(data), 'image_size': 8}
  examples = datasets.create('image_folder', **options).evaluation
  expected = _probabilities(run, examples)
  classes = ['blue', 'green', 'grey', 'red']
  assert len(lines) == len(expected) == 8
  for i, line in enumerate(lines):
    assert line['file'] == str(data / examples.images.file(i))
    found = {c['class']: c['probability'] for c in line['classes']}
    row = [found[name] for name in classes]
    np.testing.assert_allclose(row, expected[i], atol=2e-6)


def test_a_diverged_model_is_no_oracle(digits):
  root, _ = digits
  restored = loading.restore('digits_cnn_sam')
  params = restored.variables['params']
  name = max(params)
  kernel = {**params[name], 'kernel': params[name]['kernel'] * np.nan}
  variables = restored.variables | {'params': {**params, name: kernel}}
  broken = loading.Restored(
    restored.task, variables, restored.config, restored.step
  )
  with pytest.raises(ValueError, match='NaN or infinite; its training has'):
    list(prediction.predict(broken, [root / '00.png']))
