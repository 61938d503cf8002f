"""Data sets: what is loaded, how it is split, and what is refused."""

import gzip
import importlib.util
import re
import sys

import numpy as np
import pytest

from sam_jax import datasets
from sam_jax.datasets import (
  cifar,
  digits as digits_lib,
  fashion_mnist,
  registry,
  tfds_arrays,
)
from tests import image_files, originals, records, reference


@pytest.fixture(autouse=True)
def _own_table(monkeypatch):
  """What a test registers is gone afterwards."""
  monkeypatch.setattr(registry, '_LOADERS', dict(registry._LOADERS))


def _register(name='made', **changes):
  """Registers a data set of 40 + 20 examples, changed as told."""
  source = dict(
    train=originals.examples(40),
    test=originals.examples(20, seed=1),
    num_classes=10,
    mean=(0.5,),
    std=(0.25,),
    num_validation=4,
  )
  source.update(changes)

  @datasets.register(name)
  def load(directory, seed, *, option=0):
    del directory, seed, option
    return datasets.Source(**source)


def _same(a, b):
  return np.array_equal(a.images, b.images) and np.array_equal(
    a.labels, b.labels
  )


def _one_line(error):
  assert '\n' not in str(error.value)
  return str(error.value)


# Digits.


@pytest.mark.parametrize('seed', [0, 7])
def test_digits_are_split_into_1000_and_797_without_loss_or_repeat(seed):
  from sklearn import datasets as sklearn_datasets

  digits = datasets.create('digits', seed=seed)
  assert digits.train.images.shape == (1000, 8, 8, 1)
  assert digits.evaluation.images.shape == (797, 8, 8, 1)
  ours = np.concatenate([digits.train.images, digits.evaluation.images])
  labels = np.concatenate([digits.train.labels, digits.evaluation.labels])
  raw, raw_labels = sklearn_datasets.load_digits(return_X_y=True)
  # 255/16 steps are wider than 1, so rounding is undone exactly.
  restored = np.round(ours.reshape(-1, 64) * (16 / 255))
  rows = np.column_stack([labels, restored])
  expected = np.column_stack([raw_labels, raw])
  np.testing.assert_array_equal(
    rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)]
  )


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_every_split_of_the_digits_is_stratified(seed):
  tested = datasets.create('digits', seed=seed)
  held_out = datasets.create('digits', seed=seed, split='validation')
  splits = (
    tested.train,
    tested.evaluation,
    held_out.train,
    held_out.evaluation,
  )
  all_labels = np.concatenate([tested.train.labels, tested.evaluation.labels])
  shares = np.bincount(all_labels, minlength=10) / len(all_labels)
  assert [len(s.labels) for s in splits] == [1000, 797, 900, 100]
  for split in splits:
    counts = np.bincount(split.labels, minlength=10)
    # Both ends of a stretch are off by less than one example per class.
    assert np.abs(counts - shares * len(split.labels)).max() < 2


def test_the_seed_decides_on_the_split_of_the_digits():
  first, again, other = (datasets.create('digits', seed=s) for s in (3, 3, 4))
  assert _same(first.train, again.train)
  assert not _same(first.train, other.train)


def test_the_constants_of_the_digits_are_those_of_all_images():
  digits = datasets.create('digits')
  images = np.concatenate([digits.train.images, digits.evaluation.images]) / 255
  # Four decimals are stated.
  np.testing.assert_allclose(digits.mean[0], images.mean(), atol=5e-5)
  np.testing.assert_allclose(digits.std[0], images.std(), atol=5e-5)


def test_train_size_of_the_digits_moves_the_boundary():
  digits = datasets.create('digits', train_size=300, split='validation')
  assert len(digits.train.labels) == 270
  assert len(digits.evaluation.labels) == 30


@pytest.mark.parametrize(
  'arguments', [dict(train_size=1797), dict(train_size=0), dict(directory='x')]
)
def test_digits_refuse_what_they_cannot_do(arguments):
  with pytest.raises(ValueError) as error:
    datasets.create('digits', **arguments)
  assert next(iter(arguments)) in _one_line(error)


def test_digits_whose_file_is_elsewhere_are_read_by_scikit_learn(monkeypatch):
  ours, find_spec = digits_lib.read(), importlib.util.find_spec
  with monkeypatch.context() as patch:
    patch.setattr(
      importlib.util,
      'find_spec',
      lambda name, *at: None if name == 'sklearn' else find_spec(name, *at),
    )
    theirs = digits_lib.read()
  for mine, other in zip(ours, theirs, strict=True):
    assert mine.dtype == other.dtype
    np.testing.assert_array_equal(mine, other)


