"""Damage to the files of runs that sweeps and reports read; odd sweep files.

What reads a damaged directory says so in lines, and leaves out what it cannot
use; it never raises, hangs, or shows what is not there.
"""

import contextlib
import decimal
import io
import json
import os
import pathlib
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from sam_jax import configs
from sam_jax.sweeps import (
  cells as cells_lib,
  child,
  execution,
  pictures,
  results,
  sweep_files as user_files,
)
from tests import tiny
from tests.faults import attempts, mutations as mutations_lib
from tests.sweeps import made_up

FILES = ('result.json', 'config.json', 'metrics.jsonl')
# In the place of a value, and of a whole file.
_VALUES = (
  None, True, False, 0, -1, 1, 0.5, -0.0, 1e-320, 1e99, 1e308, 10**400,
  -(10**30), float('nan'), float('inf'), float('-inf'), '', 'a', 'sgd', 'NaN',
  '0.1', '$x^{$', 'a\nb', '\x00', '\ud800', 'é模', '../..', '/', '~', 'x' * 999,
  [], {}, [None], [1, [2]], {'a': {}}, {'a.b': 1}, [[]], [{}], {'': 0},
)  # fmt: skip
_CONTENTS = (
  b'', b' ', b'{}', b'[]', b'null', b'5', b'NaN', b'"a"', b'{', b'\xff\xfe\x00',
  b'\x00' * 100, b'{"a": 1}', b'[' * 5000, b'{"a":' * 3000, b'\xef\xbb\xbf{}',
  b'{"steps": 1e999}', b'1' * 5000, b'\n\n\n', b'{}\n{}\n', b'true\r\n[1]\n',
)  # fmt: skip
# A report that takes longer hangs. Far above what the slowest machine needs.
_HANGS = 120  # seconds


class Mutation(NamedTuple):
  """A change of the files of runs.

  Attributes:
    name: what it does, for people.
    apply: does it in a directory with runs; returns the run that it changed.
  """

  name: str
  apply: Callable[[pathlib.Path], pathlib.Path]


def mutations(seed: int, count: int) -> Iterator[Mutation]:
  """Yields that many mutations, the same ones for the same seed."""
  rng = random.Random(seed)
  kinds = (_replace, _cut, _flip, _change, _change, _change, _line, _place)
  for i in range(count):
    kind, name, own = rng.choice(kinds), rng.choice(FILES), rng.getrandbits(32)

    def apply(directory, kind=kind, name=name, own=own):
      rng = random.Random(own)
      runs = sorted(path.parent for path in directory.rglob('config.json'))
      run = rng.choice(runs)
      kind(rng, run / name)
      return run

    yield Mutation(f'{i} of seed {seed}: {kind.__name__[1:]} {name}', apply)


def _replace(rng, path):
  """Puts something else in the place of the whole content."""
  path.write_bytes(rng.choice(_CONTENTS))


def _cut(rng, path):
  """Leaves the beginning of a file, as a crash does."""
  content = path.read_bytes()
  path.write_bytes(content[: rng.randrange(len(content))])


def _flip(rng, path):
  """Flips a few bits."""
  content = bytearray(path.read_bytes())
  for _ in range(rng.choice((1, 1, 2, 10))):
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(bytes(content))


def _change(rng, path):
  """Changes, adds or removes a value somewhere."""
  if path.name == 'metrics.jsonl':
    return _line(rng, path)
  content = place = json.loads(path.read_text())
  while True:
    key = rng.choice(list(place))
    if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.3:
      break
    place = place[key]
  action = rng.choice(('set', 'set', 'set', 'remove', 'add'))
  if action == 'remove':
    del place[key]
  else:
    key = key if action == 'set' else rng.choice(('foreign', 'a.b', 'items'))
    place[key] = rng.choice(_VALUES)
  path.write_text(json.dumps(content))
  return None


def _line(rng, path):
  """Damages lines: another value, torn, doubled, missing, or moved."""
  lines = path.read_text().splitlines()
  i = rng.randrange(len(lines))
  action = rng.choice(('value', 'value', 'torn', 'double', 'remove', 'move'))
  if action == 'value' and path.name == 'metrics.jsonl':
    line = json.loads(lines[i])
    line[rng.choice(list(line))] = rng.choice(_VALUES)
    lines[i] = json.dumps(line)
  elif action == 'torn':
    lines[i] = lines[i][: rng.randrange(len(lines[i]))]
  elif action == 'double':
    lines.insert(rng.randrange(len(lines)), lines[i])
  elif action == 'remove':
    del lines[i]
  else:
    rng.shuffle(lines)
  path.write_text('\n'.join(lines) + '\n')


