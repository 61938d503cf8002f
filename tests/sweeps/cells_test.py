"""Cells, their names, where they stand, and who runs them."""

import concurrent.futures
import errno
import json
import math
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest
import tiny

from sam_jax.sweeps import cells as cells_lib


def _cell(**fields):
  return {'config': 'configs/digits.py', **fields}


def test_a_product_has_every_combination_in_order():
  cells = cells_lib.product(
    {'config': ['a.py', 'b.py'], 'x': (1, 2)},
    [{'method.name': 'sgd'}, {'method.name': 'sam', 'x': 9}],
  )
  # What comes later wins.
  assert cells == [
    {'config': config, 'x': x if method == 'sgd' else 9, 'method.name': method}
    for config in ('a.py', 'b.py')
    for x in (1, 2)
    for method in ('sgd', 'sam')
  ]


def test_names_can_be_directories_and_tell_cells_apart():
  cells = [
    _cell(),
    _cell(seed=1),
    _cell(**{'method.rho': 0.1}),
    {'config': 'configs/digits.py:noisy'},
    _cell(init_from='/some where/else'),
  ]
  names = [cells_lib.cell_name(cell) for cell in cells]
  assert len(set(names)) == len(cells)
  assert all('/' not in name and ' ' not in name for name in names)
  # Where the data are makes no other run.
  moved = _cell(**{'data.directory': '/some where/else'})
  assert cells_lib.cell_name(moved) == names[0]


def test_arguments_are_those_of_the_command_line(tmp_path):
  cell = _cell(**{'method.rho': 0.1, 'seed': 3})
  assert cells_lib.arguments(cell, tmp_path) == [
    '--config=configs/digits.py',
    '--config.method.rho=0.1',
    '--config.seed=3',
    f'--workdir={tmp_path}/digits.py,method.rho=0.1,seed=3',
  ]


@pytest.mark.parametrize(
  ('cells', 'message'),
  [
    ([], 'no cells'),
    ([{'seed': 1}], "no 'config'"),
    ([_cell(seed=1), _cell(seed=1)], r'seed=1 is there twice'),
    ([_cell(init_from='x' * 240)], r'has 260 characters; .* at most 240'),
  ],
)
def test_a_sweep_that_cannot_be_is_refused(cells, message):
  with pytest.raises(ValueError, match=message):
    cells_lib.check(cells_lib.Sweep(cells))


def test_what_needs_another_cell_comes_behind_it():
  first = {'config': 'a.py', 'seed': 0}
  second = first | {'labels_from': cells_lib.Like({})}
  other = first | {'labels_from': cells_lib.Like({'seed': 1})}
  third = {'config': 'a.py', 'labels_from': cells_lib.Like(first)}
  assert cells_lib.needs(first) == []
  assert cells_lib.needs(second) == cells_lib.needs(third) == [first]
  assert cells_lib.needs(second | {'seed': None}) == [{'config': 'a.py'}]
  root = first | {'seed': 1}
  chains = cells_lib.chains([second, other, third, first, root])
  assert chains == [[root, other], [first, second, third]]
  with pytest.raises(ValueError, match='seed=0, which is not there'):
    cells_lib.check(cells_lib.Sweep([second]))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'sam.roh': 0.1}, r'digits\.py,sam\.roh=0\.1: Key "roh" does not exist'),
    ({'num_epochs': 2.5}, "Could not override field 'num_epochs'"),
  ],
)
def test_a_field_that_no_config_has_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    cells_lib.config(_cell(**fields), tiny.ROOT, tiny.ROOT)


def test_the_config_of_a_cell_is_what_the_command_line_makes(tmp_path):
  first = {
    'config': 'configs/digits.py:noisy',
    'method.rho': 1,
    'method.p': math.inf,
  }
  cell = first | {'labels_from': cells_lib.Like({})}
  config = cells_lib.config(cell, tmp_path, tiny.ROOT)
  assert (config.data.label_noise, config.method.rho) == (0.4, 1.0)
  assert config.method.p == math.inf
  assert config.labels_from == str(tmp_path / cells_lib.cell_name(first))


def test_a_pattern_takes_what_its_cells_need_too():
  first = [_cell(seed=seed) for seed in (0, 1)]
  second = [cell | {'labels_from': cells_lib.Like({})} for cell in first]
  third = [_cell(seed=7), _cell(seed=8)]
  cells = [*second, *first, *third]
  assert cells_lib.only(cells, '') == cells
  assert cells_lib.only(cells, r'seed=1,labels_from=same') == [
    second[1],
    first[1],
  ]
  with pytest.raises(ValueError, match="'rho' is found in none of 6 cells"):
    cells_lib.only(cells, 'rho')
  with pytest.raises(ValueError, match='nothing to repeat'):
    cells_lib.only(cells, '*')


def test_a_number_of_the_paper_means_runs_by_values_and_by_functions():
  paper = cells_lib.Paper({'labels_from': bool, 'method.rho': 0.1}, 4.6)
  assert paper.means({'labels_from': 'runs/a', 'method.rho': 0.1, 'seed': 3})
  assert not paper.means({'labels_from': '', 'method.rho': 0.1})
  assert not paper.means({'labels_from': 'runs/a', 'method.rho': 0.2})
  assert not paper.means({})


def test_the_share_of_a_run_that_is_made(tmp_path):
  assert cells_lib.fraction(tmp_path / 'none') == 0
  tiny.train(tmp_path / 'run', num_steps=4)
  run = tmp_path / 'run'
  assert cells_lib.fraction(run) == 1
  assert cells_lib.result(run)['steps'] == 4
  (run / 'result.json').unlink()
  assert cells_lib.result(run) is None
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  (run / 'metrics.jsonl').write_text(lines[0] + '\n')
  assert cells_lib.fraction(run) == 0.25
  (run / 'metrics.jsonl').write_text('')
  assert cells_lib.fraction(run) == 0
  (run / 'metrics.jsonl').write_text(lines[0] + '\n')
  (run / 'config.json').write_text('{')  # the run itself will say so
  assert cells_lib.fraction(run) == 0


