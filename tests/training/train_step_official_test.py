"""The step against the numbers of the official release."""

import functools

import numpy as np
import pytest

from sam_jax import models
from tests import reference, steps, zoo

MLP_ATOL = 5e-6  # its README: float32 against float32 over six smooth steps

# The release with 4 devices, 4 examples each, whatever the devices are here:
# (devices, parallel, loop).
LAUNCHES = (
  (4, 'shard_map', 'unroll'),
  (2, 'pmap', 'scan'),
  (1, 'shard_map', 'vmap'),
)


def _configs(file):
  """Names in a file of configurations."""
  try:
    names = reference.load_json(file)
  except pytest.skip.Exception:
    return [pytest.param(file, marks=pytest.mark.skip('no reference data'))]
  # The larger of two decays shows more; the other one is for thorough runs.
  slow = [pytest.mark.slow]
  return [
    pytest.param(name, marks=slow if name.endswith('_wd0.0005') else [])
    for name in names
  ]


def _batches(arrays, prefix=''):
  return [
    {
      'image': arrays[f'{prefix}batch{i}/image'],
      'label': arrays[f'{prefix}batch{i}/label'].argmax(-1).astype(np.int32),
    }
    for i in range(sum(key.endswith('/image') for key in arrays))
  ]


def _variables(arrays, prefix=''):
  select = lambda name: reference.unflatten(
    reference.select(arrays, prefix + name)
  )
  return {'params': select('params'), 'batch_stats': select('state')}


def _options(config, release_devices):
  """Our options for flags of the release, on 16 examples per step."""
  shared = config['inner_group_size'] or release_devices
  optimizer = {
    'optimizer': 'rmsprop_tf',
    'optimizer_options': (('lr_in_momentum', False),),
  }
  return {
    **(optimizer if config['use_rmsprop'] else {}),
    'm': 16
    // release_devices
    * (shared if config['sync_perturbations'] else 1),
    'b': 16 // release_devices,
    'method': 'sam' if config['sam_rho'] else 'sgd',
    'rho': config['sam_rho'],
    'clipping': config['gradient_clipping'],
    'weight_decay': config['weight_decay'],
    'exclude': '(bias|scale)$' if config['no_weight_decay_on_bn'] else '',
    'label_smoothing': config['label_smoothing'],
    'schedule': 'cosine',
  }


def _expected(arrays, prefix):
  """Parameters (None if not stored) and our metrics, from a step's numbers.

  The release logs each device's loss and error of its last pass, and the
  gradient norm after clipping.
  """
  params = reference.select(arrays, f'{prefix}/params')
  metric = lambda name: arrays[f'{prefix}/metrics/{name}'].mean()
  metrics = {
    'loss': metric('train_loss'),
    'error_rate': metric('train_error_rate'),
    'clipped_gradient_norm': metric('gradient_norm'),
    'param_norm': metric('param_norm'),
    'learning_rate': arrays[f'{prefix}/lr'].mean(),
  }
  return reference.unflatten(params) if params else None, metrics


def _logged(metrics):
  """Our metrics by the release's meaning: those of the last pass."""
  return metrics | {
    name.removeprefix('perturbed_'): value
    for name, value in metrics.items()
    if name.startswith('perturbed_')
  }


def _mean_statistics(arrays, prefix):
  """The statistics of a step, averaged over the release's devices."""
  stored = reference.select(arrays, f'{prefix}/state')
  return reference.unflatten({k: v.mean(0) for k, v in stored.items()})


@functools.cache
def _load(name):
  return reference.load(name)


def _check_mlp(release_devices, name, devices, parallel_name, loop):
  arrays = _load(f'mlp_steps_d{release_devices}.npz')
  config = reference.load_json(f'mlp_configs_d{release_devices}.json')[name]
  walked = steps.run(
    steps.Mlp().apply,
    _variables(arrays, 'in/'),
    _batches(arrays, 'in/'),
    devices=devices,
    parallel_name=parallel_name,
    loop=loop,
    learning_rate=0.3,
    num_steps=12,
    **_options(config, release_devices),
  )
  assert len(walked) == 6
  for i, (state, metrics) in enumerate(walked):
    params, logged = _expected(arrays, f'{name}/step{i}')
    statistics = _mean_statistics(arrays, f'{name}/step{i}')
    assert steps.largest_difference(state.params, params) < MLP_ATOL
    assert steps.largest_difference(state.batch_stats, statistics) < MLP_ATOL
    actual = {key: _logged(metrics)[key] for key in logged}
    assert actual == pytest.approx(logged, abs=MLP_ATOL)


@pytest.mark.parametrize('name', _configs('mlp_configs_d1.json'))
def test_smooth_steps_of_one_device_are_the_releases(name):
  _check_mlp(1, name, 1, 'shard_map', 'unroll')


