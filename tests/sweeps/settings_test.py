"""Settings: the right runs in each, the right numbers of it."""

import numpy as np
import pytest

from sam_jax.sweeps import results, settings as settings_lib
from tests.sweeps import made_up


def test_settings_are_what_differs_in_more_than_the_seed(tmp_path):
  runs, num_unfinished, *_ = results.collect(made_up.sweep(tmp_path))
  assert (len(runs), num_unfinished) == (16, 0)
  settings = settings_lib.group(runs)
  assert [len(setting.runs) for setting in settings] == [2] * 8
  assert set(settings[0].fields) == {'method.name', 'data.split', 'method.rho'}
  sgd = [c for c in settings if c.fields['method.name'] == 'sgd']
  assert [c.fields['method.rho'] for c in sgd] == [None, None]


def test_replicas_that_take_their_labels_from_runs_of_their_own_are_a_setting(
  tmp_path,
):
  for seed in (0, 1):
    fields = {'seed': seed, 'method.rho': 0.2}
    made_up.write_run(tmp_path, f'plain-{seed}', [0.3], **fields)
    made_up.write_run(
      tmp_path, f'other-{seed}', [0.3], **fields | {'method.rho': 0.1}
    )
    for first in ('plain', 'other'):
      source = str(tmp_path / f'{first}-{seed}')
      name = f'from-{first}-{seed}'
      made_up.write_run(tmp_path, name, [0.2], labels_from=source, **fields)
  runs = results.collect(tmp_path).runs
  settings = settings_lib.group(runs)
  found = {(c.shown['labels_from'], c.shown['method.rho']) for c in settings}
  assert found == {
    ('', 0.2),
    ('', 0.1),
    ('same', 0.2),
    ('method.rho=0.1', 0.2),
  }
  assert all(len(setting.runs) == 2 for setting in settings)


def test_what_a_first_run_ignores_tells_no_settings_apart(tmp_path):
  """SGD with another m each."""
  for i, rho in enumerate((0.1, 0.2)):
    first = {'method.name': 'sgd', 'm': 4 + i, 'seed': i}
    made_up.write_run(tmp_path, f'first-{i}', [0.3], **first)
    source = str(tmp_path / f'first-{i}')
    made_up.write_run(
      tmp_path, f'sam-{i}', [0.2], labels_from=source, **{'method.rho': rho}
    )
  # Where the directory is moved, the first runs are moved with the others.
  moved = tmp_path.rename(tmp_path.with_name('moved'))
  settings = settings_lib.group(results.collect(moved).runs)
  by_name = {setting.runs[0].workdir.name: setting for setting in settings}
  found = [by_name[f'sam-{i}'].shown['labels_from'] for i in (0, 1)]
  assert found == ['method.name=sgd,method.rho=None'] * 2


@pytest.mark.parametrize('field', ['labels_from', 'init_from'])
def test_replicas_may_start_from_one_run(tmp_path, field):
  made_up.write_run(tmp_path, 'first', [0.3], **{'method.name': 'sgd'}, seed=7)
  for seed in (0, 7):
    fields = {'seed': seed, field: str(tmp_path / 'first')}
    made_up.write_run(tmp_path, f'second-{seed}', [0.2], **fields)
  settings = settings_lib.group(results.collect(tmp_path).runs)
  assert [len(setting.runs) for setting in settings] == [1, 2]
  assert settings[1].shown[field] == 'method.name=sgd'


def test_seeds_of_first_runs_tell_replicas_apart(tmp_path):
  for first in (0, 1):
    made_up.write_run(
      tmp_path, f'first-{first}', [0.5], **{'method.name': 'sgd'}, seed=first
    )
    source = str(tmp_path / f'first-{first}')
    made_up.write_run(
      tmp_path, f'second-{first}', [0.2 + first / 10], labels_from=source
    )
  settings = settings_lib.group(results.collect(tmp_path).runs)
  assert [(len(c.runs), len(c.repeated)) for c in settings] == [(2, 0), (2, 0)]


