"""Runs whose parameters are cut over devices."""

import jax
import numpy as np
import pytest

from sam_jax.runs import dry_run
from tests import tiny, tiny_text
from tests.runs import multi_process_test as processes

_MODEL = {'model.name': 'gpt', 'model.width': 96, 'model.depth': 1}


@pytest.fixture(scope='module')
def fields(tmp_path_factory):
  directory = tiny_text.write(tmp_path_factory.mktemp('text'))
  return (
    tiny_text.FIELDS
    | _MODEL
    | {
      'model.heads': 2,
      'method.name': 'sam',
      'method.rho': 0.05,
      'optimizer.name': 'adamw',
      'optimizer.momentum': None,
      'optimizer.nesterov': None,
      'optimizer.eps': 1e-3,
      'learning_rate': 0.01,
      'weight_decay.place': 'decoupled',
      'data.directory': directory,
      'batch_size': 8,
      'm': 4,
      'microbatch_size': 4,
      'microbatch_loop': 'scan',
      'eval_batch_size': 8,
      'num_steps': 8,
      'checkpoint.every_steps': 4,
    }
  )


@pytest.fixture(scope='module')
def alone(tmp_path_factory, fields):
  """A run on one device."""
  directory = tmp_path_factory.mktemp('alone')
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    tiny.train(directory, **fields)
  return directory


def _assert_same_run(workdir, expected):
  for line, other in zip(tiny.log(workdir), tiny.log(expected), strict=True):
    assert line == pytest.approx(other, abs=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
    tiny.state(workdir)['params'],
    tiny.state(expected)['params'],
  )


@pytest.mark.slow
def test_a_run_is_resumed_on_other_numbers_of_devices(
  monkeypatch, tmp_path, fields, alone
):
  tiny.use_devices(monkeypatch, 4)
  with monkeypatch.context() as patch:
    tiny.crash_at(patch, tmp_path, 6, **fields, fsdp=2)
  tiny.train(tmp_path, **fields, fsdp=4)
  _assert_same_run(tmp_path, alone)


@pytest.mark.slow
def test_two_processes_share_one_copy(tmp_path, fields, alone):
  config = tiny.config_file(tmp_path, **fields, fsdp=4)
  workdir = tmp_path / 'run'
  statuses, outputs = processes._end(processes._start(config, workdir))
  assert statuses == [0, 0], outputs
  assert 'computed by 4 devices together' in outputs[0]
  _assert_same_run(workdir, alone)


@pytest.mark.slow
def test_a_dry_run_says_what_is_on_each_device(
  monkeypatch, tmp_path, fields, capsys
):
  tiny.use_devices(monkeypatch, 4)
  dry_run.run(tiny.config(**fields, fsdp=4), tmp_path)
  assert 'which share one copy of the parameters' in capsys.readouterr().out


def test_batch_norm_is_refused(monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 2)
  with pytest.raises(
    ValueError, match='fsdp is 2, and the model has BatchNorm'
  ):
    tiny.train(
      tmp_path,
      **tiny.PLAIN | {'model.norm': 'batch', 'm': 16, 'microbatch_size': 16},
      fsdp=2,
    )
  assert not any(tmp_path.iterdir())


def test_pmap_is_refused_in_a_dry_run_too(tmp_path):
  for act in (tiny.train, lambda to, **x: dry_run.run(tiny.config(**x), to)):
    with pytest.raises(ValueError, match='pmap.*fsdp is 8'):
      act(tmp_path, **tiny.PLAIN | {'parallel': 'pmap'}, fsdp=8)
  assert not any(tmp_path.iterdir())
