"""Fine-tuning end to end: an official file, a run, and what is left of it."""

import shutil

import jax
import numpy as np
import pytest

import sam_jax
from sam_jax import models
from sam_jax.runs import loop, preparation
from tests import legacy_files, reference, tiny, zoo

# The file knows a thousand classes, the digits are ten.
OLD_CLASSES, CLASSES = 1000, 10
MODEL = {'name': 'cnn', 'features': (4,), 'hidden': 8}


def _write_file(path):
  """Writes a hash-filled official file; returns what is in it."""
  model = models.create(num_classes=OLD_CLASSES, norm='frozen', **MODEL)
  variables = zoo.hash_filled(model, (1, 8, 8, 1), salt=7, gain=1.0)
  path.write_bytes(legacy_files.pack(legacy_files.pair(variables)))
  return variables


def _config(source):
  """One epoch of two steps of SAM."""
  return tiny.config(
    **{
      'init_from': str(source),
      'model.norm': 'frozen',
      'model.activation': 'relu',
      'model.dropout_rate': None,
      'data.train_size': 16,
      'batch_size': 8,
      'm': 8,
      'microbatch_size': 8,
      'num_epochs': 1,
      'learning_rate': 0.01,
      'augmentation.cutout_length': 0,
      'checkpoint.every_steps': 1,
    }
  )


def _split_head(params):
  """Returns the classifier's arrays, and all others, by name."""
  flat = reference.flatten(params)
  (kernel,) = (
    name for name, x in flat.items() if x.ndim == 2 and x.shape[1] == CLASSES
  )
  layer = kernel.removesuffix('kernel')
  head = {name: flat[name] for name in flat if name.startswith(layer)}
  return head, {name: flat[name] for name in flat if name not in head}


def _check_start(state, loaded):
  """Before step 0: the file's arrays, and a classifier of ten classes."""
  head, rest = _split_head(state.params)
  assert all(x.shape[-1] == CLASSES for x in head.values())
  flat = reference.flatten(loaded['params'])
  assert flat.keys() == head.keys() | rest.keys()
  for name, value in rest.items():
    np.testing.assert_array_equal(value, flat[name], err_msg=name)
  return head | rest


def _check_end(workdir, start, loaded):
  """After the run: every array trained, every statistic as in the file."""
  state = tiny.state(workdir)
  trained = reference.flatten(state['params'])
  assert trained.keys() == start.keys()
  for name, value in trained.items():
    assert np.isfinite(value).all() and (value != start[name]).any(), name
  jax.tree.map(
    np.testing.assert_array_equal, state['batch_stats'], loaded['batch_stats']
  )
  lines = [x for x in tiny.log(workdir) if 'step/loss' in x]
  assert [x['step'] for x in lines] == [1, 2]
  assert np.isfinite([x['step/perturbed_loss'] for x in lines]).all()


def _check_use(workdir):
  """The run is loaded like any other."""
  model, variables, config = sam_jax.load(str(workdir))
  assert (model.num_classes, config.model.norm) == (CLASSES, 'frozen')
  state = tiny.state(workdir)
  for name, tree in variables.items():
    jax.tree.map(np.testing.assert_array_equal, tree, state[name])


def _check_resume(config, workdir, killed):
  """A run killed after its first step goes on from there, without the file."""
  shutil.copytree(workdir, killed)
  shutil.rmtree(killed / 'checkpoints' / '2')
  (killed / 'result.json').unlink()
  assert tiny.steps(killed) == [1]
  loop.train_and_evaluate(config, killed)
  tiny.assert_same_run(killed, workdir)


@pytest.mark.slow
def test_an_official_file_is_fine_tuned(monkeypatch, tmp_path, capsys):
  tiny.use_devices(monkeypatch, 1)
  source, workdir = tmp_path / 'official', tmp_path / 'run'
  loaded = _write_file(source)
  config = _config(source)
  with preparation.begin(config, workdir) as begun:
    assert (
      f'is new: {OLD_CLASSES} -> {CLASSES} classes' in capsys.readouterr().out
    )
    start = jax.tree.map(np.asarray, _check_start(begun.state, loaded))
    loop.train(begun)
  _check_end(workdir, start, loaded)
  _check_use(workdir)
  source.unlink()
  _check_resume(config, workdir, tmp_path / 'killed')
