"""Damage of a run directory, and what readers and a start make of it.

Whatever happens to a file, a start resumes the run from a checkpoint that is
exactly as it was saved, with exactly the rows before it, and says what it had
to skip or repair; or it refuses in one line that names a file, and writes
nothing. The same holds for whoever only reads a checkpoint.
"""

import contextlib
import functools
import io
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from sam_jax.runs import (
  build,
  checkpoints as checkpoints_lib,
  journal as journal_lib,
  loading,
  metrics_log,
  preparation,
  seals,
  workdir as workdir_lib,
)
from tests import tiny
from tests.faults import attempts, mutations

STEPS = (4, 6, 8)  # of the checkpoints of the run, which is to make 10 steps
_LAST = 10
_FIELDS = tiny.PLAIN | {
  'model.norm': 'batch',
  'm': None,
  'microbatch_size': None,
  'checkpoint.max_to_keep': 3,
}


class Saved(NamedTuple):
  """What a start has to find of a checkpoint.

  Attributes:
    state: tree of arrays.
    remembered: by the journal.
    rows: of metrics.jsonl up to the checkpoint.
  """

  state: Any
  remembered: checkpoints_lib.JournalState
  rows: list[dict[str, Any]]


@functools.cache
def _experiment() -> build.Experiment:
  """The objects of the run, on one device."""
  return preparation.prepare(tiny.config(**_FIELDS)).experiment


@contextlib.contextmanager
def cheap() -> Iterator[None]:
  """Lets all starts share the objects of the run."""
  one = jax.devices()[:1]
  with (
    mock.patch.object(jax, 'devices', lambda: one),
    mock.patch.object(jax, 'device_count', lambda: 1),
  ):
    made = _experiment()
    with mock.patch.object(preparation.build, 'build', lambda *_: made):
      yield


def make_run(directory: pathlib.Path, *, finished: bool = False) -> None:
  """Makes a run directory without a training step.

  Args:
    directory: to make.
    finished: whether the run has made all its steps.
  """
  steps = (*STEPS, _LAST) if finished else STEPS
  with preparation.begin(tiny.config(**_FIELDS), directory) as begun:
    journal = journal_lib.Journal(
      begun.config, begun.experiment, directory, checkpoints_lib.JournalState()
    )
    saved = _open(directory, max_to_keep=3)
    with contextlib.closing(saved), contextlib.closing(journal):
      for step in range(1, steps[-1] + 1):
        _make_step(journal, step)
        if step in steps:
          journal.sync(step)
          state = _state(begun.state, step)
          saved.save(state, journal.state, begun.experiment.task.info)
    if finished:
      with contextlib.redirect_stdout(io.StringIO()):
        journal.finish(7)


def _open(
  directory: pathlib.Path, **options: Any
) -> checkpoints_lib.Checkpoints:
  """Opens the checkpoints of a run."""
  run_id = workdir_lib.run_id(directory)
  return checkpoints_lib.Checkpoints(
    directory / 'checkpoints', run_id=run_id, **options
  )


def _make_step(journal: journal_lib.Journal, step: int) -> None:
  """Logs a step, and an epoch if it ends with it."""
  values = {'loss': 1 / step, 'error_rate': 0.5}
  with contextlib.redirect_stdout(io.StringIO()):
    journal.add_step(step, journal_lib.StepValues(values, {}, 0.0))
    if step % tiny.STEPS_PER_EPOCH == 0:
      journal.add_epoch(step, {'test': values})


def _state(state: Any, step: int) -> Any:
  """Returns a state that is another one at each step."""
  return jax.tree.map(
    lambda x: x + step if np.issubdtype(x.dtype, np.floating) else x,
    jax.device_get(state),
  )


def read_run(directory: pathlib.Path) -> dict[int, Saved]:
  """Returns what a run directory holds that was not damaged, by step."""
  rows, found = metrics_log.read(directory), {}
  with contextlib.closing(_open(directory, read_only=True)) as saved:
    for step in saved.steps():
      remembered, _ = saved.read_journal(step)
      state = saved.read_state(step, _experiment().state_shapes())
      found[step] = Saved(
        jax.device_get(state), remembered, rows[: remembered.rows]
      )
  return found


# --- Damages of the newest checkpoint ----------------------------------------


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


# --- What has to come of it --------------------------------------------------


def check(
  run_directory: pathlib.Path,
  whole: dict[int, Saved],
  what: str,
  readers: tuple[str | int, ...] = ('last', 'best', STEPS[-1]),
) -> attempts.Attempt:
  """Reads a damaged run, starts it, and saves again.

  Args:
    run_directory: of `make_run`, damaged.
    whole: what it held before, by `read_run`.
    what: was done to it.
    readers: which checkpoints are loaded before the start.

  Returns:
    What came of it; there is a fault if anything passed in silence.
  """
  began = time.perf_counter()
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
      for reader in readers:
        _read(run_directory, whole, reader)
      outcome = _start(run_directory, whole, said)
    fault = ''
  except Exception as error:
    kind = type(error).__name__
    outcome, fault = 'fault', f'{what}: {kind}: {" ".join(str(error).split())}'
  return attempts.Attempt(outcome, fault, time.perf_counter() - began)