@pytest.mark.parametrize(
  'devices, parallel_name, loop',
  [
    LAUNCHES[0],
    *(pytest.param(*way, marks=pytest.mark.slow) for way in LAUNCHES[1:]),
  ],
)
@pytest.mark.parametrize('name', _configs('mlp_configs_d4.json'))
def test_smooth_steps_of_four_devices_are_the_releases_on_any_number(
  name, devices, parallel_name, loop
):
  _check_mlp(4, name, devices, parallel_name, loop)


@functools.cache
def _walk(options, devices, loop, num_steps):
  """Steps of the WideResNet; configurations that only differ in name share."""
  arrays = _load('step_inputs.npz')
  model = models.create('WideResnet_mini', num_classes=10)
  return steps.run(
    model.apply,
    _variables(arrays),
    _batches(arrays)[:num_steps],
    devices=devices,
    loop=loop,
    # The cosine starts at the constant rate of the single steps.
    learning_rate=0.1,
    num_steps=10,
    **dict(options),
  )


def _check_logged(metrics, logged, *, is_first):
  """Metrics of a ReLU network: tight at first, then rounding has grown."""
  actual = _logged(metrics)
  tolerances = {
    'loss': 1e-4 if is_first else 1e-2,
    'clipped_gradient_norm': 1e-2 if is_first else 5e-2,
    'param_norm': 1e-5 if is_first else 1e-4,
    'learning_rate': 1e-6,
  }
  for key, tolerance in tolerances.items():
    assert actual[key] == pytest.approx(logged[key], rel=tolerance), key
  if is_first:
    assert actual['error_rate'] == logged['error_rate']


def _check_wide_resnet(release_devices, name, devices, loop):
  """Tolerances are those of reference/README.md, measured on ReLU kinks.

  Rounding grows tenfold per step: permuting the examples within each batch,
  which is neutral on one device, moves the update after 5 steps by 23 %.
  """
  arrays = _load(f'step_d{release_devices}_{name}.npz')
  config = reference.load_json(f'step_configs_d{release_devices}.json')[name]
  options = tuple(sorted(_options(config, release_devices).items()))
  walked = _walk(options, devices, loop, 5 if 'traj' in name else 1)
  start = _variables(_load('step_inputs.npz'))['params']
  for i in range(config['steps']):
    params, logged = _expected(arrays, f'step{i}')
    _check_logged(walked[i].metrics, logged, is_first=i == 0)
    if params is not None:
      error = steps.update_error(start, walked[i].state.params, params)
      assert error < (0.5 if i else 3e-2)
    statistics = _mean_statistics(arrays, f'step{i}')
    if statistics:
      difference = steps.largest_difference(
        walked[i].state.batch_stats, statistics
      )
      assert difference < (5e-2 if i else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', _configs('step_configs_d1.json'))
def test_wide_resnet_steps_of_one_device_are_the_releases(name):
  _check_wide_resnet(1, name, 1, 'unroll')


@pytest.mark.slow
@pytest.mark.parametrize('name', _configs('step_configs_d4.json'))
def test_wide_resnet_steps_of_four_devices_are_the_releases_on_one(name):
  """Any other number computes the same: see the invariance."""
  _check_wide_resnet(4, name, 1, 'vmap')


def _check_shake_update(start, params, arrays):
  """Arrays that are stored in full, and a weighted sum of every array.

  The tolerance is that of reference/README.md, on the update.
  """
  start, params = reference.flatten(start), reference.flatten(params)
  stored = reference.select(arrays, 'step0/params')
  first, last = ({k: tree[k] for k in stored} for tree in (start, params))
  assert steps.update_error(first, last, stored) < 3e-2
  names, _, first = reference.grad_summary(start)
  assert names == arrays['step0/params_sum_names'].tolist()
  _, _, last = reference.grad_summary(params)
  assert steps.update_error(first, last, arrays['step0/params_sum_dot']) < 3e-2


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', ['WideResnet_ShakeShake_mini', 'Pyramid_ShakeDrop_mini']
)
def test_a_step_of_a_shake_model_is_the_releases(monkeypatch, name):
  """With the release's draws, the same in both passes."""
  arrays = reference.load(f'step_d1_shake_sam_{name}.npz')
  zoo.inject_gates(monkeypatch, reference.select(arrays, 'gates'))
  model = models.create(name, num_classes=10)
  batches = _batches(arrays)
  variables = zoo.hash_filled(
    model, batches[0]['image'].shape, arrays['fill_salt'], arrays['fill_gain']
  )
  # The file states no flags; these are those of the other single SAM steps.
  config = reference.load_json('step_configs_d1.json')['sam_sync']
  options = _options(config, 1) | {'m': 8, 'b': 8}
  (step,) = steps.run(model.apply, variables, batches, **options)
  _, logged = _expected(arrays, 'step0')
  _check_logged(step.metrics, logged, is_first=True)
  _check_shake_update(variables['params'], step.state.params, arrays)
  statistics = _mean_statistics(arrays, 'step0')
  difference = steps.largest_difference(step.state.batch_stats, statistics)
  assert difference < 1e-4