def test_a_seed_that_is_there_twice_counts_once(tmp_path):
  """As with SGD in a grid of m, or a setting in two directories."""
  for m in (2, 4, 8):
    for seed, error in ((0, 0.3), (1, 0.4)):
      fields = {'method.name': 'sgd', 'm': m, 'seed': seed}
      made_up.write_run(tmp_path, f'{m}-{seed}', [error], **fields)
  [setting] = settings_lib.group(results.collect(tmp_path).runs)
  assert (len(setting.runs), len(setting.repeated)) == (2, 4)
  # 30 and 40 %: the error of the mean is 5 %, t = 12.706.
  half_width = setting.estimate('final_score').half_width
  assert half_width == pytest.approx(0.05 * 12.7062, rel=1e-4)


def test_a_seed_of_the_data_is_no_replica_unless_it_is_said(tmp_path):
  for seed in (0, 1):
    made_up.write_run(tmp_path, f'{seed}', [0.5], **{'data.seed': seed})
  runs = results.collect(tmp_path).runs
  assert len(settings_lib.group(runs)) == 2
  assert len(settings_lib.group(runs, ('seed', 'data.seed'))) == 1


def test_operational_fields_make_no_settings(tmp_path):
  made_up.write_run(tmp_path, 'a', [0.5], seed=0)
  made_up.write_run(tmp_path, 'b', [0.5], seed=1, **{'log.every_steps': 7})
  runs = results.collect(tmp_path).runs
  [setting] = settings_lib.group(runs)
  assert setting.fields == {}


def test_mixed_versions_are_seen(tmp_path):
  made_up.write_run(tmp_path, 'a', [0.5], seed=0)
  other = made_up.VERSIONS | {'git_commit': 'b'}
  made_up.write_run(tmp_path, 'b', [0.5], seed=1, versions=other)
  [setting] = settings_lib.group(results.collect(tmp_path).runs)
  assert settings_lib.mixed(setting) == ['git_commit']
  made_up.write_run(
    tmp_path, 'c', [0.5], seed=2, versions={'starts': [made_up.VERSIONS, other]}
  )
  [*_, setting] = settings_lib.group(results.collect(tmp_path).runs, ('none',))
  assert settings_lib.mixed(setting) == ['git_commit']


def test_curves_are_means_over_the_seeds(tmp_path):
  made_up.write_run(tmp_path, 'a', [0.8, 0.4], seed=0)
  made_up.write_run(tmp_path, 'b', [0.6, 0.2], seed=1)
  [setting] = settings_lib.group(results.collect(tmp_path).runs)
  epochs, mean, half = settings_lib.curve(setting, 'test/error_rate')
  np.testing.assert_array_equal(epochs, [1, 2])
  np.testing.assert_allclose(mean, [0.7, 0.3])
  np.testing.assert_allclose(half, 12.7062 * 0.1, rtol=1e-4)


def test_a_field_that_only_follows_from_the_method_tells_nothing(tmp_path):
  """A run has the defaults of its method; one that varies within it counts."""
  sam = {'method.name': 'sam', 'method.rho': 0.1, 'method.p': 2.0}
  sgd = {'method.name': 'sgd'}
  for name, fields in (('sgd', sgd), ('sam', sam)):
    made_up.write_run(tmp_path / 'two', name, [0.3], **fields)
  runs = results.collect(tmp_path / 'two').runs
  settings = settings_lib.group(runs)
  assert {tuple(sorted(c.fields)) for c in settings} == {
    ('method.name', 'method.rho')
  }
  for name, p in (('two', 2.0), ('three', 3.0)):
    fields = sam | {'method.p': p}
    made_up.write_run(tmp_path / 'within', name, [0.3], **fields)
  settings = settings_lib.group(results.collect(tmp_path / 'within').runs)
  assert sorted(c.fields['method.p'] for c in settings) == [2.0, 3.0]
