"""What the benchmarks share: timing in turn, memory, the peak, data, JSON.

Nothing here imports jax before it is needed: processes that time PyTorch have
none.
"""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# The checkout goes first, installed or not.
ROOT = pathlib.Path(__file__).resolve().parents[2]
if sys.path[0] != str(ROOT):
  sys.path.insert(0, str(ROOT))

MIB = 2**20
# Flags whose values say where something is on this machine.
_PLACES = ('--json', '--out', '--cache', '--torch_python')
# Side of the matrices with which the peak is measured; of a GPU's or a TPU's.
_SIDE, _LARGE_SIDE = 2048, 8192


def in_turn(
  steps: Mapping[str, Callable[[int], float]],
  *,
  rounds: int,
  count: int,
  warm_up: int = 2,
  say: Callable[[str], None] | None = None,
) -> dict[str, np.ndarray]:
  """Times things in turn, A B A B: what else goes on falls on all of them.

  Args:
    steps: `(n) -> seconds per step` of each; it waits for the last of n steps.
    rounds: how often each is timed.
    count: steps in a round.
    warm_up: steps that each takes before, which are not timed.
    say: gets a line after each round.

  Returns:
    The seconds per step of each, one number for each round.
  """
  for take in steps.values():
    if warm_up:
      take(warm_up)
  seconds: dict[str, list[float]] = {name: [] for name in steps}
  for done in range(rounds):
    for name, take in steps.items():
      seconds[name].append(take(count))
    if say:
      say(f'round {done + 1}/{rounds}')
  return {name: np.array(times) for name, times in seconds.items()}


def timed(take: Callable[[], object], count: int = 1) -> float:
  """Returns the mean seconds of a call; waits for the last one's arrays."""
  import jax

  start = time.perf_counter()
  for _ in range(count):
    result = take()
  jax.block_until_ready(result)
  return (time.perf_counter() - start) / count


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
  """Returns median, minimum and maximum."""
  return {
    'median': float(np.median(values)),
    'min': float(np.min(values)),
    'max': float(np.max(values)),
  }


def say(line: str) -> None:
  """Prints a line of progress, beside the figures."""
  print(line, file=sys.stderr, flush=True)


def in_brackets(values: Mapping[str, float], digits: int = 2) -> str:
  """Returns a spread as tables have it: '1.84 [1.78-1.88]'."""
  low, high = (format(values[k], f'.{digits}f') for k in ('min', 'max'))
  return f'{values["median"]:.{digits}f} [{low}-{high}]'


def number(value: float | None, form: str) -> str:
  """Returns a number as a table has it, '-' for none."""
  return '-' if value is None else format(value, form)


def describe() -> dict[str, Any]:
  """Returns what figures belong to: versions, hardware, day and command."""
  from sam_jax.runs import provenance

  return {
    **provenance.describe(),
    'host': host(),
    'date': today(),
    'command': command(sys.argv),
  }


def device() -> str:
  """Returns how many devices there are, and of which kind."""
  import jax

  return f'{jax.device_count()} x {jax.devices()[0].device_kind}'


def today() -> str:
  """Returns the day, of Greenwich."""
  return datetime.datetime.now(datetime.UTC).date().isoformat()


def host() -> str:
  """Returns the processor of this machine, and how many cores may be used."""
  model = ''
  with contextlib.suppress(OSError):  # not Linux
    lines = pathlib.Path('/proc/cpuinfo').read_text('utf-8').splitlines()
    named = (line for line in lines if line.startswith('model name'))
    model = next(named, '').partition(':')[2].strip()
  return f'{model or platform.machine()}, {os.cpu_count()} cores'


def command(argv: Sequence[str]) -> str:
  """Returns a command line as it is repeated elsewhere, without its files."""
  kept, is_place = [], False
  for argument in argv[1:]:
    if is_place:
      is_place = False
      continue
    name, equals, _ = argument.partition('=')
    if name in _PLACES:
      is_place = not equals
    else:
      kept.append(argument)
  return shlex.join(['python', f'scripts/{pathlib.Path(argv[0]).name}', *kept])


