import errno
import json
import os

import pytest

from sam_jax.runs import seals


@pytest.fixture
def sealed(tmp_path):
  path = tmp_path / 'a.json'
  seals.write(path, {'x': [1, 2.5]}, 'run')
  return path


def test_what_is_sealed_comes_back(sealed):
  assert seals.open_sealed(sealed, 'run') == ({'x': [1, 2.5]}, 'run')


@pytest.mark.parametrize('run_id', ['rum', None])
def test_the_id_of_the_run_is_sealed_too(sealed, run_id):
  content = json.loads(sealed.read_text())
  content['seal']['run_id'] = run_id
  sealed.write_text(json.dumps(content))
  with pytest.raises(seals.Damaged, match='checksum does not fit'):
    seals.open_sealed(sealed)


def test_no_file_stands_in_for_another(sealed):
  other = sealed.rename(sealed.with_name('b.json'))
  with pytest.raises(seals.Damaged, match='checksum does not fit'):
    seals.open_sealed(other)


@pytest.mark.parametrize(
  ('number', 'is_damage'),
  [(errno.EIO, True), (errno.EMFILE, False), (errno.ESTALE, False)],
)
def test_only_what_lasts_is_damage(sealed, monkeypatch, number, is_damage):
  inventory = seals.take_inventory(sealed.parent)

  def fail(*args, **kwargs):
    raise OSError(number, os.strerror(number), str(sealed))

  monkeypatch.setattr(seals.pathlib.Path, 'open', fail)
  monkeypatch.setattr(seals.pathlib.Path, 'read_text', fail)
  for look in (
    lambda: seals.read(sealed),
    lambda: seals.check_inventory(sealed.parent, inventory),
  ):
    with pytest.raises(seals.Damaged if is_damage else OSError) as raised:
      look()
    assert os.strerror(number) in str(raised.value)
    assert isinstance(raised.value, seals.Damaged) == is_damage


@pytest.mark.parametrize('size', [0, 1, 7, 8, 9, 16, 23])
def test_every_byte_of_every_part_counts(tmp_path, monkeypatch, size):
  monkeypatch.setattr(seals, '_PART_BYTES', 8)
  monkeypatch.setattr(seals, '_BUFFER_BYTES', 3)
  path, content = tmp_path / 'arrays', bytes(range(size))
  path.write_bytes(content)
  inventory = seals.take_inventory(tmp_path)
  seals.check_inventory(tmp_path, inventory)
  for place in range(size):
    changed = bytearray(content)
    changed[place] ^= 1
    path.write_bytes(changed)
    with pytest.raises(seals.Damaged, match='arrays is damaged'):
      seals.check_inventory(tmp_path, inventory)


def test_parts_in_another_order_are_damage(tmp_path, monkeypatch):
  monkeypatch.setattr(seals, '_PART_BYTES', 4)
  (tmp_path / 'arrays').write_bytes(b'abcdefgh')
  inventory = seals.take_inventory(tmp_path)
  (tmp_path / 'arrays').write_bytes(b'efghabcd')
  with pytest.raises(seals.Damaged, match='arrays is damaged'):
    seals.check_inventory(tmp_path, inventory)
