"""A checkpoint as something to measure: its loss is that of the run."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sam_jax import analysis
from sam_jax.analysis import trained
from sam_jax.runs import factories, loading, metrics_log, workdir
from sam_jax.tasks import losses
from tests import tiny


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run with BatchNorm, dropout, noisy labels and a validation split."""
  directory = tmp_path_factory.mktemp('run')
  tiny.train(
    directory,
    **{
      'data.split': 'validation',
      'data.label_noise': 0.5,
      'checkpoint.every_steps': 5,
      'eval_train': True,
    },
  )
  return directory


def _logged(run, name):
  return [x[name] for x in metrics_log.read(run) if name in x][-1]


@pytest.mark.parametrize(
  ('split', 'name'),
  [('train', 'train_eval/loss'), ('validation', 'validation/loss')],
)
def test_the_loss_is_the_one_of_the_evaluation(run, split, name):
  model = analysis.load(run, split=split)
  expected = _logged(run, name)
  # Float32 sums, in another order.
  value = model.objective().value(model.params)
  assert value == pytest.approx(expected, rel=1e-5)
  both = model.objective(model.loss).value(model.variables)
  assert both == pytest.approx(expected, rel=1e-5)


def test_beyond_the_ends_of_a_line_no_variance_is_negative(run):
  model = analysis.load(run)
  moved = jax.tree.map(lambda x: -x, model.variables['batch_stats'])
  zero = jax.tree.map_with_path(
    lambda path, x: 0 * x if path[-1].key == 'var' else x, moved
  )
  objective = model.objective(model.loss)
  found = [
    objective.value({**model.variables, 'batch_stats': stats})
    for stats in (moved, zero)
  ]
  assert np.isfinite(found[0])
  assert found[0] == found[1]


def _by_batches(run, size):
  """The loss by batch statistics, dropout off, a microbatch at a time."""
  loaded = loading.restore(run)
  info = loaded.task.info
  train = factories.load_data(loaded.config).train
  model = loaded.task.model.clone(dropout_rate=0.0)
  found = []
  for start in range(0, len(train.labels) // size * size, size):
    images = jnp.float32(train.images[start : start + size]) / 255
    mean, std = (jnp.float32(info[name]) for name in ('mean', 'std'))
    images = (images - mean[None, None, None]) / std[None, None, None]
    logits, _ = model.apply(
      loaded.variables, images, train=True, mutable=['batch_stats']
    )
    labels = train.labels[start : start + size]
    found.append(np.mean(losses.cross_entropy(logits, labels)))
  return float(np.mean(found))


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('size', [None, 10])
def test_batch_statistics_are_those_of_microbatches_without_dropout(
  run, monkeypatch, size, devices
):
  tiny.use_devices(monkeypatch, devices)
  model = analysis.load(run, batch_norm='batch', microbatch_size=size)
  # 72 examples; the microbatch of the run has 2.
  assert len(model.examples.labels) == {None: 72, 10: 70}[size]
  expected = _by_batches(run, size or 2)
  value = model.objective().value(model.params)
  assert value == pytest.approx(expected, rel=1e-5)
  running = analysis.load(run)
  other = running.objective().value(running.params)
  assert abs(other - expected) > 1e-4


class _FlaxNorm(nn.Module):
  @nn.compact
  def __call__(self, images, *, train):
    x = nn.Dense(3)(images.reshape(images.shape[0], -1))
    return nn.BatchNorm(use_running_average=not train)(x)


class _FlaxNormByCall(nn.Module):
  @nn.compact
  def __call__(self, images, *, train):
    x = nn.Dense(3)(images.reshape(images.shape[0], -1))
    return nn.BatchNorm()(x, use_running_average=not train)


@pytest.mark.parametrize('module', [_FlaxNorm(), _FlaxNormByCall()])
def test_the_batch_norm_of_flax_is_switched_too(module):
  images = np.random.default_rng(0).normal(size=(8, 2, 2, 1))
  images = images.astype(np.float32)
  variables = module.init(jax.random.key(0), images, train=False)
  expected, _ = module.apply(
    variables, images, train=True, mutable=['batch_stats']
  )
  with nn.intercept_methods(trained._normalise_by_batch):
    found, _ = module.apply(
      variables, images, train=False, mutable=['batch_stats']
    )
  np.testing.assert_array_equal(found, expected)
  running = module.apply(variables, images, train=False)
  assert np.abs(running - expected).max() > 1e-2


def test_groups_are_disjoint_and_of_m(run):
  model = analysis.load(run)
  groups = [list(group()) for group in model.groups(10, seed=3)]
  assert len(groups) == 7
  seen = [b['image'].tobytes() for g in groups for b in _rows(g)]
  assert len(seen) == 70 and len(set(seen)) > 65
  again = [list(group()) for group in model.groups(10, seed=3, max_groups=2)]
  assert len(again) == 2
  np.testing.assert_array_equal(again[1][0]['label'], groups[1][0]['label'])
  other = list(model.groups(10, seed=4)[0]())
  assert (other[0]['image'] != groups[0][0]['image']).any()


def _rows(group):
  return [
    {k: v[i] for k, v in batch.items()}
    for batch in group
    for i in range(len(batch['label']))
  ]


@pytest.mark.slow
def test_m_sharpness_does_not_depend_on_the_devices(run, monkeypatch):
  found = []
  for devices, size in ((8, 2), (1, 2), (1, 4)):
    tiny.use_devices(monkeypatch, devices)
    model = analysis.load(run, batch_norm='batch', microbatch_size=size)
    found.append(
      analysis.worst_case(
        model.objective(group_size=12),
        model.params,
        model.groups(12, max_groups=2),
        analysis.Ball(0.1),
      ).groups
    )
  np.testing.assert_allclose(found[0], found[1], atol=1e-5)
  # With batch statistics the microbatch belongs to the loss.
  assert np.abs(found[0] - found[2]).max() > 1e-4


def test_a_bound_takes_the_same_examples_for_every_checkpoint(run):
  models = [analysis.load(run, step, num_examples=9) for step in (5, 'last')]
  for model in models:
    assert len(model.examples.labels) == 9
  np.testing.assert_array_equal(*(m.examples.images for m in models))
  assert models[0].digest() != models[1].digest()
  assert models[0].digest() != analysis.load(run, 5, num_examples=8).digest()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'split': 'tset'}, "unknown split 'tset'"),
    ({'batch_norm': 'mean'}, "unknown batch_norm 'mean'"),
    ({'num_examples': 0}, 'number of examples is 0'),
    ({'microbatch_size': 0}, 'the microbatch size is 0'),
    (
      {'batch_norm': 'batch', 'microbatch_size': 100},
      r'size is 100; it must be in \[1, 72\]',
    ),
  ],
)
def test_what_is_not_allowed_is_refused(run, options, message):
  with pytest.raises(ValueError, match=message):
    analysis.load(run, **options)


def test_groups_that_do_not_fit_are_refused(run):
  model = analysis.load(run, batch_norm='batch', microbatch_size=4)
  with pytest.raises(ValueError, match='m is 73'):
    model.groups(73)
  with pytest.raises(ValueError, match='m is 10.* no multiple .* of 4'):
    model.groups(10)


def test_a_run_that_trained_on_the_validation_examples_is_refused(
  run, tmp_path
):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  config = workdir.read_config(tmp_path)
  assert config.data.split == 'validation'
  config.data.split = 'test'
  workdir.write_config(tmp_path, config)
  with pytest.raises(ValueError, match='trained on the validation examples'):
    analysis.load(tmp_path, split='validation')
