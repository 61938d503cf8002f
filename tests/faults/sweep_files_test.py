import pytest

from tests.faults import sweep_files


@pytest.mark.parametrize('seed', range(2))
def test_a_damaged_run_is_reported_or_named(seed, tmp_path):
  made = list(sweep_files.attack(tmp_path, count=25, seed=seed))
  assert [x.fault for x in made if x.fault] == []
  assert {x.outcome for x in made} == {'named', 'reported'}


def test_an_odd_sweep_file_is_loaded_or_refused_in_a_line(tmp_path):
  made = list(sweep_files.attack_definitions(tmp_path, count=300))
  assert [x.fault for x in made if x.fault] == []
  assert {x.outcome for x in made} == {'loaded', 'refused'}
