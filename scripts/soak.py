r"""The long trials of reliability: damaged, killed, starved and endless runs.

    python scripts/soak.py                        # all of them, for hours
    python scripts/soak.py image cifar --count=100000
    python scripts/soak.py kills signals          # runs in processes
    python scripts/soak.py memory --minutes=120

The tests in tests/faults/ make a few attempts of each; this makes as many as it
takes to find what is rare. An attempt that ends as it must not is printed in
one line, and the exit status is 1 if there was any. docs/reliability.md
describes the trials and has the figures. Those of processes need Linux,
full_disks also root, and file_operations needs strace.
"""

import collections
import functools
import pathlib
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli
from sam_jax.runs import files, provenance
from tests.faults import (
  attempts,
  configs,
  damaged_runs,
  disk,
  file_operations,
  kills,
  parsers,
  processes,
  signals,
  sweep_files,
)

flags = _cli.Flags()
_DIRECTORY = flags.DEFINE_string(
  'directory', 'runs/soak', 'Where the runs of the trials and figures go.'
)
_COUNT = flags.DEFINE_integer(
  'count',
  None,
  'Attempts of each trial; its own number if not given.',
  lower_bound=1,
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of what is drawn.')
_MINUTES = flags.DEFINE_float(
  'minutes', 120.0, 'Length of the trial "memory".', lower_bound=0.1
)

_WARM_UP = 0.1  # of a long run, until all that it needs has been used once
_MAX_GROWTH = 0.02


class Trial(NamedTuple):
  """A kind of attempts.

  Attributes:
    count: how many attempts are made, unless a flag says so.
    make: yields them; called with an empty directory, `count` and `seed`.
  """

  count: int
  make: Callable[..., Iterator[attempts.Attempt]]


def main(argv: Sequence[str]) -> int:
  """Makes the trials that are named, or all; returns the exit status."""
  names = argv[1:] or list(_TRIALS)
  for name in names:
    if name not in _TRIALS:
      raise ValueError(f'trial {name!r} is unknown; known are {list(_TRIALS)}')
  directory = files.user_path(_DIRECTORY.value)
  failed = [name for name in names if not _run(name, directory / name)]
  print(f'failed: {", ".join(failed) or "none"}')
  return 1 if failed else 0


def _run(name: str, directory: pathlib.Path) -> bool:
  """Makes all attempts of a trial; returns whether all ended as they must."""
  trial = _TRIALS[name]
  count = _COUNT.value or trial.count
  shutil.rmtree(directory, ignore_errors=True)
  directory.mkdir(parents=True)
  outcomes, faults, slowest = collections.Counter(), [], 0.0
  before = attempts.peak_memory()
  made = trial.make(directory, count=count, seed=_SEED.value)
  for attempt in (bar := tqdm.tqdm(made, desc=name, total=count)):
    outcomes[attempt.outcome] += 1
    slowest = max(slowest, attempt.seconds)
    if attempt.fault:
      faults.append(attempt.fault)
      bar.write(f'{name}: {attempt.fault}')
  figures = {
    'attempts': sum(outcomes.values()),
    'outcomes': dict(outcomes),
    'faults': faults,
    'slowest_seconds': slowest,
    'memory_growth_bytes': attempts.peak_memory() - before,
    **provenance.describe(),
  }
  files.write_json(directory / 'figures.json', figures)
  counted = ', '.join(f'{n} {what}' for what, n in outcomes.items())
  print(
    f'{name}: {counted}; {len(faults)} faults; the slowest took {slowest:.2f} s'
    f'; memory grew by {figures["memory_growth_bytes"] / 2**20:.1f} MiB'
  )
  return not faults


def _pairs(
  directory: pathlib.Path, count: int, seed: int
) -> Iterator[attempts.Attempt]:
  """Starts two processes in one directory, nearly at the same time."""
  alone = directory / 'alone'
  if processes.start(alone).wait():
    raise ValueError(f'a run fails: {processes.log_path(alone).read_text()}')
  rng, like = np.random.default_rng(seed), processes.rows(alone)
  for i in range(count):
    # Half of them start at once, the others while the first one trains.
    delay = 0.0 if i % 2 else float(rng.uniform(0, 8))
    yield processes.pair(directory / f'{i:03}', delay, like)


def _memory(
  directory: pathlib.Path, count: int, seed: int
) -> Iterator[attempts.Attempt]:
  """Watches the memory of a run that logs every step and saves often.

  One attempt is one measurement. The picture is for eyes: what grows by little
  but without end passes any bound that a short run can have.
  """
  workdir, samples = directory / 'run', []
  process = processes.start(
    workdir,
    **{'num_epochs': 10**6, 'checkpoint.every_steps': 100, 'seed': seed},
  )
  seconds = _MINUTES.value * 60 / count
  try:
    for sample in processes.memory(process, workdir, seconds=seconds):
      samples.append(sample)
      yield attempts.Attempt('measured')
      if len(samples) == count:
        break
  finally:
    process.terminate()
    status = process.wait()
  _draw_memory(samples, directory / 'memory.png')
  files.write_json(directory / 'memory.json', {'samples': samples})
  if len(samples) < count:
    yield attempts.Attempt('ended', f'the run ended with status {status}')
    return
  if (growth := _growth(samples)) > _MAX_GROWTH:
    yield attempts.Attempt('grew', f'memory grew by {growth:.1%}')


def _growth(samples: Sequence[dict[str, float]]) -> float:
  """Returns by which share the memory is larger at the end than when warm."""
  tenth = max(int(len(samples) * _WARM_UP), 1)
  used = [sample['bytes'] for sample in samples[tenth:]]
  return statistics.median(used[-tenth:]) / statistics.median(used[:tenth]) - 1


def _draw_memory(
  samples: Sequence[dict[str, float]], path: pathlib.Path
) -> None:
  """Draws memory over time, and the rows that were written."""
  from sam_jax.drawing import palette, sheet

  used_color, rows_color = palette.COLOURS[4], palette.COLOURS[5]
  minutes = [sample['seconds'] / 60 for sample in samples]
  with sheet.picture(path, (7, 3.5), 'Memory of a long run') as (_, [[axis]]):
    used = [sample['bytes'] / 2**20 for sample in samples]
    axis.plot(minutes, used, color=used_color)
    axis.set(
      xlabel='minutes', ylabel='resident memory, MiB', ylim=(0, 1.1 * max(used))
    )
    rows = axis.twinx()
    counts = [sample['rows'] for sample in samples]
    rows.plot(minutes, counts, color=rows_color, linestyle=':')
    rows.set(ylabel='rows of metrics.jsonl (dotted)', ylim=(0, None))


_TRIALS = {
  **{
    name: Trial(10_000, functools.partial(parsers.attack, parser))
    for name, parser in parsers.PARSERS.items()
  },
  'configs': Trial(10_000, configs.trial),
  'run_files': Trial(10_000, sweep_files.attack),
  'sweep_files': Trial(10_000, sweep_files.attack_definitions),
  'damages': Trial(500, damaged_runs.attack),
  'kills': Trial(300, kills.run),
  'signals': Trial(100, signals.run),
  'file_operations': Trial(10_000, file_operations.run),
  'full_disks': Trial(10, disk.run),
  'pairs': Trial(20, _pairs),
  'memory': Trial(600, _memory),
}

if __name__ == '__main__':
  _cli.run(main, 'soak', flags)