def _place(rng, path):
  """Puts nothing, a directory, a pipe or a link in the place of a file."""
  path.unlink()
  kind = rng.choice(('nothing', 'directory', 'pipe', 'loop', 'nowhere'))
  if kind == 'directory':
    path.mkdir()
  elif kind == 'pipe':
    os.mkfifo(path)
  elif kind == 'loop':
    path.symlink_to(path.name)
  elif kind == 'nowhere':
    path.symlink_to('gone')


# --- Attacks -----------------------------------------------------------------


def attack(
  directory: pathlib.Path, *, count: int, seed: int = 0, draw: bool = False
) -> Iterator[attempts.Attempt]:
  """Reports damaged runs and resumes their sweep, with one mutation each.

  Args:
    directory: to write to.
    count: how many mutations.
    seed: of the mutations.
    draw: whether the pictures are drawn, which takes most of the time.
  """
  intact, copy = directory / 'intact', directory / 'copy'
  cells = _write_runs(intact)
  for mutation in mutations(seed, count):
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(intact, copy)
    run = mutation.apply(copy)
    start = time.perf_counter()
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      outcome, fault = _attempt(copy, run, draw)
      fault = fault or _resume(copy, cells[run.name])
    seconds = time.perf_counter() - start
    if not fault and seconds > _HANGS:
      fault = f'it took {seconds:.0f} s'
    fault = fault and f'mutation {mutation.name}, run {run.name}: {fault}'
    yield attempts.Attempt(outcome, fault, seconds)


def _write_runs(directory):
  """Writes finished runs; returns their cells by name. Some need others."""
  directory.mkdir(parents=True)
  config = str(tiny.config_file(directory, schedule__name='constant'))
  first = cells_lib.product(
    {'config': [config]},
    [
      {'method.name': 'sgd'},
      {'method.name': 'sam', 'method.rho': 0.1},
      {'method.name': 'sam', 'method.rho': 0.2},
    ],
    {'seed': [0, 1]},
  )
  second = [cell | {'labels_from': cells_lib.Like({})} for cell in first[2:4]]
  cells = {cells_lib.cell_name(cell): cell for cell in first + second}
  for name, cell in cells.items():
    fields = cells_lib.fields(cell, directory)
    made_up.write_run(
      directory, name, [0.9, 0.4], schedule__name='constant', **fields
    )
  return cells


class _Place:
  """Where every cell that is started is stopped at once."""

  def __init__(self):
    self._started = []

  def has_room(self):
    return True

  def start(self, cell):
    self._started.append(cell)

  def ended(self):
    started, self._started = self._started, []
    return [(c, child.End(None, 'was stopped', False)) for c in started]


def _resume(directory, cell):
  """Resumes the sweep of a cell; returns what was wrong with that."""
  out = io.StringIO()
  try:
    with contextlib.redirect_stdout(out):
      status = execution.execute([cell], directory, _Place())
  except Exception as error:
    return f'sweep: {type(error).__name__}: {str(error)[:200]!r}'
  said = [line for line in out.getvalue().splitlines() if 'ed: ' in line]
  if status != 0 and not said:
    return 'sweep: the cell is not finished, and no line says why'
  return ''


def _attempt(directory, run, draw):
  """Returns what came of a report, and what was wrong with that."""
  try:
    results.fraction(run)  # as a sweep that is under way asks
    status, out, err = _report(directory, draw)
  except Exception as error:
    return 'raised', f'{type(error).__name__}: {str(error)[:200]!r}'
  if status != 0:  # there are other runs
    return 'refused', f'status {status}: {err!r}'
  if err:
    return 'reported', f'it says {err!r}'
  if not os.path.isfile(run / 'config.json') and run.name not in out:
    return 'reported', 'the run is gone without a word'
  is_named = 'warning: ' in out or 'are not finished' in out
  return 'named' if is_named else 'reported', ''


def _report(directory, draw):
  """Runs the report in this process; returns status, output and errors."""
  from sam_jax import report

  out, err = io.StringIO(), io.StringIO()
  with contextlib.ExitStack() as stack:
    stack.enter_context(contextlib.redirect_stdout(out))
    stack.enter_context(contextlib.redirect_stderr(err))
    stack.callback(setattr, sys, 'argv', sys.argv)
    sys.argv = ['report', str(directory)]
    if not draw:
      stack.callback(setattr, pictures, 'draw', pictures.draw)
      pictures.draw = lambda out, settings: []
    status = 0
    try:
      report.cli()
    except SystemExit as stop:
      status = stop.code or 0
  return status, out.getvalue(), err.getvalue()