def test_digits_without_scikit_learn_say_how_to_install_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  with pytest.raises(
    ModuleNotFoundError, match=r"sklearn .*'sam_jax\[train\]'"
  ):
    datasets.create('digits')


# The official constants and boundaries.

_NUM_EXAMPLES = {
  'cifar10': dict(train=50000, test=10000),
  'cifar100': dict(train=50000, test=10000),
  'fashion_mnist': dict(train=60000, test=10000),
  'svhn_cropped': dict(train=73257, extra=531131, test=26032),
}
_PLACES = {'train': 0, 'extra': 1, 'test': 2}


def _numbered(name, split):
  """Images of 2x2 pixels, the first channel of which spells their number."""
  num = _NUM_EXAMPLES[name][split]
  numbers = np.arange(num, dtype=np.uint32) + (_PLACES[split] << 24)
  first = numbers.view(np.uint8).reshape(num, 2, 2, 1)
  channels = 1 if name == 'fashion_mnist' else 3
  images = np.repeat(first, channels, axis=-1)
  return datasets.Examples(images, np.zeros(num, np.int32))


def _numbers(examples):
  first = np.ascontiguousarray(examples.images[..., 0])
  return first.reshape(-1, 4).view(np.uint32)[:, 0]


def _expected_numbers(name, spec):
  """The numbers of the examples that 'train[:45000]' and the like mean."""
  split, start, stop = re.fullmatch(r'(\w+)(?:\[(\d*):(\d*)\])?', spec).groups()
  numbers = np.arange(_NUM_EXAMPLES[name][split]) + (_PLACES[split] << 24)
  return numbers[slice(*(int(x) if x else None for x in (start, stop)))]


@pytest.mark.parametrize('split', ['test', 'validation'])
@pytest.mark.parametrize('name', sorted(_NUM_EXAMPLES))
def test_constants_and_splits_are_the_official_ones(
  name, split, monkeypatch, tmp_path
):
  official = reference.load_json('data_constants.json')['datasets'][
    f'{"svhn" if name == "svhn_cropped" else name}'
    f'/{"valid" if split == "validation" else split}/host0_of_1'
  ]
  monkeypatch.setattr(fashion_mnist, 'DEBIAN_DIRECTORY', tmp_path)
  monkeypatch.setattr(
    tfds_arrays,
    'load',
    lambda name, splits, directory, alternative='': [
      _numbered(name, s) for s in splits
    ],
  )
  ours = datasets.create(name, split=split)
  # The stored constants went through float32.
  np.testing.assert_array_equal(
    np.float32(ours.mean), np.float32(official['mean'])
  )
  np.testing.assert_array_equal(
    np.float32(ours.std), np.float32(official['std'])
  )
  assert ours.num_classes == official['num_classes']
  assert len(ours.train.labels) == official['num_training_obs']
  *train, evaluation = [
    _expected_numbers(tfds_name, spec) for tfds_name, spec in official['splits']
  ]
  np.testing.assert_array_equal(_numbers(ours.train), np.concatenate(train))
  np.testing.assert_array_equal(_numbers(ours.evaluation), evaluation)


# IDX files.


@pytest.mark.parametrize('compressed', [False, True])
def test_idx_files_are_read_as_written(tmp_path, compressed):
  train, test = originals.write_fashion(tmp_path, compressed)
  fashion = datasets.create('fashion_mnist', directory=str(tmp_path))
  assert _same(fashion.train, train)
  assert _same(fashion.evaluation, test)
  assert fashion.train.labels.dtype == np.int32


@pytest.mark.parametrize('split', ['test', 'validation'])
def test_fashion_mnist_can_be_cut_to_its_first_examples(tmp_path, split):
  train, test = originals.write_fashion(tmp_path)
  made = datasets.create(
    'fashion_mnist', directory=str(tmp_path), train_size=20, split=split
  )
  kept = 20 if split == 'test' else 18
  first = datasets.Examples(train.images[:kept], train.labels[:kept])
  assert _same(made.train, first)
  held_out = datasets.Examples(train.images[18:20], train.labels[18:20])
  assert _same(made.evaluation, test if split == 'test' else held_out)
  with pytest.raises(ValueError, match=r'train_size is 31; .* in \[10, 30\]'):
    datasets.create('fashion_mnist', directory=str(tmp_path), train_size=31)


