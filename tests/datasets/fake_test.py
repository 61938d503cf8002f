"""Synthetic data: shaped like the originals, fixed by position, learnable."""

import pickle
import runpy
import sys

import numpy as np
import pytest

from sam_jax import configs, datasets
from sam_jax.datasets import decoding, fake, fingerprints
from sam_jax.runs import build, factories
from tests import tiny


@pytest.fixture(scope='module')
def cifar100():
  """All of it."""
  return datasets.create('fake_cifar100')


def test_arrays_are_like_cifars(cifar100):
  train, test = cifar100.train, cifar100.evaluation
  assert train.images.shape == (50_000, 32, 32, 3)
  assert test.images.shape == (10_000, 32, 32, 3)
  assert np.bincount(train.labels).tolist() == [500] * 100
  assert np.bincount(test.labels).tolist() == [100] * 100
  scaled = test.images[:1000] / 255
  np.testing.assert_allclose(scaled.mean((0, 1, 2)), cifar100.mean, atol=0.03)
  np.testing.assert_allclose(scaled.std((0, 1, 2)), cifar100.std, atol=0.03)
  assert set(cifar100.source.confusions) == set(range(100))
  assert fake.is_fake('fake_cifar100') and not fake.is_fake('cifar100')


def test_a_smaller_set_has_the_first_images_of_a_larger_one(cifar100):
  small = datasets.create('fake_cifar100', train_size=1500)
  for few, many in (
    (small.train, cifar100.train),
    (small.evaluation, cifar100.evaluation),
  ):
    count = len(few.labels)
    assert count == {50_000: 1500, 10_000: 300}[len(many.labels)]
    np.testing.assert_array_equal(few.images, many.images[:count])
    np.testing.assert_array_equal(few.labels, many.labels[:count])
  both = (cifar100.train.images[:300], small.evaluation.images)
  assert not (both[0] == both[1]).all((1, 2, 3)).any()


def test_the_images_are_the_same_on_every_machine():
  small = datasets.create('fake_cifar10', train_size=50)
  found = fingerprints.of(*small.train)
  assert found['contents'] == '3af1b6fa88d0e5d71fa9efb5be1b9145'
  assert found['labels'] == 'a79cf7395c417b5ca7de2084f3f14ff4'


def test_imagenets_files_are_made_when_they_are_read():
  imagenet = datasets.create('fake_imagenet', image_size=40)
  train, test = imagenet.train, imagenet.evaluation
  assert train.images.shape == (1_281_167, 40, 40, 3)
  assert len(test.labels) == 50_000
  assert np.bincount(test.labels).tolist() == [50] * 1000
  few = train.select(np.array([3, 1_281_166, 40_000]))
  copied = pickle.loads(pickle.dumps(few.images))  # as for another process
  contents = [few.images.read(i) for i in range(3)]
  assert contents == [copied.read(i) for i in range(3)]
  sizes = {decoding.dimensions(content) for content in contents}
  assert len(sizes) == 3
  assert all(160 <= side < 400 for size in sizes for side in size)
  (batch,) = datasets.eval_batches(few, 4)
  assert batch['image'].shape == (4, 40, 40, 3)
  np.testing.assert_array_equal(
    batch['image'][1], decoding.center_crop(contents[1], 40)
  )


def _colours(examples):
  """Mean colours of the images of the first 20 classes, and their labels."""
  few = examples.select(np.flatnonzero(examples.labels < 20))
  (batch,) = datasets.eval_batches(few, len(few.labels))
  return batch['image'].mean((1, 2)), few.labels


# The nearest of the mean colours, which is the least that a network finds.
@pytest.mark.parametrize(
  ('name', 'options', 'chance'),
  [
    ('fake_cifar10', {'train_size': 1000}, 0.1),
    ('fake_cifar100', {'train_size': 2000}, 0.05),
    ('fake_imagenet', {'train_size': 10_000, 'image_size': 8}, 0.05),
  ],
)
def test_what_is_learnt_holds_for_images_that_were_not_seen(
  name, options, chance
):
  data = datasets.create(name, **options)
  colours, labels = _colours(data.train)
  means = np.stack(
    [colours[labels == i].mean(0) for i in range(max(labels) + 1)]
  )
  seen, answers = _colours(data.evaluation)
  distances = np.linalg.norm(seen[:, None] - means, axis=-1)
  found = np.argmin(distances, axis=1) == answers
  assert found.mean() > 5 * chance, found.mean()


@pytest.mark.slow
def test_a_small_network_learns_it_in_a_few_hundred_steps(
  monkeypatch, tmp_path
):
  tiny.use_devices(monkeypatch, 1)
  fields = {
    'method.name': 'sgd',
    'data.name': 'fake_cifar10',
    'data.train_size': 2000,
    'model.features': (16, 32),
    'model.hidden': 32,
    'batch_size': 32,
    'm': 32,
    'microbatch_size': 32,
    'num_steps': 200,
    'eval_every_epochs': 100,
    'checkpoint.every_steps': 200,
  }
  result = tiny.train(tmp_path, **tiny.PLAIN | fields)
  assert result['data'] == 'fake_cifar10'
  assert result['final_score'] < 0.75  # 0.9 is chance


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('fake_cifar10', {'directory': 'x'}, 'fake_cifar10 has no files.*None'),
    ('fake_cifar10', {'train_size': 9}, r'is 9; of fake_cifar10 .*10, 50000'),
    ('fake_cifar100', {'train_size': 50_001}, r'must be in \[10, 50000\]'),
    ('fake_imagenet', {'train_size': 1_281_168}, r'in \[10, 1281167\]'),
    ('fake_imagenet', {'image_size': 0}, 'image_size is 0'),
  ],
)
def test_what_there_is_not_is_refused(name, options, message):
  with pytest.raises(ValueError, match=message):
    datasets.create(name, **options)


@pytest.mark.parametrize(
  ('config', 'name'),
  [
    ('cifar10', 'fake_cifar10'),
    ('label_noise', 'fake_cifar10'),
    ('svhn', 'fake_cifar10'),
    ('cifar100', 'fake_cifar100'),
    ('imagenet', 'fake_imagenet'),
    ('imagenet_vit', 'fake_imagenet'),
    ('image_folder', 'fake_imagenet'),
    ('finetune', 'fake_imagenet'),
  ],
)
def test_every_config_takes_them_in_place_of_its_own(config, name):
  path = configs.find(config)
  loaded = runpy.run_path(path)['get_config']()
  loaded.data.update(name=name, train_size=100)
  for kind in ('symmetric', 'asymmetric')[: 2 - (name == 'fake_imagenet')]:
    loaded.data.label_noise_kind = kind
    dataset = factories.load_data(build.resolve(loaded, 1))
    assert (dataset.name, len(dataset.train.labels)) == (name, 100)


@pytest.mark.parametrize('module', ['cv2', 'PIL', 'simplejpeg'])
def test_what_could_not_be_decoded_is_refused_before_the_first_batch(
  monkeypatch, module
):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(
    ModuleNotFoundError, match=rf"{module} .*'sam_jax\[train\]'"
  ):
    datasets.create('fake_imagenet', train_size=10)
