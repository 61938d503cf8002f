import pytest

from tests.faults import sweep_files


@pytest.mark.parametrize('seed', range(2))
def test_a_damaged_run_is_reported_or_named(seed, tmp_path):
  made = list(sweep_files.attack(tmp_path, count=25, seed=seed))
  assert [x.fault for x in made if x.fault] == []
  assert {x.outcome for x in made} == {'named', 'reported'}