@pytest.mark.parametrize('compressed', [False, True])
@pytest.mark.parametrize('lost', [1, 4, 12, 2000])
def test_a_truncated_idx_file_is_refused(tmp_path, compressed, lost):
  originals.write_fashion(tmp_path, compressed)
  name = f'train-images-idx3-ubyte{".gz" * compressed}'
  path = tmp_path / name
  path.write_bytes(path.read_bytes()[:-lost])
  with pytest.raises(ValueError) as error:
    datasets.create('fashion_mnist', directory=str(tmp_path))
  message = _one_line(error)
  assert name in message
  assert f'expected {16 + 30 * 28 * 28}' in message
  if not compressed:
    assert f'got {16 + 30 * 28 * 28 - lost} bytes' in message


@pytest.mark.parametrize(
  ('data', 'words'),
  [
    (b'', 'got 0 bytes'),
    (b'\0\0\x08', 'got 3 bytes'),
    (b'\0\0\x08\x03\0\0\0\x1e', 'got 8 bytes'),
    (originals.idx(np.zeros(30, np.uint8)), 'expected at least 16'),
    (b'<html>Not found</html>', '3c68746d'),
  ],
)
def test_a_file_that_is_no_idx_file_is_refused(tmp_path, data, words):
  originals.write_fashion(tmp_path, compressed=False)
  (tmp_path / 'train-images-idx3-ubyte').write_bytes(data)
  with pytest.raises(ValueError) as error:
    datasets.create('fashion_mnist', directory=str(tmp_path))
  message = _one_line(error)
  assert 'train-images-idx3-ubyte' in message
  assert words in message


def test_a_file_that_is_no_gzip_stream_is_refused(tmp_path):
  originals.write_fashion(tmp_path, compressed=True)
  (tmp_path / 't10k-labels-idx1-ubyte.gz').write_bytes(b'<html></html>')
  with pytest.raises(ValueError) as error:
    datasets.create('fashion_mnist', directory=str(tmp_path))
  assert 't10k-labels-idx1-ubyte.gz is damaged: 13 bytes' in _one_line(error)


def test_labels_of_another_number_than_images_are_refused(tmp_path):
  originals.write_fashion(tmp_path, compressed=False)
  labels = np.zeros(29, np.uint8)
  (tmp_path / 'train-labels-idx1-ubyte').write_bytes(originals.idx(labels))
  with pytest.raises(ValueError) as error:
    datasets.create('fashion_mnist', directory=str(tmp_path))
  message = _one_line(error)
  assert '30 images' in message
  assert '29 labels' in message


@pytest.mark.parametrize('compressed', [False, True])
@pytest.mark.parametrize('shape', [(2**32 - 1,) * 3, (30, 0, 28), (0, 28, 28)])
def test_an_idx_header_that_claims_what_is_not_there_is_refused(
  tmp_path, compressed, shape
):
  """Nothing is allocated for a claim; without pixels there is no image."""
  originals.write_fashion(tmp_path, compressed)
  data = originals.idx(np.zeros((30, 28, 28), np.uint8))
  claimed = data[:4] + np.array(shape, '>u4').tobytes()
  claimed += data[16:] if all(shape) else b''
  name = f'train-images-idx3-ubyte{".gz" * compressed}'
  content = gzip.compress(claimed) if compressed else claimed
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError) as error:
    datasets.create('fashion_mnist', directory=str(tmp_path))
  assert name in _one_line(error)


def test_a_label_that_is_no_class_names_its_file(tmp_path):
  originals.write_fashion(tmp_path, compressed=False)
  labels = np.arange(30, dtype=np.uint8)
  (tmp_path / 'train-labels-idx1-ubyte').write_bytes(originals.idx(labels))
  with pytest.raises(ValueError, match=r'train-labels-idx1-ubyte.*label 29'):
    datasets.create('fashion_mnist', directory=str(tmp_path))
  originals.write_cifar(tmp_path, 'cifar10')
  path = tmp_path / 'data_batch_3.bin'
  path.write_bytes(path.read_bytes()[:3073] + b'\x0a' + bytes(3072))
  with pytest.raises(
    ValueError, match=r'data_batch_3.bin .*record 1 .*label 10'
  ):
    datasets.create('cifar10', directory=str(tmp_path))