# --- Sweep files of a user ---------------------------------------------------

_SOURCE = b"""from sam_jax.sweeps.cells import Like, Sweep, product

RHOS = (0.1, 0.2)
def get_sweep():
  cells = product([{'config': 'digits', 'method.name': 'sam'}],
                  {'method.rho': RHOS, 'seed': range(2)})
  cells += [cell | {'labels_from': Like({})} for cell in cells]
  return Sweep(cells, replicas=('seed',), smoke={'num_steps': 3})
"""


class _Hostile:
  """A value with which nothing can be done."""

  __hash__ = None

  def __eq__(self, other):
    raise RuntimeError('no comparison')

  __repr__ = __str__ = __bool__ = __eq__


def _odd_values():
  """Returns values that are no fields, cells, or sweeps."""
  circle: list = []
  circle.append(circle)
  tied = cells_lib.Like({})
  tied.changes['labels_from'] = tied
  return [
    *_VALUES,
    *(object, object(), len, {1, 2}, b'a', 1j, range(3), decimal.Decimal(1)),
    *(np.arange(3), np.float32('nan'), np.int64(3), np.str_('a'), iter([1])),
    *(pathlib.Path('a\udcff'), circle, tied, _Hostile(), (1, [2, (3,)])),
    *(cells_lib.Like(None), cells_lib.Like({'seed': 9}), (_ for _ in [{}])),
    *([{'config': 'digits'}] * 2, {'config': 'nowhere'}, {'seed': 1}),
  ]


def definition(key: int) -> object:
  """Returns a sweep with something odd in it, the same for the same key."""
  rng = random.Random(key)
  cells: list = cells_lib.product(
    {'config': ['digits'], 'method.rho': [0.1, 0.2], 'seed': [0, 1]}
  )
  parts: dict = {'cells': cells, 'replicas': ['seed'], 'paper': [], 'smoke': {}}
  cells.append(cells[0] | {'labels_from': cells_lib.Like({})})
  odd = _odd_values()
  for _ in range(rng.choice((1, 1, 2))):
    places = [(parts, name) for name in parts]
    places += [(cells, i) for i in range(len(cells))]
    cell = rng.choice(cells)
    if isinstance(cell, dict):
      places += [(cell, name) for name in (*cell, 'm', 'init_from')] * 4
      cell.pop(rng.choice([*cell, None]), None)
    where, name = rng.choice(places)
    where[name] = rng.choice(odd)
  return rng.choice(odd) if rng.random() < 0.05 else cells_lib.Sweep(**parts)


def attack_definitions(
  directory: pathlib.Path, *, count: int, seed: int = 0
) -> Iterator[attempts.Attempt]:
  """Loads sweep files of which the text, or what it returns, is damaged.

  Args:
    directory: to write to.
    count: how many files.
    seed: of what is wrong with them.
  """
  directory.mkdir(parents=True, exist_ok=True)
  path = directory / 'mine.py'
  rng = np.random.default_rng(seed)
  for i in range(count):
    text = mutations_lib.damaged(_SOURCE, rng)
    if i % 3:
      key = rng.integers(2**32)
      text = (
        'from tests.faults import sweep_files\n'
        f'def get_sweep():\n  return sweep_files.definition({key})\n'
      ).encode()
    path.write_bytes(text)
    start = time.perf_counter()
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      outcome, fault = _load(path)
    fault = fault and f'sweep file {i} of seed {seed}: {fault}'
    yield attempts.Attempt(outcome, fault, time.perf_counter() - start)


def _load(path):
  """Returns what came of a sweep file, and what was wrong with that."""
  out = io.StringIO()
  try:
    with contextlib.redirect_stdout(out):
      sweep = user_files.load(str(path), configs.find)
      names = {cells_lib.cell_name(cell) for cell in sweep.cells}
      cells_lib.chains(sweep.cells)
  except ValueError as error:
    return 'refused', '' if str(path) in str(error) else f'{error!r}'
  except Exception as error:
    return 'raised', f'{type(error).__name__}: {str(error)[:200]!r}'
  is_safe = all(len(n) <= 80 and '/' not in n and n.isascii() for n in names)
  is_unique = len(names) == len(sweep.cells)
  return 'loaded', '' if is_safe and is_unique else f'names {sorted(names)}'
