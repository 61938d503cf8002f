"""Damages of a run directory: of its newest checkpoint, and of other files."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from sam_jax.runs import seals, workdir as workdir_lib
from tests.faults import mutations

# Steps of the checkpoints of the run that is damaged, of 10 steps in all.
STEPS = (4, 6, 8)


def damage_checkpoint(run_directory: pathlib.Path, seed: int) -> str:
  """Damages the newest checkpoint of a run; says what was done."""
  rng = np.random.default_rng(seed)
  directory = run_directory / 'checkpoints'
  newest = max(int(p.name) for p in directory.iterdir() if p.name.isdecimal())
  # Most damage is that of one file.
  kinds = [*_OF_A_FILE] * 3 + [*_OF_A_CHECKPOINT]
  kind = kinds[rng.integers(len(kinds))]
  if kind in _OF_A_CHECKPOINT:
    _OF_A_CHECKPOINT[kind](directory / str(newest))
    return kind
  files = sorted(p for p in (directory / str(newest)).rglob('*') if p.is_file())
  path = files[rng.integers(len(files))]
  _OF_A_FILE[kind](path, rng)
  return f'{path.relative_to(directory)}: {kind}'


def _mutate(path: pathlib.Path, rng: np.random.Generator) -> None:
  path.write_bytes(mutations.damaged(path.read_bytes(), rng))


def _flip(path: pathlib.Path, rng: np.random.Generator) -> None:
  content = bytearray(path.read_bytes() or b'\0')
  content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
  path.write_bytes(content)


def _truncate(path: pathlib.Path, rng: np.random.Generator) -> None:
  os.truncate(path, int(rng.integers(path.stat().st_size + 1)))


def _zero(path: pathlib.Path, rng: np.random.Generator) -> None:
  """A file as a power cut leaves it whose content was not synced."""
  path.write_bytes(bytes(path.stat().st_size))


def _empty(path: pathlib.Path, rng: np.random.Generator) -> None:
  path.write_bytes(b'')


def _delete(path: pathlib.Path, rng: np.random.Generator) -> None:
  path.unlink()


def _delete_directory(path: pathlib.Path, rng: np.random.Generator) -> None:
  shutil.rmtree(path.parent)


def _make_directory(path: pathlib.Path, rng: np.random.Generator) -> None:
  path.unlink()
  path.mkdir()


def _make_pipe(path: pathlib.Path, rng: np.random.Generator) -> None:
  path.unlink()
  os.mkfifo(path)


def _dangle(path: pathlib.Path, rng: np.random.Generator) -> None:
  path.unlink()
  path.symlink_to(path.with_name('nowhere'))


def _take_from_older(path: pathlib.Path, rng: np.random.Generator) -> None:
  """The file of the same name, or the same size, of an older checkpoint."""
  newest = next(p for p in path.parents if p.parent.name == 'checkpoints')
  other = newest.with_name(str(STEPS[0])) / path.relative_to(newest)
  if not other.exists():
    sizes = {p: p.stat().st_size for p in other.parent.iterdir() if p.is_file()}
    other = min(sizes, key=lambda p: abs(sizes[p] - path.stat().st_size))
  shutil.copy(other, path)


def _add_stray(path: pathlib.Path, rng: np.random.Generator) -> None:
  path.with_name(f'{path.name}.orig').write_bytes(path.read_bytes())


_OF_A_FILE: dict[str, Callable[[pathlib.Path, np.random.Generator], None]] = {
  'mutated': _mutate,
  'a bit flipped': _flip,
  'truncated': _truncate,
  'filled with zeros': _zero,
  'emptied': _empty,
  'deleted': _delete,
  'its directory deleted': _delete_directory,
  'made a directory': _make_directory,
  'made a pipe': _make_pipe,
  'made a dangling link': _dangle,
  'taken from an older checkpoint': _take_from_older,
  'copied beside': _add_stray,
}


def _older(newest: pathlib.Path, step: int = STEPS[-2]) -> pathlib.Path:
  return newest.with_name(str(step))


def _empty_it(newest: pathlib.Path) -> None:
  shutil.rmtree(newest)
  newest.mkdir()


def _file_it(newest: pathlib.Path) -> None:
  shutil.rmtree(newest)
  newest.write_text('')


def _replace_it(newest: pathlib.Path) -> None:
  shutil.rmtree(newest)
  shutil.copytree(_older(newest), newest)


def _rename_older(newest: pathlib.Path) -> None:
  shutil.rmtree(newest)
  _older(newest).rename(newest)


def _reseal(newest: pathlib.Path) -> None:
  """A checkpoint of that step, of another run."""
  path = newest / 'checkpoint.json'
  content, _ = seals.open_sealed(path)
  seals.write(path, content, 'another run')


def _take_progress(newest: pathlib.Path) -> None:
  shutil.copy(_older(newest) / 'checkpoint.json', newest / 'checkpoint.json')


def _take_arrays(newest: pathlib.Path) -> None:
  shutil.rmtree(newest / 'state')
  shutil.copytree(_older(newest) / 'state', newest / 'state')


def _link_older(newest: pathlib.Path) -> None:
  shutil.rmtree(newest)
  newest.symlink_to(_older(newest))


def _link_loop(newest: pathlib.Path) -> None:
  shutil.rmtree(newest)
  newest.symlink_to(newest)


_OF_A_CHECKPOINT: dict[str, Callable[[pathlib.Path], None]] = {
  'the newest deleted': shutil.rmtree,
  'the newest emptied': _empty_it,
  'the newest made a file': _file_it,
  'the newest replaced by an older one': _replace_it,
  'an older one renamed to the newest': _rename_older,
  'the newest of another run': _reseal,
  'checkpoint.json of an older one': _take_progress,
  'the arrays of an older one': _take_arrays,
  'the newest a link to an older one': _link_older,
  'the newest a link to itself': _link_loop,
  'the newest renamed': lambda p: p.rename(p.with_name('9')),
  'the newest copied to a later step': lambda p: shutil.copytree(
    p, p.with_name('9')
  ),
  'an empty directory as the newest': lambda p: p.with_name('9').mkdir(),
  'a file as the newest': lambda p: p.with_name('9').touch(),
  'a half-written one': lambda p: p.with_name('9.partial').mkdir(),
  'an odd name': lambda p: p.with_name('009').mkdir(),
  'a digit of another script': lambda p: p.with_name('\u0669').mkdir(),
  'one that was set aside before': lambda p: (
    p.with_name('8.damaged').mkdir(),
    _empty_it(p),
  ),
}

# --- Damages of the other files ----------------------------------------------


def _edit_rows(edit: Callable[[list[bytes]], Any]) -> Callable[..., None]:
  """Returns a damage of the lines of metrics.jsonl."""

  def damage(directory: pathlib.Path) -> None:
    path = directory / 'metrics.jsonl'
    lines = path.read_bytes().splitlines(keepends=True)
    edit(lines)
    path.write_bytes(b''.join(lines))

  return damage


def _write(name: str, content: bytes) -> Callable[..., None]:
  """Returns a damage that writes a file."""
  return lambda directory: (directory / name).write_bytes(content)


def _make_directory_of(name: str) -> Callable[..., None]:
  """Returns a damage that makes a file a directory."""

  def damage(directory: pathlib.Path) -> None:
    (directory / name).unlink(missing_ok=True)
    (directory / name).mkdir()

  return damage


def _change_a_digit(name: str, key: str) -> Callable[..., None]:
  """Returns a damage that changes a number in a JSON file."""

  def damage(directory: pathlib.Path) -> None:
    content = json.loads((directory / name).read_text())
    content[key] += 1
    (directory / name).write_text(json.dumps(content))

  return damage


def _result_of(steps: int, run_id: str | None = None) -> Callable[..., None]:
  """Returns a damage that writes the result of another run."""

  def damage(directory: pathlib.Path) -> None:
    owner = run_id or workdir_lib.run_id(directory)
    seals.write(directory / 'result.json', {'steps': steps}, owner)

  return damage


def _cut_in_half(name: str) -> Callable[..., None]:
  """Returns a damage that leaves the first half of a file."""
  return lambda directory: os.truncate(
    directory / name, (directory / name).stat().st_size // 2
  )


_FOREIGN = b'{"step": 2, "epoch": 0.4, "step/loss": 9.0}\n'
_RUNNING = {
  'config.json is missing': lambda d: (d / 'config.json').unlink(),
  'config.json is empty': _write('config.json', b''),
  'config.json is torn': _cut_in_half('config.json'),
  'config.json is a list': _write('config.json', b'[1]'),
  'config.json is not UTF-8': _write('config.json', b'\xff\xfe{}'),
  'config.json nests deeply': _write('config.json', b'[' * 100_000),
  'config.json is a directory': _make_directory_of('config.json'),
  'config.json has another number': _change_a_digit('config.json', 'seed'),
  'metrics.jsonl is missing': lambda d: (d / 'metrics.jsonl').unlink(),
  'metrics.jsonl is empty': _write('metrics.jsonl', b''),
  'metrics.jsonl is a directory': _make_directory_of('metrics.jsonl'),
  'metrics.jsonl is not UTF-8': _write('metrics.jsonl', b'\xff\xfe\n' * 9),
  'metrics.jsonl is cut in half': _cut_in_half('metrics.jsonl'),
  'a torn row': _edit_rows(lambda x: x.insert(2, x[2][:20] + b'\n')),
  'a torn row in place of one': _edit_rows(
    lambda x: x.__setitem__(2, x[2][:20] + b'\n')
  ),
  'a row torn off at the end': _edit_rows(
    lambda x: x.__setitem__(-1, x[-1][:20])
  ),
  'a row after the last one': _edit_rows(lambda x: x.append(x[-1])),
  'a row twice': _edit_rows(lambda x: x.insert(2, x[2])),
  'all rows twice': _edit_rows(lambda x: x.extend(list(x))),
  'a row of another run': _edit_rows(lambda x: x.insert(2, _FOREIGN)),
  'a row changed': _edit_rows(lambda x: x.__setitem__(2, _FOREIGN)),
  'a line that is no row': _edit_rows(lambda x: x.insert(2, b'hello\n')),
  'a line that is not UTF-8': _edit_rows(lambda x: x.insert(2, b'\xff\n')),
  'an empty line': _edit_rows(lambda x: x.insert(2, b'\n')),
  'a row missing': _edit_rows(lambda x: x.pop(2)),
  'the last row missing': _edit_rows(lambda x: x.pop()),
  'rows in another order': _edit_rows(lambda x: x.insert(1, x.pop(4))),
  'checkpoints is a file': lambda d: (
    shutil.rmtree(d / 'checkpoints'),
    (d / 'checkpoints').touch(),
  ),
  'result.json of more steps': _result_of(12),
  'result.json of steps that were not made': _result_of(9),
}
_FINISHED = {
  'result.json is empty': _write('result.json', b''),
  'result.json is {}': _write('result.json', b'{}'),
  'result.json is a list': _write('result.json', b'[]'),
  'result.json is not JSON': _write('result.json', b'{"steps": 10'),
  'result.json is not UTF-8': _write('result.json', b'\xff'),
  'result.json nests deeply': _write('result.json', b'{"a":' * 100_000),
  'result.json is a directory': _make_directory_of('result.json'),
  'result.json has another number': _change_a_digit('result.json', 'steps'),
  'result.json of more steps, finished': _result_of(12),
  'result.json of another run': _result_of(10, 'another'),
  'result.json is config.json': lambda d: shutil.copy(
    d / 'config.json', d / 'result.json'
  ),
}
# By name; each takes a run directory. Those of a finished run come last.
OF_OTHER_FILES: dict[str, Callable[[pathlib.Path], Any]] = {
  **_RUNNING,
  **_FINISHED,
}


def needs_a_finished_run(name: str) -> bool:
  """Returns whether one of `OF_OTHER_FILES` is damage of a finished run."""
  return name in _FINISHED