def test_a_missing_idx_file_is_named(tmp_path):
  originals.write_fashion(tmp_path, compressed=False)
  (tmp_path / 't10k-images-idx3-ubyte').unlink()
  with pytest.raises(FileNotFoundError) as error:
    datasets.create('fashion_mnist', directory=str(tmp_path))
  assert 't10k-images-idx3-ubyte' in _one_line(error)


@pytest.mark.skipif(
  not fashion_mnist.DEBIAN_DIRECTORY.is_dir(),
  reason='the Debian package dataset-fashion-mnist is not installed',
)
def test_the_real_fashion_mnist_is_complete():
  fashion = datasets.create('fashion_mnist')
  assert np.bincount(fashion.train.labels).tolist() == [6000] * 10
  assert np.bincount(fashion.evaluation.labels).tolist() == [1000] * 10
  images = fashion.train.images
  assert images.shape == (60000, 28, 28, 1)
  # The official constants are those of MNIST; these are the true ones, as
  # published for Fashion-MNIST.
  np.testing.assert_allclose(images.mean() / 255, 0.2860, atol=1e-4)
  np.testing.assert_allclose(images.std() / 255, 0.3530, atol=1e-4)


# CIFAR's binary files.


_FOLDERS = {'cifar10': 'cifar-10-batches-bin', 'cifar100': 'cifar-100-binary'}


@pytest.mark.parametrize('parent', [False, True])
@pytest.mark.parametrize('name', sorted(_FOLDERS))
def test_cifar_files_are_read_as_written(tmp_path, name, parent):
  folder = tmp_path / _FOLDERS[name]
  train, test = originals.write_cifar(folder, name)
  cifar = datasets.create(name, directory=str(tmp_path if parent else folder))
  assert _same(cifar.train, train)
  assert _same(cifar.evaluation, test)
  assert cifar.train.labels.dtype == np.int32


@pytest.mark.parametrize('name', sorted(_FOLDERS))
def test_a_truncated_cifar_file_is_refused(tmp_path, name):
  originals.write_cifar(tmp_path, name)
  path = max(tmp_path.iterdir())
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError) as error:
    datasets.create(name, directory=str(tmp_path))
  message = _one_line(error)
  record = 3073 if name == 'cifar10' else 3074
  assert path.name in message
  assert f'got {4 * record - 1} bytes' in message
  assert f'multiple of the {record}' in message


def test_a_missing_cifar_file_is_named(tmp_path):
  originals.write_cifar(tmp_path, 'cifar10')
  (tmp_path / 'data_batch_3.bin').unlink()
  with pytest.raises(FileNotFoundError, match='data_batch_3.bin'):
    datasets.create('cifar10', directory=str(tmp_path))


# TensorFlow Datasets.


def _prepare_cifar10(directory, sizes=(('train', 12), ('test', 6))):
  """Prepares 12 + 6 images as array_record; returns what was stored."""
  stored = {
    split: originals.examples(num, size=32, channels=3, seed=num)
    for split, num in sizes
  }
  records.prepare(
    directory,
    'cifar10',
    {
      split: [
        (image_files.encode(image, 'PNG'), int(label))
        for image, label in zip(*examples[:2], strict=True)
      ]
      for split, examples in stored.items()
    },
    num_classes=10,
    shape=(32, 32, 3),
  )
  return stored


def test_a_prepared_set_is_read_without_tensorflow(tmp_path):
  stored = _prepare_cifar10(tmp_path)
  cifar = datasets.create('cifar10', directory=str(tmp_path))
  assert _same(cifar.train, stored['train'])
  assert _same(cifar.evaluation, stored['test'])
  assert cifar.train.images.dtype == np.uint8
  assert cifar.train.labels.dtype == np.int32
  assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize('pattern', ['*-train.array_record*', 'dataset_info*'])
def test_a_damaged_prepared_set_is_refused(tmp_path, pattern):
  _prepare_cifar10(tmp_path)
  [path] = tmp_path.rglob(pattern)
  content = path.read_bytes()
  middle = len(content) // 2
  path.write_bytes(content[:middle] + bytes(40) + content[middle + 40 :])
  with pytest.raises(ValueError) as error:
    datasets.create('cifar10', directory=str(tmp_path))
  message = _one_line(error)
  assert str(tmp_path) in message
  assert 'prepare it again' in message


