"""Damage to the files of runs that a report and a sweep read.

`mutations` yields changes of a directory with runs, in any number; each one is
a function of the directory, and is repeatable. `try_report` and `try_sweep` say
whether what reads the directory afterwards keeps its promise.
"""

import contextlib
import io
import json
import os
import pathlib
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

FILES = ('result.json', 'config.json', 'metrics.jsonl')
# In the place of a value, a line or a file.
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


class Mutation(NamedTuple):
  """A change of the files of runs.

  Attributes:
    name: what it does, for people.
    apply: does it in a directory with runs.
  """

  name: str
  apply: Callable[[pathlib.Path], None]


def mutations(seed: int, count: int) -> Iterator[Mutation]:
  """Yields that many mutations, the same ones for the same seed."""
  rng = random.Random(seed)
  kinds = (_replace, _cut, _flip, _change, _change, _change, _line, _place)
  for i in range(count):
    kind, name = rng.choice(kinds), rng.choice(FILES)
    own = rng.getrandbits(32)

    def apply(directory, kind=kind, name=name, own=own):
      rng = random.Random(own)
      runs = sorted(path.parent for path in directory.rglob('config.json'))
      kind(rng, rng.choice(runs) / name)

    yield Mutation(f'{i}: {kind.__name__[1:]} {name} ({own})', apply)


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
  """Changes, adds or removes a value somewhere in a JSON file."""
  if path.name == 'metrics.jsonl':
    return _line(rng, path)
  content = json.loads(path.read_text())
  place = content
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


def _line(rng, path):
  """Damages one line: another value, torn, doubled, moved, or missing."""
  lines = path.read_text().splitlines()
  i = rng.randrange(len(lines))
  action = rng.choice(('value', 'value', 'torn', 'double', 'remove', 'swap'))
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
  """Puts no file, a directory, a pipe or a link in the place of a file."""
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


# --- What has to hold --------------------------------------------------------


class Outcome(NamedTuple):
  """What a command said of a directory."""

  status: int
  out: str
  err: str


def report(directory: pathlib.Path) -> Outcome:
  """Runs the report of a directory in this process."""
  from sam_jax import report as command

  out, err = io.StringIO(), io.StringIO()
  argv = sys.argv
  sys.argv = ['report', str(directory)]
  try:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      command.cli()
  except SystemExit as stop:
    return Outcome(stop.code or 0, out.getvalue(), err.getvalue())
  finally:
    sys.argv = argv
  raise AssertionError('a command ends by an exit')


def broken(outcome: Outcome, damaged: str) -> str:
  """Returns how an outcome breaks the promise of a report, '' if it does not.

  Args:
    outcome: of the report.
    damaged: the run that was damaged, by the name of its directory.
  """
  if outcome.status == 2:
    return '' if outcome.err.count('\n') == 1 else f'not a line: {outcome.err}'
  if outcome.status or outcome.err:
    return f'status {outcome.status}: {outcome.err}'
  naming = [line for line in outcome.out.splitlines() if damaged in line]
  return '' if len(naming) <= 3 else f'{len(naming)} lines name the run'


def copy(directory: pathlib.Path, place: pathlib.Path) -> pathlib.Path:
  """Returns a fresh copy of a directory with runs."""
  shutil.rmtree(place, ignore_errors=True)
  return shutil.copytree(directory, place)
