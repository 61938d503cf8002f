"""What an interrupted analysis keeps, and what it shows."""

import re

import numpy as np
import pytest

from sam_jax import analysis
from sam_jax.analysis import pass_bar, store as store_lib
from tests import curved


def test_a_piece_is_computed_once(tmp_path):
  store, calls = store_lib.Store(tmp_path / 'pieces'), []

  def piece():
    calls.append(1)
    return {'x': np.arange(3), 'y': np.float64(0.1)}

  for _ in range(2):
    found = store('row-0', piece)
    np.testing.assert_array_equal(found['x'], [0, 1, 2])
    assert found['y'] == 0.1
  assert len(calls) == 1
  store.clear()
  assert not list(tmp_path.iterdir())


def test_an_interrupted_analysis_goes_on_and_finds_the_same(tmp_path):
  objective = curved.objective()
  whole = analysis.trace(objective, curved.PARAMS, 6)
  walks = []

  def stop_at_the_fourth(examples):
    walks.append(examples)
    if len(walks) == 4:
      raise KeyboardInterrupt

  store = store_lib.Store(tmp_path / 'pieces')
  interrupted = curved.objective(on_pass=stop_at_the_fourth)
  with pytest.raises(KeyboardInterrupt):
    analysis.trace(interrupted, curved.PARAMS, 6, unit=store)
  names = {p.name for p in (tmp_path / 'pieces').iterdir()}
  assert {n for n in names if n.endswith('.npz')} == {
    f'trace-{i}.npz' for i in range(3)
  }
  found = analysis.trace(interrupted, curved.PARAMS, 6, unit=store)
  np.testing.assert_array_equal(found.samples, whole.samples)
  # Four before, of which one is lost, and three now.
  assert len(walks) == 7


def test_lines_have_rate_and_time_left_without_a_terminal(capsys):
  shown = pass_bar.PassBar('run: trace', {'trace': (4, 1)}, seconds=0)
  shown.passed(100)
  shown.piece('trace-0', is_kept=True)
  shown.piece('trace-1', is_kept=False)
  shown.passed(100)
  shown.close()
  first, second = capsys.readouterr().out.splitlines()
  assert re.fullmatch(r'run: trace: 0%, \d+ examples/s', first)
  assert re.fullmatch(r'run: trace: 50%, \d+ examples/s, 0:00:0\d left', second)


def test_there_are_no_lines_before_their_time(capsys):
  shown = pass_bar.PassBar('run', {'row': (2, 1)}, seconds=60)
  for _ in range(5):
    shown.passed(1)
  assert capsys.readouterr().out == ''
