"""A folder of class folders: found, labelled, split, or refused."""

import pathlib

import numpy as np
import pytest

from sam_jax import datasets
from sam_jax.datasets import fingerprints
from tests import image_files


def _create(directory, **arguments):
  return datasets.create('image_folder', directory=str(directory), **arguments)


def _names(examples):
  """Class folder and file of each image, by label."""
  paths = [
    pathlib.Path(examples.images.name(i)) for i in range(len(examples.labels))
  ]
  return [(p.parts[-2], p.name) for p in paths]


def test_classes_are_the_sorted_folders(tmp_path):
  image_files.folder(tmp_path, {'train': 5, 'test': 2})
  (tmp_path / 'train' / '.cache').mkdir()
  found = _create(tmp_path, image_size=16)
  assert found.num_classes == 4
  classes = ['blue', 'green', 'grey', 'red']
  for examples, size in ((found.train, 5), (found.evaluation, 2)):
    names = _names(examples)
    assert [classes[label] for label in examples.labels] == [
      c for c, _ in names
    ]
    assert sorted(names) == [
      (c, f'{i:03}.jpg') for c in classes for i in range(size)
    ]
    assert examples.images.shape == (4 * size, 16, 16, 3)
    assert examples.labels.dtype == np.int32
  assert found.mean == (0.485, 0.456, 0.406)


def test_deeper_files_count_and_those_that_are_no_images_do_not(tmp_path):
  image_files.folder(tmp_path, {'train': 2, 'test': 1})
  red = tmp_path / 'train' / 'red'
  (red / 'more').mkdir()
  image = (red / '000.jpg').read_bytes()
  (red / 'more' / 'deep.JPEG').write_bytes(image)
  (red / '.hidden.jpg').write_bytes(image)
  (red / 'notes.txt').write_text('of no use')
  (tmp_path / 'train' / 'list.csv').write_text('1')
  names = _names(_create(tmp_path).train)
  assert len(names) == 9
  assert ('more', 'deep.JPEG') in names


def test_links_are_followed_but_not_in_circles(tmp_path):
  root = image_files.folder(tmp_path / 'data', {'train': 2, 'test': 1})
  red, elsewhere = root / 'train' / 'red', tmp_path / 'elsewhere'
  elsewhere.mkdir()
  (elsewhere / 'far.jpg').write_bytes((red / '000.jpg').read_bytes())
  (red / 'far').symlink_to(elsewhere)
  for folder, target in ((red, red), (red, root / 'train'), (elsewhere, red)):
    (folder / f'to_{target.name}').symlink_to(target)
  assert sorted(n for n in _names(_create(root).train) if n[1] > '1') == [
    ('far', 'far.jpg')
  ]
  assert len(_create(root).train.labels) == 9


@pytest.mark.parametrize('name', ['val', 'validation', 'valid'])
def test_a_validation_folder_is_what_is_evaluated(tmp_path, name):
  image_files.folder(tmp_path, {'train': 5, 'test': 1, name: 2})
  test = _create(tmp_path)
  validation = _create(tmp_path, split='validation')
  assert len(test.evaluation.labels) == 4
  assert len(validation.evaluation.labels) == 8
  assert validation.evaluation.images.name(0).startswith(str(tmp_path / name))
  assert len(validation.train.labels) == 20


def test_a_validation_folder_serves_as_test_where_there_is_none(tmp_path):
  image_files.folder(tmp_path, {'train': 3, 'val': 2})
  assert len(_create(tmp_path).evaluation.labels) == 8


def test_without_one_a_tenth_is_held_out(tmp_path):
  image_files.folder(tmp_path, {'train': 10})
  with pytest.raises(ValueError, match='no test examples.*"validation"'):
    _create(tmp_path)
  splits = [
    _create(tmp_path, split='validation', seed=seed) for seed in (0, 0, 1)
  ]
  held_out = [_names(s.evaluation) for s in splits]
  assert [len(names) for names in held_out] == [4, 4, 4]
  assert held_out[0] == held_out[1] != held_out[2]
  for split in splits:
    train, evaluation = set(_names(split.train)), set(_names(split.evaluation))
    assert len(train) == 36
    assert not train & evaluation
  # Of several classes, though the files are sorted by class.
  assert len({c for names in held_out for c, _ in names}) > 1


