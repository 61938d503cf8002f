r"""Measures what matters on one accelerator, in at most 8 minutes.

    python scripts/benchmark_gpu.py --out=gpu.jsonl
    python scripts/benchmark_gpu.py --out=gpu.jsonl --minutes=20 \
        --torch_python=venv/bin/python

The rate of matrix products in each precision; then WRN-28-10, ResNet-50,
ViT-S/16 and GPT-2 small in bfloat16 with SGD or AdamW, SAM with m = B and
m = B/8, a quarter of the examples for the ascent, and LookSAM: time of a step,
ratio, compilation, share of the peak, memory; the same in eager PyTorch;
WRN-28-10 in float32; and of WRN-28-10 loops, what precision does to epsilon,
whether a step gives the same bits twice, and how long a loop waits for images;
five small runs at once. That is what 8 minutes hold. After it come, with more
--minutes or in a second command, PyTorch's WRN-28-10 in float32, and all
networks with torch.compile. benchmarking/gpu_plan.py has the list and the
sizes.

Each result is printed, and appended to the file of --out, as soon as it is
there. What would not fit into the time any more is left out and named, and what
takes three times as long as it should is ended; the same command measures both
next, and nothing twice. It needs Python, jax, flax and optax, and of the other
packages only such as are pure Python: absl-py, ml-collections, tqdm, filelock.
PyTorch is measured if it is installed.

On a CPU the same list is measured at reduced sizes, without the compiler's
optimisations: it shows that everything runs, and says nothing about speed.
"""

import contextlib
import functools
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_BEGAN = time.monotonic()  # what is imported below takes its time, too

# The checkout goes first, installed or not.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from sam_jax import _cli, lookup
from sam_jax.runs import files
from scripts import benchmarking
from scripts.benchmarking import child, gpu_plan, gpu_results, workers

flags = _cli.Flags()
_OUT = flags.DEFINE_string(
  'out', 'gpu.jsonl', 'File of the results, as lines of JSON.'
)
_MINUTES = flags.DEFINE_float(
  'minutes',
  8.0,
  'Minutes for everything, compilation included.',
  lower_bound=0.0,
)
_SCALE = flags.DEFINE_enum(
  'scale',
  None,
  gpu_plan.SCALES,
  'Sizes of what is measured; reduced on a CPU, else full.',
)
_ONLY = flags.DEFINE_list(
  'only', [], 'Parts of names: only entries with one are measured.'
)
_CACHE = flags.DEFINE_string(
  'cache', None, "Directory of compiled programs; default the user's."
)
_TORCH_PYTHON = flags.DEFINE_string(
  'torch_python', sys.executable, 'The Python that has PyTorch.'
)
_ENTRY = flags.DEFINE_string(
  'entry', None, 'Name of the one entry that is measured in this process.'
)
_PLATFORM = flags.DEFINE_string(
  'platform', 'cpu', 'Platform of the device, with --entry.'
)

# Each entry is a process of its own, so that it may have the device's memory.
_ENVIRONMENT = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.92'}
_PATIENCE = 3  # times its estimate an entry may take


def main(argv: Sequence[str]) -> int:
  _cli.refuse_arguments(argv[1:])
  end = _BEGAN + 60 * _MINUTES.value
  if _ENTRY.value is not None:
    return _measure(_ENTRY.value)

  def left() -> float:
    return end - time.monotonic()

  results = gpu_results.Results(files.user_path(_OUT.value))
  walk([gpu_plan.first()], results, left, functools.partial(_start, '', ()))
  if not results.about:
    raise _cli.Failed('nothing is known of the device: its first entry failed')
  platform, python = results.about['platform'], _torch_python()
  scale = _scale(results, platform)
  plan = gpu_plan.plan(scale, platform=platform, torch_python=python)
  if _ONLY.value:
    plan = [e for e in plan if any(part in e.name for part in _ONLY.value)]
  arguments = [f'--platform={platform}']
  arguments += [f'--torch_python={python}'] if python else []
  walk(plan, results, left, functools.partial(_start, scale, arguments))
  print(f'{max(left(), 0):.0f} s left; the results are in {_OUT.value}')
  return 0