def _require(condition: Any, text: str) -> None:
  """Raises AssertionError; a fault of the program is none of its refusals."""
  if not condition:
    raise AssertionError(text)


def _is_refusal(directory: pathlib.Path, error: Exception) -> bool:
  """Returns whether an error is one line that names a file of the run."""
  return str(directory) in str(error) and '\n' not in str(error)


def _read(
  directory: pathlib.Path, whole: dict[int, Saved], checkpoint: str | int
) -> None:
  """Loads a checkpoint: what was saved, or a refusal; nothing is touched."""
  before = _tree(directory)
  try:
    restored = loading.restore(directory, checkpoint)
  except ValueError as error:
    _require(_is_refusal(directory, error), f'reading says {str(error)!r}')
  else:
    expected = whole[restored.step].state
    _require_equal(restored.variables['params'], expected.params)
    if isinstance(checkpoint, int):
      _require(restored.step == checkpoint, f'read step {restored.step}')
  _require(_tree(directory) == before, 'reading has changed the directory')


def _tree(directory: pathlib.Path) -> dict[str, Any]:
  """Returns the names and sizes of what is there."""
  return {
    str(path): path.lstat().st_size if not path.is_dir() else None
    for path in sorted(directory.rglob('*'))
  }


def _require_equal(found: Any, expected: Any) -> None:
  """Compares two trees of arrays bit for bit."""
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def _start(
  directory: pathlib.Path,
  whole: dict[int, Saved],
  said: io.StringIO,
) -> str:
  """Starts the run: it is resumed exactly, or refused; says which."""
  before = _tree(directory)
  # As if it had not been written yet: there is nothing to be said.
  is_gone = not os.path.lexists(directory / 'checkpoints' / str(max(whole)))
  said.seek(0)
  said.truncate()
  try:
    with preparation.begin(tiny.config(**_FIELDS), directory) as begun:
      _require(begun.result is None, 'the result is taken for that of the run')
      step, outcome = _resume(begun, whole, said)
      is_silent = outcome == 'passed over' and not is_gone
      _require(not is_silent, f'step {step} is used, and nothing is said')
      return outcome
  except ValueError as error:
    _require(_is_refusal(directory, error), f'a start says {str(error)!r}')
    _require(_tree(directory) == before, 'a refused start has written')
    return 'refused'


def _resume(
  begun: preparation.Begun,
  whole: dict[int, Saved],
  said: io.StringIO,
) -> tuple[int, str]:
  """Resumes a run, and saves the newest checkpoint again.

  Returns:
    The step from where, and what came of the start.
  """
  newest, directory = max(whole), begun.workdir
  saved = _open(directory, max_to_keep=3)
  with contextlib.closing(saved):
    step = saved.latest_step()
    _require(step is not None, 'the run starts again from step 0')
    remembered, _ = saved.read_journal(step)
    _require(remembered == whole[step].remembered, 'other progress')
    state = saved.read_state(step, begun.state)
    _require_equal(state, whole[step].state)
    writer = metrics_log.MetricWriter(
      directory,
      start_step=step,
      tensorboard=False,
      rows=metrics_log.Rows(remembered.rows, remembered.rows_checksum),
    )
    writer.close()
    _require(metrics_log.read(directory) == whole[step].rows, 'other rows')
    saved.save(whole[newest].state, whole[newest].remembered, {})
    saved.wait()
    _require(saved.damage(newest) is None, 'it cannot be saved again')
  has_said = 'warning: ' in said.getvalue()
  if step == newest:
    return step, 'repaired' if has_said else 'not needed'
  return step, 'resumed from an older one' if has_said else 'passed over'


def attack(
  directory: pathlib.Path, count: int, seed: int
) -> Iterator[attempts.Attempt]:
  """Damages the newest checkpoint of a run many times, and the other files.

  Args:
    directory: empty, for the runs.
    count: damages of the checkpoint; the other files are damaged in each way
      once.
    seed: of the damages.
  """
  with cheap():
    runs = [directory / 'running', directory / 'finished']
    for finished, run in enumerate(runs):
      make_run(run, finished=bool(finished))
    wholes = [read_run(run) for run in runs]
    for i in range(count):
      copy = shutil.copytree(runs[0], directory / f'{i:05}')
      what = damage_checkpoint(copy, seed + i)
      yield check(copy, wholes[0], f'seed {seed + i}: {what}')
      shutil.rmtree(copy)
    for i, name in enumerate(OF_OTHER_FILES):
      copy = directory / f'file_{i:02}'
      kind = needs_a_finished_run(name)
      shutil.copytree(runs[kind], copy)
      OF_OTHER_FILES[name](copy)
      yield check(copy, wholes[kind], name)
      shutil.rmtree(copy)
