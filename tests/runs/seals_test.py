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
