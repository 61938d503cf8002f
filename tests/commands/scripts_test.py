"""The scripts that are no commands: benchmarks and pictures."""

import functools
import json
import re

import jax
import numpy as np
import pytest
from matplotlib import pyplot as plt

from sam_jax import datasets
from sam_jax.runs import build
from sam_jax.training import train_step
from tests import tiny


@pytest.fixture
def benchmark(command, monkeypatch, tmp_path):
  """Runs a benchmark on one device; returns its figures and its output."""
  tiny.use_devices(monkeypatch, 1)

  def run(name, *arguments):
    path = tmp_path / 'out.json'
    done = command(f'scripts.benchmark_{name}', *arguments, f'--json={path}')
    assert done.status == 0, done.err
    return json.loads(path.read_text()), done.out

  return run


@pytest.mark.slow
def test_the_analysis_benchmark_compares_a_product_with_a_gradient(benchmark):
  found, _ = benchmark(
    'analysis',
    *('--model=cnn', '--image_size=8', '--microbatch_size=8', '--rounds=2'),
  )
  assert (
    found['ratio']['min'] <= found['ratio']['median'] <= found['ratio']['max']
  )
  assert found['examples'] == 16


@pytest.mark.slow
def test_the_step_benchmark_compares_the_methods(benchmark):
  found, out = benchmark(
    'step',
    *('--model=cnn', '--batch_size=16', '--image_size=8'),
    *('--rounds=2', '--steps=1'),
  )
  rows = {row['method']: row for row in found['methods']}
  assert set(rows) == {'sgd', 'sam'}
  assert rows['sam']['flops'] == 2 * rows['sgd']['flops']
  assert re.search(r'^sam +[\d.-]+ +[\d.]+', out, re.M)


@pytest.mark.slow
def test_the_step_benchmark_takes_a_language_model(benchmark):
  found, _ = benchmark(
    'step',
    *('--model=gpt-tiny', '--batch_size=4', '--context_length=8'),
    *('--methods=sgd,quarter_sam', '--rounds=1', '--steps=1'),
  )
  assert found['parameters'] == 1_040_768 - 120 * 128
  flops = {row['method']: row['flops'] for row in found['methods']}
  # A quarter of the examples makes the perturbation.
  assert flops['quarter_sam'] == 1.25 * flops['sgd']


@pytest.mark.slow
def test_the_compilation_benchmark_measures_each_model(benchmark):
  found, _ = benchmark(
    'compile',
    *('--models=cnn', '--image_size=8'),
  )
  assert [row['model'] for row in found['models']] == ['cnn']
  for row in found['models']:
    parts = [row[f'{name}, s'] for name in ('trace', 'lower', 'compile')]
    assert row['total, s'] == pytest.approx(sum(parts))


@pytest.mark.slow
def test_the_input_benchmark_measures_each_recipe(benchmark):
  found, _ = benchmark(
    'input',
    *('--config=digits', '--rounds=1'),
    *('--steps=1', '--recipes=cutout+mixup'),
  )
  names = [row['recipe'] for row in found['recipes']]
  assert names == ['cutout+mixup']
  assert all(row['step, images/s'] > 0 for row in found['recipes'])


# What is drawn is what a group of the run sees, though less is augmented.
def test_the_augmentations_are_those_of_the_run(command, monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 1)
  fields = {
    'augmentation.name': 'basic',
    'augmentation.padding': 1,
    'augmentation.cutout_length': 2,
    'mixing.name': 'mixup',
    'batch_size': 24,
    'm': 12,
    'microbatch_size': 4,
    'num_steps': 9,
  }
  drawn, picture = [], tmp_path / 'grid.png'
  imshow = plt.Axes.imshow

  def keep(axes, image, **options):
    drawn.append((image, axes))
    return imshow(axes, image, **options)

  monkeypatch.setattr(plt.Axes, 'imshow', keep)
  done = command(
    'scripts.show_augmentations',
    f'--config={tiny.config_file(tmp_path, **fields)}',
    *('--rows=6', '--columns=2', '--step=3', f'--out={picture}'),
  )
  assert done.status == 0, done.err
  assert '6 examples of digits, stored and in steps 3 to 4' in done.out
  assert plt.imread(picture).ndim == 3
  config = tiny.config(**fields)
  experiment = build.build(config)
  batch = next(
    datasets.train_batches(
      experiment.dataset.train, 24, seed=config.seed, start_step=3
    )
  )
  group = {name: array[:12] for name, array in batch.items()}
  see = jax.jit(functools.partial(train_step.prepare, fns=experiment.fns))
  dataset = experiment.dataset
  images = [image for image, _ in drawn]
  np.testing.assert_array_equal(
    np.stack(images[:6]), batch['image'][:6, ..., 0] / 255
  )
  for column, step in ((1, 3), (2, 4)):
    inputs = jax.device_get(see(group, step))
    seen = inputs['image'].reshape(12, *batch['image'].shape[1:])[:6]
    expected = np.clip(seen * dataset.std + dataset.mean, 0, 1)[..., 0]
    found = np.stack(images[6 * column : 6 * column + 6])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    labels = inputs['label'].reshape(12, -1)[:6]
    for label, (_, axes) in zip(
      labels, drawn[6 * column : 6 * column + 6], strict=True
    ):
      classes = [
        int(c) for c in re.findall(r'(\d+)(?:,|:|$)', axes.get_title())
      ]
      assert int(np.argmax(label)) == classes[0]


def test_augmentations_of_an_unknown_recipe_are_not_drawn(command, tmp_path):
  picture = tmp_path / 'grid.png'
  done = command(
    'scripts.show_augmentations',
    '--config=digits',
    '--config.augmentation.name=autoagument',
    *('--config.batch_size=96', '--config.m=12'),
    *('--config.microbatch_size=12', f'--out={picture}'),
  )
  assert done.status == 2
  assert re.fullmatch(
    r"show_augmentations: unknown augmentation 'autoagument'.*\n", done.err
  )
  assert not picture.exists()