def test_a_prepared_set_that_lacks_a_split_is_refused(tmp_path):
  _prepare_cifar10(tmp_path, sizes=(('train', 3),))
  with pytest.raises(FileNotFoundError, match='splits train, test') as error:
    datasets.create('cifar10', directory=str(tmp_path))
  assert str(tmp_path / 'cifar10') in _one_line(error)


@pytest.mark.parametrize(
  ('name', 'ways'),
  [
    ('cifar10', ['cifar-10-batches-bin']),
    ('cifar100', ['cifar-100-binary']),
    ('fashion_mnist', ['apt-get install dataset-fashion-mnist', 'IDX']),
    ('svhn_cropped', []),
  ],
)
def test_a_missing_set_says_where_it_looked_and_how_to_get_it(
  tmp_path, name, ways
):
  with pytest.raises(FileNotFoundError) as error:
    datasets.create(name, directory=str(tmp_path))
  message = _one_line(error)
  command = f'python -m sam_jax.prepare_data {name}'
  for words in [str(tmp_path / name), command, *ways]:
    assert words in message


@pytest.mark.parametrize('name', ['cifar10', 'svhn_cropped'])
def test_a_missing_set_in_the_default_directory_is_reported(
  tmp_path, name, monkeypatch
):
  from tensorflow_datasets.core import constants

  monkeypatch.setattr(constants, 'DATA_DIR', str(tmp_path))
  with pytest.raises(FileNotFoundError, match='sam_jax.prepare_data') as error:
    datasets.create(name)
  assert str(tmp_path) in _one_line(error)


# Splits and noise, for any data set.


def test_validation_examples_are_the_last_of_the_training_examples():
  _register()
  train = originals.examples(40)
  made = datasets.create('made', split='validation')
  assert _same(made.train, train.select(slice(36)))
  assert _same(made.evaluation, train.select(slice(36, None)))


def test_extra_examples_are_trained_on_and_never_held_out():
  extra = originals.examples(5, seed=9)
  _register(extra=extra)
  for split, num in (('test', 40), ('validation', 36)):
    made = datasets.create('made', split=split)
    assert len(made.train.labels) == num + 5
    np.testing.assert_array_equal(made.train.images[num:], extra.images)
    assert len(made.evaluation.labels) == (20 if split == 'test' else 4)


@pytest.mark.parametrize('split', ['test', 'validation'])
def test_label_noise_touches_training_labels_only(split):
  _register(extra=originals.examples(14, seed=9))
  clean = datasets.create('made', split=split)
  noisy = datasets.create('made', split=split, label_noise=0.5, seed=3)
  assert _same(noisy.evaluation, clean.evaluation)
  np.testing.assert_array_equal(noisy.train.images, clean.train.images)
  wrong = (noisy.train.labels != clean.train.labels).sum()
  # Of those that are trained on, the validation examples being cut off.
  assert wrong == (54 if split == 'test' else 50) // 2
  assert noisy.train.labels.dtype == np.int32


def test_the_seed_and_the_kind_decide_on_the_noise():
  _register()
  made = [
    datasets.create('made', label_noise=0.5, label_noise_kind=kind, seed=seed)
    for kind, seed in [
      ('symmetric', 0),
      ('symmetric', 0),
      ('symmetric', 1),
      ('uniform', 0),
    ]
  ]
  first, again, other_seed, other_kind = (m.train.labels for m in made)
  np.testing.assert_array_equal(first, again)
  assert (first != other_seed).any()
  assert (first != other_kind).any()


def test_classes_of_cifar100_are_mistaken_within_their_superclass():
  confusions = cifar.next_in_superclass()
  assert sorted(confusions) == sorted(confusions.values()) == [*range(100)]
  # Some of the numbers that the authors' files have for the names.
  number = {'apple': 0, 'mushroom': 51, 'orange': 53, 'pear': 57, 'pepper': 83}
  fruit = list(number.values())
  assert [confusions[i] for i in fruit] == fruit[1:] + fruit[:1]
  assert (confusions[98], confusions[2]) == (2, 11)  # woman, baby, boy


def test_asymmetric_noise_is_that_of_the_data_set():
  _register(confusions={3: 5})
  noisy, clean = (
    datasets.create(
      'made', label_noise=share, label_noise_kind='asymmetric'
    ).train.labels
    for share in (1.0, 0.0)
  )
  np.testing.assert_array_equal(noisy, np.where(clean == 3, 5, clean))
  digits = datasets.create(
    'digits', label_noise=1.0, label_noise_kind='asymmetric'
  )
  assert set(np.unique(digits.train.labels)) == {0, 1, 4, 5, 6, 7, 8, 9}


