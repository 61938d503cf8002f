"""The command that converts checkpoints of the official release."""

import jax
import numpy as np
import pytest

import sam_jax
from sam_jax import models
from sam_jax.runs import initialization, legacy, loading, pretrained
from tests import legacy_files, reference, tiny, vit_files, zoo

MODEL, CLASSES, SHAPE = 'WideResnet_mini', 7, (8, 8, 3)
IMAGES = np.zeros((1, *SHAPE), np.float32)


@pytest.fixture(scope='module')
def original():
  """Variables of a model, all of them random."""
  model = models.create(MODEL, num_classes=CLASSES)
  shapes = jax.eval_shape(
    lambda: initialization.init_variables(model, IMAGES, 0)
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.uniform(0.1, 0.5, x.shape).astype(np.float32), dict(shapes)
  )


@pytest.fixture(scope='module')
def file(original, tmp_path_factory):
  """The same as the official release would have saved them."""
  path = tmp_path_factory.mktemp('official') / 'checkpoint_3'
  path.write_bytes(legacy_files.pack(legacy_files.training(original)))
  return path


@pytest.fixture
def converted(command, file, tmp_path):
  """The run directory and what was printed."""
  output = tmp_path / 'converted'
  output.mkdir()  # empty, so it may be there
  done = command(
    'convert_checkpoint',
    f'--input={file}',
    f'--model={MODEL}',
    f'--output={output}',
    '--image_size=8',
    '--mean=.5,.4,.3',
    '--std=.2,.3,.4',
    '--data=cifar10',
  )
  assert done.status == 0, done.err
  return output, done.out


@pytest.mark.slow
def test_a_file_becomes_a_run_that_computes_the_same(converted, original):
  output, printed = converted
  model, variables, config = sam_jax.load(output)
  assert (config.model.name, config.data.name) == (MODEL, 'cifar10')
  jax.tree.map(np.testing.assert_array_equal, variables, original)
  images = np.random.default_rng(1).normal(size=(2, *SHAPE))
  expected = models.create(MODEL, num_classes=CLASSES).apply(
    original, images, train=False
  )
  found = model.apply(variables, images, train=False)
  assert found.shape == (2, CLASSES)
  np.testing.assert_array_equal(found, expected)
  restored = loading.restore(output)
  assert restored.step == 0
  assert restored.task.info == {
    'num_classes': CLASSES,
    'image_shape': list(SHAPE),
    'mean': [0.5, 0.4, 0.3],
    'std': [0.2, 0.3, 0.4],
  }
  _check_inventory(printed, original)


@pytest.mark.slow
def test_an_npz_file_of_a_vit_becomes_a_run(command, tmp_path):
  model = models.create('ViT-Ti/32', num_classes=CLASSES)
  arrays = {
    name.removeprefix('params/'): np.full(shape, 0.01, np.float32)
    for name, shape in zoo.shapes(model, (1, 224, 224, 3))['params'].items()
  }
  done = command(
    'convert_checkpoint',
    f'--input={vit_files.write(tmp_path / "Ti_32.npz", arrays)}',
    '--model=ViT-Ti/32',
    f'--output={tmp_path / "run"}',
  )
  assert done.status == 0, done.err
  restored = loading.restore(tmp_path / 'run')
  found = reference.flatten(restored.variables['params'])
  assert {k: v.shape for k, v in found.items()} == {
    k: v.shape for k, v in arrays.items()
  }
  assert restored.task.info == {
    'num_classes': CLASSES,
    'image_shape': [224, 224, 3],
    'mean': [0.5, 0.5, 0.5],
    'std': [0.5, 0.5, 0.5],
  }


def test_a_run_can_start_from_it(converted):
  model = models.create(MODEL, num_classes=2)
  shapes = jax.eval_shape(
    lambda: initialization.init_variables(model, IMAGES, 0)
  )
  loaded = pretrained.read(str(converted[0]))
  fitted = pretrained.fit(shapes, loaded, source='S', num_classes=2)
  assert fitted.new_head == 'params/Dense_3'


def _check_inventory(printed, original):
  """The table has every array."""
  lines = printed.splitlines()
  rows = {line[:17].strip(): line[17:].split() for line in lines[1:-1]}
  counts = {
    name: (len(leaves), sum(leaf.size for leaf in leaves))
    for name, leaves in {
      **{k: jax.tree.leaves(v) for k, v in original['params'].items()},
      'total': jax.tree.leaves(original['params']),
      'batch statistics': jax.tree.leaves(original['batch_stats']),
    }.items()
  }
  assert {
    name: (int(row[0]), int(row[1].replace(',', '')))
    for name, row in rows.items()
  } == counts
  size = 4 * counts['total'][1] / 2**20
  assert float(rows['total'][2]) == pytest.approx(size, abs=0.005)
  assert lines[-1].endswith(f'{MODEL}, 7 classes; names and shapes fit')


def test_the_inventory_alone_writes_nothing(command, file, tmp_path):
  done = command('convert_checkpoint', f'--input={file.parent}')
  assert done.status == 0, done.err
  assert 'batch statistics' in done.out and 'fit' not in done.out
  assert tiny.tree(tmp_path) == {}
  assert legacy.read(file)  # and it is still there


_DATA = '--mean=.5,.5,.5 --std=.2,.2,.2'
_TO = f'--model={MODEL} --output={{tmp}}/run ' + _DATA


@pytest.mark.parametrize(
  ('arguments', 'answer'),
  [
    ('--input={tmp}/no', 'there is no '),
    ('--input={tmp}/full/file', 'fetch it again'),
    ('--input={file} --model=WideResnet_mini', 'both --model and --output'),
    (
      '--input={file} --model=WRN --output={tmp}/run ' + _DATA,
      "unknown model 'WRN'",
    ),
    (
      '--input={file} --model=WideResnet16x2 --output={tmp}/run ' + _DATA,
      'params/Dense_3/kernel is of another shape: needs [128, 7], found [64,',
    ),
    (
      '--input={file} --model=cnn --output={tmp}/run ' + _DATA,
      'does not fit the model',
    ),
    (
      f'--input={{file}} --model={MODEL} --output={{tmp}}/run',
      f'give --mean, that of the images which {MODEL} was trained on',
    ),
    ('--input={file} ' + _TO + ' --mean=.5', '--mean is .5; it must be 3'),
    ('--input={file} ' + _TO + ' --std=a,b,c', '--std is a,b,c; it must be 3'),
    ('--input={file} ' + _TO + ' --data=cifar', "unknown data set 'cifar'"),
    (
      '--input={file} --model=WideResnet_mini --output={tmp}/full ' + _DATA,
      'full exists already',
    ),
    (
      '--input={file} --model=WideResnet_mini --output={tmp}/full/file '
      + _DATA,
      'file exists already',
    ),
    ('--input={file} extra', 'unknown arguments: extra'),
  ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
  command, file, tmp_path, arguments, answer
):
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'file').write_bytes(b'hello')
  before = tiny.tree(tmp_path)
  done = command(
    'convert_checkpoint',
    *arguments.replace('{file}', str(file))
    .replace('{tmp}', str(tmp_path))
    .split(),
  )
  assert done.status == 2
  assert done.err.startswith('convert_checkpoint: '), done.err
  assert answer in done.err and done.err.count('\n') == 1
  assert done.out == ''
  assert tiny.tree(tmp_path) == before
