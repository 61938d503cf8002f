r"""Measures everything on one accelerator, in at most 8 minutes.

    python scripts/benchmark_gpu.py --out=gpu.jsonl
    python scripts/benchmark_gpu.py --out=gpu.jsonl --minutes=20 \
        --torch_python=venv/bin/python

The rate of matrix products in each precision; then WRN-28-10, ResNet-50,
ViT-S/16 and GPT-2 small with SGD or AdamW, SAM with m = B and m = B/8, a
quarter of the examples for the ascent, and LookSAM: time of a step, ratio,
compilation, share of the peak, memory that the compiler plans and that the
device held at most; the same in PyTorch; loops; whether a step gives the same
bits twice; what TensorFloat-32 and bfloat16 do to epsilon; and how long a loop
waits for images. benchmarking/gpu_plan.py has the list and the sizes.

Each result is printed, and appended to the file of --out, as soon as it is
there. What would not fit into the time any more is left out and named; the same
command measures that next, and nothing twice. It needs Python, jax, flax and
optax, and of the other packages only such as are pure Python: absl-py,
ml-collections, tqdm, filelock. PyTorch is measured if it is installed.

On a CPU the same list is measured at reduced sizes, without the compiler's
optimisations: it shows that everything runs, and says nothing about speed.
"""

import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
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
from scripts.benchmarking import gpu_plan

flags = _cli.Flags()
_OUT = flags.DEFINE_string('out', 'gpu.jsonl', 'File of results, JSON lines.')
_MINUTES = flags.DEFINE_float(
  'minutes', 8.0, 'For everything, compilation included.', lower_bound=0.0
)
_SCALE = flags.DEFINE_enum(
  'scale', None, gpu_plan.SCALES, 'Sizes; reduced on a CPU unless given.'
)
_ONLY = flags.DEFINE_list('only', [], 'Parts of names; only entries with one.')
_CACHE = flags.DEFINE_string(
  'cache', None, "Directory of compiled programs; default the user's cache."
)
_TORCH_PYTHON = flags.DEFINE_string(
  'torch_python', sys.executable, 'Python that has PyTorch.'
)
_ENTRY = flags.DEFINE_string(
  'entry', None, 'Name of one entry, to be measured in this process.'
)
_PLATFORM = flags.DEFINE_string(
  'platform', 'cpu', 'Of the device; for --entry.'
)

# As much of a device's memory as a program may have; not at once, so that what
# it did not need is there for PyTorch.
_ENVIRONMENT = {
  'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
  'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.92',
}