# What is refused.


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (dict(name='cifar'), ["'cifar'", 'cifar10', 'digits', 'made']),
    (dict(name='made', split='valid'), ["'valid'", 'validation']),
    (dict(name='made', size=3), ['size', 'option']),
    (dict(name='digits', option=3), ['option', 'train_size']),
    (dict(name='made', label_noise_kind='pair'), ["'pair'", 'symmetric']),
    (dict(name='made', label_noise=1.01), ['1.01', '[0, 1]']),
    (dict(name='made', label_noise=-0.1), ['-0.1', '[0, 1]']),
    (dict(name='made', label_noise=float('nan')), ['nan', '[0, 1]']),
  ],
)
def test_bad_arguments_are_refused_with_what_is_allowed(arguments, words):
  _register()
  with pytest.raises(ValueError) as error:
    datasets.create(**arguments)
  for word in words:
    assert word in _one_line(error)


@pytest.mark.parametrize(
  'arguments',
  [dict(split='valid'), dict(label_noise=2.0), dict(label_noise_kind='pair')],
)
def test_bad_arguments_are_refused_before_anything_is_loaded(arguments):
  @datasets.register('slow')
  def load(directory, seed):
    raise AssertionError('loaded')

  with pytest.raises(ValueError):
    datasets.create('slow', **arguments)


def test_options_of_a_user_defined_set_reach_its_loader():
  @datasets.register('sized')
  def load(directory, seed, *, size):
    assert (directory, seed) == ('here', 5)
    examples = originals.examples(10, size=size)
    return datasets.Source(examples, examples, 10, (0.5,), (0.5,))

  made = datasets.create('sized', directory='here', seed=5, size=6)
  assert made.train.images.shape == (10, 6, 6, 1)
  assert 'sized' in datasets.names()


def test_a_name_is_not_registered_twice():
  with pytest.raises(ValueError, match="'digits' is registered already"):
    _register('digits')


def test_a_set_without_validation_split_refuses_it():
  _register(num_validation=0)
  with pytest.raises(ValueError, match='no validation split'):
    datasets.create('made', split='validation')


@pytest.mark.parametrize('split', ['train', 'test', 'extra'])
@pytest.mark.parametrize('label', [-1, 10])
def test_a_label_out_of_range_is_named(split, label):
  examples = originals.examples(20)
  examples.labels[[7, 11]] = label
  _register(**{split: examples})
  with pytest.raises(ValueError) as error:
    datasets.create('made')
  message = _one_line(error)
  assert f'{split!r}: label {label} of example 7' in message
  assert '[0, 10)' in message


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    (dict(train=originals.examples(0)), 'n > 0'),
    (dict(test=originals.examples(20, size=5)), 'must agree'),
    (dict(mean=(0.5, 0.5)), 'per channel'),
    (
      dict(test=originals.examples(20)._replace(labels=np.zeros(19, np.int32))),
      r'int32 \[20\]',
    ),
    (
      dict(test=originals.examples(20)._replace(labels=np.zeros(20, np.int64))),
      r'int32 \[20\]',
    ),
    (
      dict(
        train=originals.examples(40)._replace(images=np.zeros((40, 4, 4, 1)))
      ),
      'must be uint8',
    ),
  ],
)
def test_arrays_of_the_wrong_form_are_refused(changes, words):
  _register(**changes)
  with pytest.raises(ValueError, match=words) as error:
    datasets.create('made')
  assert 'made' in _one_line(error)


def test_names_of_classes_are_as_many_as_classes():
  _register(classes=('a', 'b'))
  with pytest.raises(ValueError, match='2 names of classes for 10 classes'):
    datasets.create('made')


def test_classes_are_in_the_order_of_the_labels(tmp_path):
  originals.write_cifar(tmp_path, 'cifar100')
  classes = datasets.create('cifar100', directory=str(tmp_path)).classes
  assert len(classes) == 100
  assert [classes[label] for label in (0, 8, 99)] == [
    'apple',
    'bicycle',
    'worm',
  ]
  assert datasets.create('digits').classes[7] == '7'
  # The files may be of another set in this form.
  originals.write_fashion(tmp_path)
  fashion = datasets.create('fashion_mnist', directory=str(tmp_path))
  assert fashion.classes is None
