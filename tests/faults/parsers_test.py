import pytest

from tests.faults import attempts, parsers

_COUNT = 200
# The largest sample has 60 KB; what a damaged header claims is up to gigabytes.
_MAX_GROWTH = 64 * 2**20


@pytest.mark.parametrize('name', parsers.PARSERS)
def test_a_damaged_file_is_read_or_refused_in_a_line(name, tmp_path):
  before = attempts.peak_memory()
  attack = parsers.attack(parsers.PARSERS[name], tmp_path, count=_COUNT)
  made = list(attack)
  assert [x.fault for x in made if x.fault] == []
  assert {x.outcome for x in made} == {'read', 'refused'}
  assert attempts.peak_memory() - before < _MAX_GROWTH


@pytest.mark.parametrize('name', parsers.PARSERS)
def test_what_is_whole_is_read(name, tmp_path):
  parser = parsers.PARSERS[name]
  path = tmp_path / parser.file
  for content in parser.samples():
    path.write_bytes(content)
    parser.parse(path)