class Results:
  """The results so far: those of the file, and those that are added to it."""

  def __init__(self, path: pathlib.Path) -> None:
    """Reads what an earlier command has found."""
    self._path = path
    self.rows: list[dict[str, Any]] = []
    if path.exists():
      lines = path.read_text('utf-8').split('\n')
      self.rows = [_row(path, line) for line in lines if line.strip()]

  def add(self, row: Mapping[str, Any]) -> None:
    """Adds a result to the file, and shows it."""
    known, device = self.about.get('device'), row.get('device')
    if row['what'] != 'torch' and known and device and known != device:
      raise ValueError(
        f'{self._path} has results of {known}, and this is {device}; name '
        'another file with --out'
      )
    row = {**row, **self._beside_ours(row)}
    row |= self._share(row)
    with self._path.open('a', encoding='utf-8') as stream:
      stream.write(f'{json.dumps(row)}\n')
      stream.flush()
      os.fsync(stream.fileno())
    self.rows.append(row)
    print(shown(row), flush=True)

  def has(self, entry: gpu_plan.Entry) -> bool:
    """Returns whether an entry was measured to its end."""
    return any(
      row['entry'] == entry.name and row['what'] == 'end' for row in self.rows
    )

  @property
  def about(self) -> Mapping[str, Any]:
    """The machine; empty if it is not known."""
    return next((row for row in self.rows if 'platform' in row), {})

  def _beside_ours(self, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how PyTorch's step compares with ours, if that is known."""
    ours = next((r for r in self.rows if _is_ours(r, row)), None)
    if ours is None:
      return {}
    if ours['parameters'] != row['parameters']:
      counts = f'{row["parameters"]:,} parameters, not {ours["parameters"]:,}'
      return {'error': f'it has another network than ours: {counts}'}
    ratio = row['step_ms']['median'] / ours['step_ms']['median']
    return {'ratio_to_ours': ratio, 'precision': ours['precision']}

  def _share(self, row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the share of the peak that a step reaches."""
    peaks = {
      known['precision']: known['flops_per_second']
      for known in self.rows
      if known['what'] == 'peak' and 'precision' in known
    }
    peak = peaks.get(row.get('precision'))
    if row['what'] == 'peak' or not peak or 'flops_per_second' not in row:
      return {}
    return {'share_of_peak': row['flops_per_second'] / peak}


def _is_ours(known: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
  """Returns whether a step is the one that PyTorch has taken."""
  if row['what'] != 'torch' or 'error' in row or known['what'] != 'step':
    return False
  if 'error' in known or known['m'] != known['batch_size']:
    return False
  own = 'sam' if known['method'] == 'sam' else 'sgd'
  network = known['entry'].partition(':')[0] == row['entry'].partition(':')[0]
  return network and own == row['label'] and known['method'] in ('sgd', 'sam')


def _row(path: pathlib.Path, line: str) -> dict[str, Any]:
  """Returns a line of the file."""
  try:
    row = json.loads(line)
    return {'entry': row['entry'], 'what': row['what'], **row}
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} has a line that is no result of this script: {line[:60]!r}; '
      'name another file with --out'
    ) from error


def main(argv: Sequence[str]) -> int:
  _cli.refuse_arguments(argv[1:])
  end = _BEGAN + 60 * _MINUTES.value
  if _ENTRY.value is not None:
    return _measure(_ENTRY.value)

  def left() -> float:
    return end - time.monotonic()

  results = Results(files.user_path(_OUT.value))
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
  results: Results,
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
    before, rows = left(), []
    if results.has(entry):
      continue
    if entry.seconds > before:
      left_out.append(entry.name)
      continue
    benchmarking.say(f'{before:.0f} s left: {entry.name}')
    for row in start(entry, before):
      rows.append(row)
      results.add(row)
    if not any(row['what'] == 'error' for row in rows):
      seconds = before - left()
      results.add({'entry': entry.name, 'what': 'end', 'seconds': seconds})
  for name in left_out:
    print(f'left out, the time would not have been enough: {name}', flush=True)
  return left_out


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
  process = subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    encoding='utf-8',
    env=os.environ | _environment() | gpu_plan.environment(scale),
    start_new_session=True,  # what it starts ends with it
  )
  timer = threading.Timer(seconds, _end, [process])
  timer.start()
  try:
    for line in process.stdout:
      if line.endswith('\n'):  # else it was ended within the line
        yield json.loads(line)
    status = process.wait()
  finally:
    timer.cancel()
    _end(process)
    process.stdout.close()
    process.wait()
  if status:
    why = f'its process ended with status {status}'
    if status == -signal.SIGKILL:
      why = 'it was ended: there was no time left, or no memory'
    yield {'entry': entry.name, 'what': 'error', 'error': why}


def _end(process: subprocess.Popen) -> None:
  """Ends a process, and those that it has started."""
  with contextlib.suppress(ProcessLookupError):  # they have ended
    os.killpg(process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
  """Returns the variables of a process that measures."""
  found = {k: v for k, v in _ENVIRONMENT.items() if k not in os.environ}
  if _CACHE.value:
    found['JAX_COMPILATION_CACHE_DIR'] = str(files.user_path(_CACHE.value))
  return found


def _scale(results: Results, platform: str) -> str:
  """Returns the scale, and notes it; that of the file has to be the same."""
  noted = next((r['scale'] for r in results.rows if 'scale' in r), None)
  scale = _SCALE.value or ('reduced' if platform == 'cpu' else 'full')
  if noted is None:
    entry = {'entry': gpu_plan.FIRST, 'what': 'scale'}
    results.add({**entry, 'scale': scale, 'command': _command()})
  elif noted != scale:
    raise ValueError(
      f'{_OUT.value} has results of scale {noted}, and this command measures '
      f'at scale {scale}; name another file with --out'
    )
  return scale


def _command() -> str:
  """Returns the command that this process was."""
  return benchmarking.command(sys.argv)


def _torch_python() -> str | None:
  """Returns a Python that has PyTorch, None if there is none."""
  command = [_TORCH_PYTHON.value, '-c', 'import torch']
  try:
    subprocess.run(command, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    print(f'left out, {_TORCH_PYTHON.value} has no torch: PyTorch', flush=True)
    return None
  return _TORCH_PYTHON.value


def _measure(name: str) -> int:
  """Measures one entry, and prints its results as lines of JSON."""
  # The process that starts this one has no use for it, and no time.
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
  out = sys.stdout
  with contextlib.redirect_stdout(sys.stderr):
    for row in gpu_entries.run(entries[name]):
      print(json.dumps(row), file=out, flush=True)
  return 0


def shown(row: Mapping[str, Any]) -> str:
  """Returns a result as a line for people."""
  what, text = row['what'], ''
  if 'error' in row:
    text = row['error']
  elif what in ('step', 'torch'):
    text = _shown_step(row)
  elif 'flops_per_second' in row:
    text = f'{row["precision"]}: {row["flops_per_second"] / 1e12:.3g} TFLOP/s'
  else:
    known = {k: v for k, v in row.items() if k not in ('entry', 'what')}
    text = ', '.join(
      f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}'
      for k, v in known.items()
      if not isinstance(v, dict) or k == 'options'
    )
  return f'{row["entry"]}: {row.get("label", what)}: {text}'


def _shown_step(row: Mapping[str, Any]) -> str:
  """Returns the figures of a step."""
  cells = [f'{row["step_ms"]["median"]:.2f} ms']
  if 'ratio' in row:
    cells.append(f'ratio {benchmarking.in_brackets(row["ratio"])}')
  if 'ratio_to_ours' in row:
    cells.append(f'{row["ratio_to_ours"]:.2f} of ours')
  if 'microbatch_size' in row:
    cells.append(f'm {row["m"]}, microbatches {row["microbatch_size"]}')
  forms = {
    'compile_s': 'compiled in {:.1f} s',
    'share_of_peak': '{:.0%} of the peak',
    'memory_planned_mib': 'planned {:,.0f} MiB',
    'memory_held_mib': 'held at most {:,.0f} MiB',
  }
  known = {k: form for k, form in forms.items() if row.get(k) is not None}
  cells += [form.format(row[key]) for key, form in known.items()]
  return ', '.join(cells)


def cli() -> None:
  _cli.run(main, 'benchmark_gpu', flags)


if __name__ == '__main__':
  cli()
