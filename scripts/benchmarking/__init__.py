"""What the benchmarks share: timing in turn, memory, FLOPs, the peak, JSON.

A floating-point operation counts if it is part of a matrix product or of a
convolution: two of them for each multiplication and addition, whatever the
device computes besides. They are counted in the program as JAX traced it, and
not by the compiler, so that two frameworks' counts of one network agree.

Nothing here imports jax before it is needed: processes that time PyTorch have
none.
"""

import contextlib
import datetime
import json
import math
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def register_noise(name: str, make: Callable[[], Any]) -> None:
  """Makes random images a data set of configs.

  Args:
    name: of the data set.
    make: returns what `noise` returns.
  """
  from sam_jax import datasets

  if name not in datasets.names():
    datasets.register(name)(lambda directory, seed: make())


def memory(compiled: Any) -> float:
  """Returns the MiB that the compiler plans for a program on a device."""
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


def count_flops(jaxpr: Any) -> int:
  """Returns the operations of the products and convolutions of a program.

  Of the branches of a condition the dearest counts; the body of a loop counts
  as often as it runs; what each of several devices does counts for all.
  A convolution has those of its outputs times the kernel, padding included, and
  so has each of its gradients, as in PyTorch.

  Args:
    jaxpr: of the program, such as `jax.jit(f).trace(*args).jaxpr`.

  Raises:
    ValueError: products are in a loop of which nobody knows how often it runs.
  """
  inner = getattr(jaxpr, 'jaxpr', jaxpr)
  return sum(map(_flops, getattr(inner, 'jaxpr', inner).eqns))


def _flops(eqn: Any) -> int:
  """Returns the operations of one equation, and of what it calls."""
  name = eqn.primitive.name
  if name == 'dot_general':
    return _dot(eqn)
  if name == 'conv_general_dilated':
    return _convolution(eqn)
  if name == 'cond':
    return max(map(count_flops, eqn.params['branches']))
  inner = sum(map(count_flops, _programs(eqn.params)))
  if name == 'while' and inner:
    raise ValueError(
      'a loop without a fixed length holds matrix products; their number is '
      'not known before it runs'
    )
  if name == 'scan':
    return eqn.params['length'] * inner
  if name == 'shard_map':
    sizes = eqn.params['mesh'].shape
    axes = eqn.params.get('newly_manual_axes', sizes)
    return math.prod(sizes[axis] for axis in axes) * inner
  return inner


def _programs(params: Mapping[str, Any]) -> Iterator[Any]:
  """Yields the programs among the parameters of an equation."""
  for value in params.values():
    for each in value if isinstance(value, (tuple, list)) else (value,):
      if hasattr(each, 'eqns') or hasattr(each, 'jaxpr'):
        yield each


def _dot(eqn: Any) -> int:
  """Returns the operations of a matrix product."""
  (contracted, _), _ = eqn.params['dimension_numbers']
  shape = eqn.invars[0].aval.shape
  terms = math.prod(shape[axis] for axis in contracted)
  return 2 * terms * math.prod(eqn.outvars[0].aval.shape)


def _convolution(eqn: Any) -> int:
  """Returns the operations of a convolution, or of one of its gradients."""
  lhs, rhs, out = (
    v.aval.shape for v in (eqn.invars[0], eqn.invars[1], eqn.outvars[0])
  )
  inputs, kernel, outputs = eqn.params['dimension_numbers']
  # Features out, and features in: those that the kernel has, of a group.
  count = 2 * out[outputs[0]] * out[outputs[1]] * rhs[kernel[1]]
  for place in range(len(out) - 2):
    before, taps, after = (
      shape[axes[2 + place]]
      for shape, axes in ((lhs, inputs), (rhs, kernel), (out, outputs))
    )
    reach = eqn.params['rhs_dilation'][place] * (taps - 1)
    is_full = tuple(eqn.params['padding'][place]) == (reach, reach)
    if is_full or eqn.params['lhs_dilation'][place] > 1:
      # A gradient by the input: each place of the output that there was meets
      # the whole kernel, the zeros between and around them do not.
      after = min(before, after)
    count *= taps * after
  return count
