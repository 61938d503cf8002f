"""What counts as a class and as an image in folders that people have."""

import os
import socket
import unicodedata

import numpy as np
import PIL.Image
import pytest
from absl import logging

from sam_jax import datasets
from sam_jax.datasets import decoding
from tests import image_files

COMPOSED = 'café'
DECOMPOSED = unicodedata.normalize('NFD', COMPOSED)


@pytest.fixture
def root(tmp_path):
  return image_files.folder(tmp_path / 'data', {'train': 2, 'test': 1})


@pytest.fixture
def messages(monkeypatch):
  """What is said."""
  said = []
  monkeypatch.setattr(
    logging, 'warning', lambda text, *args: said.append(text % args)
  )
  return said


def _create(root):
  return datasets.create('image_folder', directory=str(root), image_size=8)


def _names(examples):
  images = examples.images
  return [images.file(i) for i in range(len(images))]


@pytest.mark.parametrize(
  ('suffix', 'kind', 'mode'),
  [
    ('.jfif', 'JPEG', 'RGB'),
    ('.jpe', 'JPEG', 'RGB'),
    ('.JPG', 'JPEG', 'RGB'),
    ('.avif', 'AVIF', 'RGB'),
    ('.jp2', 'JPEG2000', 'RGB'),
    ('.j2k', 'JPEG2000', 'RGB'),
    ('.pgm', 'PPM', 'L'),
    ('.pbm', 'PPM', '1'),
    ('.dib', 'DIB', 'RGB'),
    ('.mpo', 'MPO', 'RGB'),
    ('.apng', 'PNG', 'RGB'),
    ('.ico', 'ICO', 'RGB'),
    ('.pcx', 'PCX', 'RGB'),
    ('.qoi', 'QOI', 'RGB'),
    ('.sgi', 'SGI', 'RGB'),
    ('.tga', 'TGA', 'RGB'),
    ('.tiff', 'TIFF', 'RGB'),
    ('.webp', 'WEBP', 'RGB'),
  ],
)
def test_what_can_be_decoded_is_an_image(root, messages, suffix, kind, mode):
  image = PIL.Image.fromarray(image_files.pixels(0)).convert(mode)
  path = root / 'train' / 'red' / f'9{suffix}'
  path.write_bytes(image_files.encode(image, kind))
  assert f'train/red/9{suffix}' in _names(_create(root).train)
  assert decoding.decode(path.read_bytes()).shape[2] == 3
  assert not messages