def walk(
  plan: Sequence[gpu_plan.Entry],
  results: gpu_results.Results,
  left: Callable[[], float],
  start: Callable[[gpu_plan.Entry, float], Iterator[Mapping[str, Any]]],
) -> list[str]:
  """Measures what fits into the time, and was not measured yet.

  Args:
    plan: what to measure, in order.
    results: to which the results are added.
    left: returns the seconds that are left.
    start: `(entry, seconds) -> results`; it takes no longer than that.

  Returns:
    The names of what was left out.
  """
  left_out = []
  for entry in plan:
    if results.has(entry):
      continue
    if entry.seconds > left():
      left_out.append(entry.name)
      results.add({'entry': entry.name, 'what': 'left out'})
      continue
    benchmarking.say(f'{left():.0f} s left: {entry.name}')
    _walk_one(entry, results, left, start)
  return left_out


def _walk_one(
  entry: gpu_plan.Entry,
  results: gpu_results.Results,
  left: Callable[[], float],
  start: Callable[[gpu_plan.Entry, float], Iterator[Mapping[str, Any]]],
) -> None:
  """Measures an entry; it has an end if nothing in it has failed."""
  before, count = left(), len(results.rows)
  limit = min(before, _PATIENCE * entry.seconds)
  with contextlib.closing(start(entry, limit)) as rows:
    for row in rows:
      if row['what'] == 'device':
        results.check_device(row['device'])
      else:
        results.add(row)
  if not any('error' in row for row in results.rows[count:]):
    seconds = before - left()
    results.add({'entry': entry.name, 'what': 'end', 'seconds': seconds})


def _start(
  scale: str,
  arguments: Sequence[str],
  entry: gpu_plan.Entry,
  seconds: float,
) -> Iterator[dict[str, Any]]:
  """Yields the results of an entry, measured in a process of its own."""
  command = [sys.executable, __file__, f'--entry={entry.name}']
  if scale:
    command += [f'--scale={scale}', *arguments]
  variables = _environment() | gpu_plan.environment(scale)
  lines = child.lines(command, environment=variables, seconds=seconds)
  try:
    with contextlib.closing(lines):
      for line in lines:
        yield _read(entry, line)
  except ChildProcessError as error:
    yield {'entry': entry.name, 'what': 'error', 'error': str(error)}


def _read(entry: gpu_plan.Entry, line: str) -> dict[str, Any]:
  """Returns the result in a line; an error if nobody can read it."""
  try:
    return gpu_results.read(line)
  except ValueError:
    error = f'its process printed what is no result: {line[:60]!r}'
    return {'entry': entry.name, 'what': 'error', 'error': error}


def _environment() -> dict[str, str]:
  """Returns the variables of a process that measures."""
  found = {k: v for k, v in _ENVIRONMENT.items() if k not in os.environ}
  if _CACHE.value:
    found['JAX_COMPILATION_CACHE_DIR'] = str(files.user_path(_CACHE.value))
  return found


def _scale(results: gpu_results.Results, platform: str) -> str:
  """Returns the scale, and notes it; that of the file has to be the same."""
  noted = next((r['scale'] for r in results.rows if 'scale' in r), None)
  scale = _SCALE.value or ('reduced' if platform == 'cpu' else 'full')
  if noted is None:
    entry = {'entry': gpu_plan.FIRST, 'what': 'scale'}
    results.add(
      {**entry, 'scale': scale, 'command': benchmarking.command(sys.argv)}
    )
  elif noted != scale:
    raise ValueError(
      f'{_OUT.value} has results of scale {noted}, and this command measures '
      f'at scale {scale}; name another file with --out'
    )
  return scale


def _torch_python() -> str | None:
  """Returns a Python that has PyTorch, None if there is none."""
  look = 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))'
  command = [_TORCH_PYTHON.value, '-c', look]
  try:
    subprocess.run(command, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    python = _TORCH_PYTHON.value
    print(f'PyTorch is not measured: {python} has no torch', flush=True)
    return None
  return _TORCH_PYTHON.value


def _measure(name: str) -> int:
  """Measures one entry, and prints its results as lines of JSON."""
  # It imports all that is measured; the process that starts this one does not.
  from scripts.benchmarking import gpu_entries

  plan = [gpu_plan.first()]
  if _SCALE.value:
    plan += gpu_plan.plan(
      _SCALE.value,
      platform=_PLATFORM.value,
      torch_python=_TORCH_PYTHON.value,
    )
  entries = {entry.name: entry for entry in plan}
  lookup.check('entry', name, entries)
  _cli.cache_compilations()
  with workers.answers() as answer:
    for row in gpu_entries.run(entries[name]):
      answer(row)
  return 0


def cli() -> None:
  _cli.run(main, 'benchmark_gpu', flags)


if __name__ == '__main__':
  cli()