def test_label_noise_is_that_of_arrays(tmp_path):
  image_files.folder(tmp_path, {'train': 25, 'test': 1})
  clean, noisy = (
    _create(tmp_path, label_noise=share).train.labels for share in (0, 0.4)
  )
  assert (clean != noisy).sum() == 40


def _make_empty_class(root):
  (root / 'train' / 'yellow').mkdir()
  (root / 'test' / 'yellow').mkdir()


def _make_class_of_text(root):
  _make_empty_class(root)
  for split in ('train', 'test'):
    (root / split / 'yellow' / 'readme.txt').write_text('soon')


def _make_other_class(root):
  (root / 'test' / 'red').rename(root / 'test' / 'rad')


def _remove_train(root):
  (root / 'train').rename(root / 'trian')


@pytest.mark.parametrize(
  ('spoil', 'error', 'message'),
  [
    (_make_empty_class, ValueError, 'train/yellow has no images; .*remove'),
    (_make_class_of_text, ValueError, r'yellow has no images.*\.jpg'),
    (_make_other_class, ValueError, "test does not have.*'rad'.* 2 such"),
    (_remove_train, FileNotFoundError, 'no folder train; put'),
  ],
)
def test_a_folder_that_is_not_as_it_should_be_is_refused(
  tmp_path, spoil, error, message
):
  image_files.folder(tmp_path, {'train': 1, 'test': 1})
  spoil(tmp_path)
  with pytest.raises(error, match=message) as raised:
    _create(tmp_path)
  assert '\n' not in str(raised.value)


def test_a_folder_without_classes_is_refused(tmp_path):
  (tmp_path / 'train').mkdir()
  with pytest.raises(ValueError, match='train has no folders'):
    _create(tmp_path)


def test_no_folder_is_refused():
  with pytest.raises(ValueError, match='needs data.directory'):
    datasets.create('image_folder')


def _domains(root, names):
  for name in names:
    image_files.folder(root / name, {'x': 2})
    (root / 'train').mkdir(exist_ok=True)
    (root / name / 'x').rename(root / 'train' / name)
  image_files.folder(root / 'unseen', {'x': 1})
  (root / 'test').mkdir()
  (root / 'unseen' / 'x').rename(root / 'test' / 'unseen')


def test_domains_are_a_level_of_folders_above_the_classes(tmp_path):
  _domains(tmp_path, ['sketch', 'photo'])
  found = _create(tmp_path, domains=True)
  assert found.domains == ('photo', 'sketch')
  assert found.classes == ('blue', 'green', 'grey', 'red')
  train = found.train
  for i, (label, domain) in enumerate(
    zip(train.labels, train.domains, strict=True)
  ):
    _, *place, _ = train.images.file(i).split('/')
    assert place == [found.domains[domain], found.classes[label]]
  assert np.bincount(train.domains).tolist() == [8, 8]
  assert found.evaluation.domains is None
  assert _names(found.evaluation)[0] == ('blue', '000.jpg')
  batch = next(datasets.train_batches(train, 4, seed=0))
  assert batch['domain'].shape == (4,)


def test_the_domain_of_an_example_belongs_to_the_fingerprint(tmp_path):
  _domains(tmp_path, ['a', 'b'])
  train = _create(tmp_path, domains=True).train
  swapped = train._replace(domains=1 - train.domains)
  first, second = (fingerprints.of(*t) for t in (train, swapped))
  assert first['labels'] != second['labels']
  assert first['contents'] == second['contents']


def test_domains_with_other_classes_are_refused(tmp_path):
  _domains(tmp_path, ['a', 'b'])
  (tmp_path / 'train' / 'b' / 'red').rename(tmp_path / 'elsewhere')
  with pytest.raises(
    ValueError, match=r"b does not .*train/a: 'red' is in one"
  ):
    _create(tmp_path, domains=True)