# --- Claims ------------------------------------------------------------------


def _claim(directory, name='cell,x=0.1'):
  return cells_lib.Claim(directory, name)


@pytest.mark.parametrize('number', [errno.ENOENT, errno.ESTALE])
def test_a_claim_that_is_replaced_while_we_read_it_is_not_ours(
  monkeypatch, tmp_path, number
):
  """ESTALE is what NFS says then."""

  def read_text(path, encoding):
    raise OSError(number, os.strerror(number), str(path))

  late = _claim(tmp_path)
  assert _claim(tmp_path).take()
  monkeypatch.setattr(pathlib.Path, 'read_text', read_text)
  assert not late.take()


def test_a_cell_is_claimed_once_until_it_is_given_back(tmp_path):
  first, second, other = (
    _claim(tmp_path),
    _claim(tmp_path),
    _claim(tmp_path, 'cell,x=0'),
  )
  assert first.take()
  assert not second.take()
  assert other.take()
  assert first.renew()
  assert not second.renew()
  second.give_back()  # is not its own
  assert first.renew()
  first.give_back()
  assert not first.renew()
  assert second.take()
  second.give_back()
  other.give_back()
  # One file each, however often they change hands.
  assert len(list(tmp_path.iterdir())) == 2
  assert _claim(tmp_path).take()


@pytest.mark.parametrize('times', [1, 3])
def test_who_looked_before_a_claim_changed_hands_does_not_get_it(
  monkeypatch, tmp_path, times
):
  first, second, slow = (_claim(tmp_path) for _ in range(3))
  assert first.take()
  is_free, create = slow._is_free, slow._create

  def given_back(path):
    first.give_back()
    return is_free(path)

  def taken(path):
    for _ in range(times):
      second.give_back()
      assert second.take()
    return create(path)

  monkeypatch.setattr(slow, '_is_free', given_back)
  monkeypatch.setattr(slow, '_create', taken)
  assert not slow.take()
  assert second.renew()
  assert not slow.renew()
  assert len(list(tmp_path.iterdir())) == 1


def test_a_claim_is_kept_while_the_file_system_is_gone(monkeypatch, tmp_path):
  claim = _claim(tmp_path)
  assert claim.take()

  def stale(*args):
    raise OSError(116, 'Stale file handle')

  with monkeypatch.context() as patch:
    patch.setattr(cells_lib.os, 'utime', stale)
    assert claim.renew()
  assert claim.renew()


def _write(directory, **changes):
  """A claim that another process made."""
  assert _claim(directory).take()
  [path] = directory.iterdir()
  owner = json.loads(path.read_text()) | changes
  path.write_text(json.dumps(owner))
  return path


def test_the_claim_of_a_process_that_is_gone_is_free_at_once(tmp_path):
  done = subprocess.run([sys.executable, '-c', ''], check=True)
  assert done.returncode == 0
  _write(tmp_path, pid=2**22 + 1)
  assert _claim(tmp_path).take()


def test_nor_does_another_process_of_its_number_hold_it(tmp_path):
  _write(tmp_path, began='long ago')
  assert _claim(tmp_path).take()


@pytest.mark.parametrize(
  'machine', ['another', f'{socket.gethostname()} another-boot pid:[1]']
)
def test_the_claim_of_another_machine_is_free_when_it_is_old(tmp_path, machine):
  path = _write(tmp_path, machine=machine, pid=1)
  assert not _claim(tmp_path).take()
  now = path.stat().st_mtime
  os.utime(path, (now, now - cells_lib.STALE_SECONDS + 30))
  assert not _claim(tmp_path).take()
  os.utime(path, (now, now - cells_lib.STALE_SECONDS - 5))
  assert _claim(tmp_path).take()


def test_a_claim_that_a_power_cut_emptied_is_free_when_it_is_old(tmp_path):
  path = _write(tmp_path)
  path.write_text('')
  assert not _claim(tmp_path).take()
  now = path.stat().st_mtime
  os.utime(path, (now, now - cells_lib.STALE_SECONDS - 5))
  assert _claim(tmp_path).take()


def test_who_slept_too_long_learns_that_the_cell_is_anothers(tmp_path):
  first = _claim(tmp_path)
  assert first.take()
  [path] = tmp_path.iterdir()
  owner = json.loads(path.read_text())
  path.write_text(json.dumps(owner | {'began': 'before'}))
  second = _claim(tmp_path)
  assert second.take()
  assert not first.renew()
  first.give_back()
  assert second.renew()


def test_of_many_who_see_a_free_claim_one_gets_it(tmp_path):
  for attempt in range(20):
    directory = tmp_path / str(attempt)
    directory.mkdir()
    _write(directory, began='long ago')
    claims = [_claim(directory) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      taken = list(pool.map(cells_lib.Claim.take, claims))
    assert sum(taken) == 1


def test_of_many_who_take_and_give_back_one_has_it_at_a_time(tmp_path):
  holders, most = 0, 0
  lock = threading.Lock()

  def hold(claim):
    nonlocal holders, most
    for _ in range(20):
      if claim.take():
        with lock:
          holders += 1
          most = max(most, holders)
        time.sleep(0.001)
        with lock:
          holders -= 1
        claim.give_back()

  claims = [_claim(tmp_path) for _ in range(8)]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(hold, claims))
  assert most == 1
