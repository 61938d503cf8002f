"""Training from image files, through the same loop as from arrays."""

import shutil

import numpy as np
import pytest

from tests import image_files, tiny


@pytest.mark.slow
def test_a_run_stopped_within_an_epoch_sees_the_same_images(
  tmp_path, monkeypatch
):
  tiny.use_devices(monkeypatch, 2)
  # 4 classes of 12 + 3 images, hence 3 steps in an epoch.
  folder = image_files.folder(tmp_path / 'data', {'train': 12, 'test': 3})
  fields = {
    'data.name': 'image_folder',
    'data.directory': str(folder),
    'data.image_size': 16,
    'data.train_size': None,
    'augmentation.padding': 1,
    'num_epochs': 2,
    'checkpoint.every_steps': 2,
    'checkpoint.max_to_keep': 9,
  }
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  tiny.train(whole, **fields)
  # As if it had been killed on the way to step 6, the last one.
  shutil.copytree(whole, stopped)
  shutil.rmtree(stopped / 'checkpoints' / '6')
  (stopped / 'result.json').unlink()
  assert max(tiny.steps(stopped)) == 4  # within the second epoch
  tiny.train(stopped, **fields)
  tiny.assert_same_run(stopped, whole)
  # All twelve test images, and each once.
  errors = 12 * tiny.log(whole)[-1]['test/error_rate']
  assert errors == pytest.approx(np.round(errors), abs=1e-4)
