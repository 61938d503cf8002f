"""Training from image files, through the same loop as from arrays."""

import jax
import numpy as np
import pytest

from sam_jax.runs import loop
from tests import pictures, tiny
from tests.datasets import large_test

_RESNET = {'name': 'resnet', 'stage_sizes': (1, 1), 'width': 4}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """4 classes of 12 + 4 images of 48x64 pixels."""
  root = tmp_path_factory.mktemp('folder')
  return pictures.folder(root, {'train': 12, 'test': 4}, height=48, width=64)


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
  tiny.use_devices(monkeypatch, 2)


def _fields(**others):
  """48 examples, 3 steps in an epoch."""
  return {
    'model': _RESNET,
    'data.train_size': None,
    'data.image_size': 64,
    'augmentation.name': 'randaugment',
    'augmentation.padding': 0,
    'm': 8,
    'microbatch_size': 8,
    'checkpoint.every_steps': 100,
    **others,
  }


def _folder_config(folder, **others):
  data = {'data.name': 'image_folder', 'data.directory': str(folder)}
  return tiny.config(**_fields(**data, **others))


def test_a_resnet_learns_the_colours_of_a_folder(folder, tmp_path):
  config = _folder_config(folder, num_epochs=6, learning_rate=0.05)
  config.augmentation.name = 'basic'
  result = loop.train_and_evaluate(config, tmp_path)
  assert result['steps'] == 18
  last = tiny.log(tmp_path)[-1]
  # Chance is .75.
  assert last['test/error_rate'] < 0.4


def test_a_run_stopped_within_an_epoch_sees_the_same_images(
  folder, tmp_path, monkeypatch
):
  config = _folder_config(folder, num_epochs=2)
  loop.train_and_evaluate(config, tmp_path / 'whole')
  config.checkpoint.every_steps = 2
  # Crashes on the way to step 5; goes on from step 4, in the second epoch.
  with monkeypatch.context() as patch:
    add = loop._Pending.add

    def crash(self, handler, step, *rest):
      if step == 5:
        raise ZeroDivisionError
      return add(self, handler, step, *rest)

    patch.setattr(loop._Pending, 'add', crash)
    with pytest.raises(ZeroDivisionError):
      loop.train_and_evaluate(config, tmp_path / 'stopped')
  assert max(tiny.steps(tmp_path / 'stopped')) == 4
  config.data.workers = 0  # may change
  loop.train_and_evaluate(config, tmp_path / 'stopped')
  jax.tree.map(
    np.testing.assert_array_equal,
    tiny.state(tmp_path / 'stopped'),
    tiny.state(tmp_path / 'whole'),
  )


@pytest.mark.parametrize('workers', [0, 1])
def test_a_damaged_test_image_ends_a_run_with_one_line(tmp_path, workers):
  folder = pictures.folder(tmp_path / 'data', {'train': 4, 'test': 2})
  broken = folder / 'test' / 'red' / '001.jpg'
  broken.write_bytes(broken.read_bytes()[:300])
  (folder / 'train' / 'red' / '001.jpg').write_bytes(b'')
  fields = _fields(
    **{
      'data.name': 'image_folder',
      'data.directory': str(folder),
      'data.image_size': 8,
      'data.workers': workers,
      'model': {'name': 'cnn', 'features': (2,), 'hidden': 2},
      'num_epochs': 1,
    }
  )
  config = tiny.config_file(tmp_path, **fields)
  done = tiny.cli(f'--config={config}', f'--workdir={tmp_path / "run"}')
  assert done.returncode == 1
  assert 'Traceback' not in done.stderr
  [line] = [x for x in done.stderr.splitlines() if x.startswith('sam_jax: ')]
  assert f'{broken} cannot be decoded' in line
  assert '1 of 16 training images cannot be decoded' in done.stderr


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
  """The fields of {folder, tfds}, of 240 images for training each."""
  root = tmp_path_factory.mktemp('imagenet_like')
  size = {'height': 80, 'width': 96}
  pictures.folder(root / 'folder', {'train': 60, 'test': 3}, **size)
  splits = {'train': 120, 'validation': 120, 'test': 12}
  large_test.prepare(root / 'tfds', splits, **size)
  return {
    'folder': ('image_folder', str(root / 'folder')),
    'tfds': ('oxford_flowers102', str(root / 'tfds')),
  }


# ImageNet's networks at their real depth; ResNet-50 at a quarter of its width.
@pytest.mark.slow
@pytest.mark.parametrize('source', ['folder', 'tfds'])
@pytest.mark.parametrize(
  ('model', 'optimizer'),
  [
    ({'name': 'resnet', 'stage_sizes': (3, 4, 6, 3), 'width': 16}, 'sgd'),
    ({'name': 'efficientnet-b0', 'resolution': 64}, 'rmsprop_tf'),
  ],
  ids=['Resnet50', 'efficientnet-b0'],
)
def test_imagenets_networks_train_from_files(
  tmp_path, monkeypatch, sources, source, model, optimizer
):
  tiny.use_devices(monkeypatch, 1)
  name, directory = sources[source]
  config = tiny.config(
    **_fields(
      **{
        'model': model,
        'data.name': name,
        'data.directory': directory,
        'augmentation.name': 'basic',
        'batch_size': 4,
        'm': 4,
        'microbatch_size': 4,
        'eval_batch_size': 4,
        'num_steps': 3,
        'optimizer.name': optimizer,
        'learning_rate': 0.01,
      }
    )
  )
  result = loop.train_and_evaluate(config, tmp_path)
  assert result['steps'] == 3
  lines = [x for x in tiny.log(tmp_path) if 'step/loss' in x]
  assert [line['step'] for line in lines] == [1, 2, 3]
  for line in lines:
    assert np.isfinite(list(line.values())).all()
    # The perturbation is there: SGD has no second loss.
    assert line['step/perturbed_loss'] != line['step/loss']
  # Twelve images, all of them and each once.
  errors = 12 * tiny.log(tmp_path)[-1]['test/error_rate']
  assert errors == pytest.approx(round(errors), abs=1e-4)
  assert len({line['step/param_norm'] for line in lines}) > 1