def write(path: str | None, content: Mapping[str, Any]) -> None:
  """Writes figures as JSON; nothing if no file is asked for."""
  if not path:
    return
  from sam_jax.runs import files

  text = json.dumps(content, indent=2)
  files.user_path(path).write_text(f'{text}\n', encoding='utf-8')


def noise(
  *, count: int, size: int, channels: int = 3, num_classes: int = 10
) -> Any:
  """Returns a data set of random images, of one domain among five.

  Args:
    count: of images.
    size: height and width.
    channels: of an image.
    num_classes: of the labels.
  """
  from sam_jax import datasets

  domains = tuple('abcde')  # for the methods that need examples of several
  domains = domains[:count]
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, size, size, channels), np.uint8)
  labels = rng.integers(0, num_classes, count).astype(np.int32)
  numbers = np.arange(count, dtype=np.int32) % len(domains)
  train = datasets.Examples(images, labels, numbers)
  return datasets.Source(
    train=train,
    test=train._replace(domains=None),
    num_classes=num_classes,
    mean=(0.5,) * channels,
    std=(0.25,) * channels,
    domains=domains,
  )


def register_tokens(*, count: int, length: int, vocabulary_size: int) -> str:
  """Makes random tokens a data set of configs; returns its name.

  Args:
    count: of windows to train on.
    length: of a window.
    vocabulary_size: all of its tokens are as frequent.
  """
  from sam_jax.datasets import text

  name = f'benchmark_tokens_{count}_{length}_{vocabulary_size}'

  def load(directory: str | None, seed: int) -> text.Tokens:
    del directory, seed
    rng = np.random.default_rng(0)
    size = (count + 1) * length + 1  # an epoch begins within the first window
    tokens = rng.integers(0, vocabulary_size, size, np.uint32)
    splits = dict.fromkeys(('train', 'validation', 'test'), tokens)
    return text.Tokens(splits, 'random tokens')

  if name not in text.names():
    text.register(name)(load)
  return name


def register_noise(name: str, make: Callable[[], Any]) -> None:
  """Makes random images a data set of configs.

  Args:
    name: of the data set.
    make: returns what `noise` returns.
  """
  from sam_jax import datasets

  if name not in datasets.names():
    datasets.register(name)(lambda directory, seed: make())


def memory_beside(
  row: Mapping[str, Any], base: Mapping[str, Any], parameters: int
) -> str:
  """Returns how much more memory, or less, a step needs than another one.

  Args:
    row: figures of the step, with its `memory_mib`.
    base: those of the other one.
    parameters: of the network; what is more is given in copies of them, too.
  """
  more = row['memory_mib'] - base['memory_mib']
  if more <= 0:
    return f'{-more:,.0f} MiB less'
  copies = more * MIB / (4 * parameters)
  return f'{more:,.0f} MiB more, {copies:.1f} copies of the parameters'


def memory(compiled: Any) -> float:
  """Returns the MiB planned by the compiler for a program on a device."""
  from sam_jax.runs import dry_run

  return dry_run.peak_bytes(compiled) / MIB


def held() -> float | None:
  """Returns the most MiB that the first device has held; None on a CPU."""
  import jax

  stats = jax.local_devices()[0].memory_stats() or {}
  peak = stats.get('peak_bytes_in_use')
  return None if peak is None else peak / MIB


def capacity() -> float | None:
  """Returns the MiB that programs may have on a device; None on a CPU."""
  import jax

  stats = jax.local_devices()[0].memory_stats() or {}
  limit = stats.get('bytes_limit')
  return None if limit is None else limit / MIB


def peak(dtype: str, precision: str | None = None) -> float:
  """Returns the operations per second of a large matrix product.

  Args:
    dtype: of the matrices.
    precision: of the products, see `jax.default_matmul_precision`; None is the
      device's own, such as TensorFloat-32 for float32.
  """
  import jax

  from sam_jax.runs import dry_run

  size = _SIDE if jax.default_backend() == 'cpu' else _LARGE_SIDE
  with jax.default_matmul_precision(precision):
    return dry_run.matmul_rate(size, dtype=dtype)
