import shutil

import pytest

from tests.faults import damage, damaged_runs

_COUNT = 30
_READERS = ('last', 'best', damage.STEPS[-1])


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Run directories, one under way and one finished, and what they hold."""
  with damaged_runs.cheap():
    made = []
    for finished in (False, True):
      directory = tmp_path_factory.mktemp('run') / 'run'
      damaged_runs.make_run(directory, finished=finished)
      made.append((directory, damaged_runs.read_run(directory)))
    yield made


def _copy(runs, tmp_path, finished=False):
  """Returns a copy of a run directory, and what it holds."""
  directory, whole = runs[finished]
  return shutil.copytree(directory, tmp_path / 'run'), whole


@pytest.mark.parametrize('seed', range(_COUNT))
def test_a_damaged_checkpoint_is_skipped_or_refused_in_a_line(
  runs, tmp_path, seed
):
  directory, whole = _copy(runs, tmp_path)
  what = damage.damage_checkpoint(directory, seed)
  readers = (_READERS[seed % 3],)
  attempt = damaged_runs.check(directory, whole, what, readers)
  assert not attempt.fault


@pytest.mark.parametrize('name', damage.OF_OTHER_FILES)
def test_a_damaged_file_is_repaired_or_refused_in_a_line(runs, tmp_path, name):
  finished = damage.needs_a_finished_run(name)
  directory, whole = _copy(runs, tmp_path, finished)
  damage.OF_OTHER_FILES[name](directory)
  attempt = damaged_runs.check(directory, whole, name, ())
  assert not attempt.fault