def test_no_suffix_of_what_only_another_program_decodes_is_known():
  assert not decoding.suffixes() & {'.eps', '.ps', '.pdf', '.wmf', '.mpg'}
  with pytest.raises(decoding.UndecodableError, match='no image'):
    decoding.decode(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')


def test_litter_is_passed_over_in_silence(root, messages):
  image = (root / 'train' / 'red' / '000.jpg').read_bytes()
  expected = _names(_create(root).train)
  for place in (root / 'train', root / 'train' / 'red', root / 'test'):
    for name in (
      '@eaDir',
      '@Recycle',
      '#recycle',
      '$RECYCLE.BIN',
      '__MACOSX',
      '.ipynb_checkpoints',
      '.Trash-1000',
      'lost+found',
      'System Volume Information',
    ):
      (place / name).mkdir()
      (place / name / 'SYNOPHOTO_THUMB_M.jpg').write_bytes(image)
    for name in ('.DS_Store', 'Thumbs.db', 'desktop.ini', '._000.jpg'):
      (place / name).write_bytes(b'x')
  assert _names(_create(root).train) == expected
  assert not messages


def test_what_is_left_out_is_named_in_one_line(root, messages):
  red = root / 'train' / 'red'
  for name in ('a.txt', 'b.txt', 'c.heic', 'none'):
    (red / name).write_text('')
  image = (red / '000.jpg').read_bytes()
  (root / 'train' / 'stray.jpg').write_bytes(image)
  (red / 'gone.jpg').symlink_to('nowhere')
  (red / 'loop.jpg').symlink_to('loop.jpg')
  os.mkfifo(red / 'pipe.jpg')
  with socket.socket(socket.AF_UNIX) as server:
    server.bind(os.path.relpath(red / 'socket.jpg'))
    assert len(_names(_create(root).train)) == 8
  (message,) = messages
  assert message == (
    f'{root / "train"}: files are left out: 4 with a suffix that no image has '
    "(2 .txt, 1 .heic, 1 without one; such as 'red/a.txt'), 4 not regular "
    "(such as 'red/gone.jpg'), 1 in no class folder (such as 'stray.jpg')"
  )


def test_a_class_without_images_says_what_its_files_are(root, messages):
  for split in ('train', 'test'):
    (root / split / 'yellow').mkdir()
    (root / split / 'yellow' / '1.heic').write_text('')
  with pytest.raises(ValueError, match=r'yellow has no images.*1 \.heic.*jpg'):
    _create(root)


def test_names_that_differ_by_normalisation_are_one(root):
  (root / 'train' / 'red').rename(root / 'train' / DECOMPOSED)
  (root / 'test' / 'red').rename(root / 'test' / COMPOSED)
  data = _create(root)
  assert data.classes == ('blue', COMPOSED, 'green', 'grey')
  # Both in one split, as two systems leave it.
  (root / 'train' / COMPOSED).mkdir()
  extra = root / 'train' / COMPOSED / '9.jpg'
  extra.write_bytes((root / 'train' / 'blue' / '000.jpg').read_bytes())
  labels = _create(root).train.labels
  assert np.bincount(labels).tolist() == [2, 3, 2, 2]


def test_the_order_does_not_depend_on_the_normalisation(root):
  for i, accent in enumerate(('é', 'è', 'z', 'e')):
    for folder, form in (('red', 'NFC'), ('blue', 'NFD')):
      path = root / 'test' / folder / f'{i}'
      path = path.with_name(unicodedata.normalize(form, accent) + '.jpg')
      path.write_bytes((root / 'test' / 'red' / '000.jpg').read_bytes())
  names = [n.split('/')[1:] for n in _names(_create(root).evaluation)]
  red, blue = (
    [unicodedata.normalize('NFC', name) for c, name in names if c == colour]
    for colour in ('red', 'blue')
  )
  assert red == blue == sorted(red)


def test_a_folder_that_several_links_lead_to_is_visited_once(root, tmp_path):
  """Also where folders link to each other in every way."""
  image = (root / 'train' / 'red' / '000.jpg').read_bytes()
  rooms = [tmp_path / 'rooms' / str(i) for i in range(12)]
  for room in rooms:
    room.mkdir(parents=True)
    (room / 'x.jpg').write_bytes(image)
    for other in rooms:
      (room / f'to_{other.name}').symlink_to(other)
  (root / 'train' / 'red' / 'far').symlink_to(rooms[0])
  found = _names(_create(root).train)
  assert len(found) == 8 + len(rooms)
  assert 'train/red/far/to_1/x.jpg' in found


def test_a_link_does_not_lead_above_what_another_link_leads_to(root, tmp_path):
  image = (root / 'train' / 'red' / '000.jpg').read_bytes()
  inner = tmp_path / 'outer' / 'inner'
  inner.mkdir(parents=True)
  (inner / 'x.jpg').write_bytes(image)
  (inner.parent / 'y.jpg').write_bytes(image)
  (inner / 'up').symlink_to(inner.parent)
  (root / 'train' / 'red' / 'far').symlink_to(inner)
  found = _names(_create(root).train)
  assert [name for name in found if 'far' in name] == ['train/red/far/x.jpg']


def test_folders_may_be_deeper_than_python_calls(root):
  place, depth = root / 'train' / 'red', 1100
  at = os.open(place, os.O_RDONLY)
  for _ in range(depth):
    os.mkdir('d', dir_fd=at)
    at, old = os.open('d', os.O_RDONLY, dir_fd=at), at
    os.close(old)
  os.close(at)
  try:
    assert len(_create(root).train.labels) == 8
  finally:
    # pytest calls itself for each level when it clears old directories away,
    # which before Python 3.13 ends in a RecursionError in a later session.
    os.removedirs(os.path.join(place, *['d'] * depth))


def _add_a_level(root):
  for split in ('train', 'test'):
    (root / split).rename(root / 'x')
    (root / split).mkdir()
    (root / 'x').rename(root / split / 'images')


def _keep_one_class(root):
  for split in ('train', 'test'):
    for name in ('blue', 'green', 'grey'):
      (root / split / name).rename(root / f'{split}-{name}')


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (_add_a_level, "'images'.*folder level too many; the 4 folders in it"),
    (_keep_one_class, "one class only, 'red'.*folder level too many"),
  ],
)
def test_a_single_class_is_refused(root, change, words):
  change(root)
  with pytest.raises(ValueError, match=words):
    _create(root)
