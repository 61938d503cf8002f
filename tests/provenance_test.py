import json

import jax
import numpy as np

from sam_jax import provenance


def test_a_result_says_what_produced_it():
  described = provenance.describe()
  assert described['versions']['jax'] == jax.__version__
  assert described['versions']['numpy'] == np.__version__
  assert described['device'] == f'8 x {jax.devices()[0].device_kind}'
  json.dumps(described)


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
  monkeypatch.setattr(provenance, '__file__', str(tmp_path / 'module.py'))
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
  assert provenance.describe()['git_commit'] is None


def test_without_git_there_is_no_commit(monkeypatch):
  monkeypatch.setenv('PATH', '')
  assert provenance.describe()['git_commit'] is None


def test_parameters_are_counted_as_scalars():
  params = {'a': np.zeros((2, 3)), 'b': {'c': np.zeros(4), 'd': np.zeros(())}}
  assert provenance.count_parameters(params) == 11
