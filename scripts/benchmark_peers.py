r"""Times our steps beside those of others, in turn, on one machine.

    python scripts/benchmark_peers.py --json=peers.json
    python scripts/benchmark_peers.py --networks=ViT-Ti/4:64,gpt-tiny:16 \
        --torch_python=venv/bin/python --commit=HEAD~10

For each network and method there is a worker (see benchmarking/workers.py) for
ours, for ours at another commit, for PyTorch (eager, channels_last for images,
and with torch.compile), and for optax.contrib.sam. They are timed in turn, A B
A B, and while one takes its steps the others wait. A ratio is the median over
the rounds of a worker's step to ours in the same round, its smallest and its
largest.

Workers have to have the network that ours has: as many parameters, and as many
floating-point operations in a step. One that has another, or ends, is named in
a line, and the others are timed. PyTorch is left out if it is not installed
(`pip install 'sam_jax[torch]'`); --torch_python names a Python that has it.

At another commit, the package is that commit's, in a temporary worktree of git,
and the scripts are this checkout's: they have to fit that package.
"""

import contextlib
import functools
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

# The checkout goes first, installed or not.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from sam_jax import _cli
from scripts import benchmarking
from scripts.benchmarking import checkout, gpu_results, workers

flags = _cli.Flags()
_NETWORKS = flags.DEFINE_list(
  'networks',
  [
    'WideResnet28x1:128',
    'WideResnet16x4:64',
    'WideResnet28x10:8',
    'ViT-Ti/4:64',
    'gpt-tiny:16',
  ],
  'Names of our models, each with the batch size: NAME:BATCH.',
)
_METHODS = flags.DEFINE_list(
  'methods', ['sgd', 'sam'], 'Methods to time: sgd, sam, or both.'
)
_PEERS = flags.DEFINE_list(
  'peers',
  ['eager', 'channels_last', 'compile', 'optax'],
  'Timed beside ours: optax; eager, channels_last and compile of PyTorch.',
)
_COMMIT = flags.DEFINE_string(
  'commit', None, 'A revision of this checkout, to be timed too.'
)
_TORCH_PYTHON = flags.DEFINE_string(
  'torch_python', sys.executable, 'The Python that has PyTorch.'
)
_COMPUTE_DTYPE = flags.DEFINE_string(
  'compute_dtype',
  'float32',
  "Type of our activations and PyTorch's; optax has float32.",
)
_DEVICE = flags.DEFINE_enum(
  'device', 'cpu', ['cpu', 'cuda'], 'Device on which PyTorch runs.'
)
_CONTEXT_LENGTH = flags.DEFINE_integer(
  'context_length', 128, 'Tokens of a window.'
)
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 32, 'Height and width.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Number of rounds.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 2, 'Steps per round.', lower_bound=1)
_JSON = flags.DEFINE_string('json', None, 'File for all figures.')

OURS = 'ours'
_TORCH = {
  'eager': (),
  'channels_last': ('--layout=channels_last',),
  'compile': ('--layout=channels_last', '--compile'),
}
# Several processes share a device: none takes its memory at once.
_ENVIRONMENT = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}


class Command(NamedTuple):
  """How a worker is started.

  Attributes:
    label: what tables call it.
    arguments: the program and its arguments.
    directory: in which it runs.
  """

  label: str
  arguments: Sequence[str]
  directory: pathlib.Path = _ROOT


def main(argv: Sequence[str]) -> int:
  _cli.refuse_arguments(argv[1:])
  cases = [
    (*_network(text), method)
    for text in _NETWORKS.value
    for method in _METHODS.value
  ]
  _check_choices()
  rows = []
  with checkout.of(_ROOT, _COMMIT.value) as other:
    for network, batch_size, method in cases:
      commands = _commands(network, batch_size, method, other)
      about = {'network': network, 'batch_size': batch_size, 'method': method}
      found = compare(commands, rounds=_ROUNDS.value, count=_STEPS.value)
      rows += [about | row for row in found]
      _show(f'{network}, batch {batch_size}, {method}', found)
      # After each, so that what a long command had found is there.
      content = {'rounds': _ROUNDS.value, 'steps': _STEPS.value, 'rows': rows}
      benchmarking.write(_JSON.value, benchmarking.describe() | content)
  return 0 if any('step_ms' in row for row in rows) else 1


def _network(text: str) -> tuple[str, int]:
  """Returns name and batch size of NAME:BATCH."""
  name, colon, size = text.rpartition(':')
  if not (name and colon and size.isdecimal() and int(size)):
    raise ValueError(f'--networks has {text!r}; write NAME:BATCH')
  return name, int(size)


def _check_choices() -> None:
  """Refuses names that no worker is of."""
  for flag, given, known in (
    ('methods', _METHODS.value, ('sgd', 'sam')),
    ('peers', _PEERS.value, (*_TORCH, 'optax')),
  ):
    if wrong := [name for name in given if name not in known]:
      raise ValueError(
        f'--{flag} has {", ".join(wrong)}; known are {", ".join(known)}'
      )
  if 'optax' in _PEERS.value and _COMPUTE_DTYPE.value != 'float32':
    raise ValueError(
      f"optax's worker computes in float32, not {_COMPUTE_DTYPE.value}; give "
      '--peers without optax'
    )


def _commands(
  network: str, batch_size: int, method: str, other: pathlib.Path | None
) -> list[Command]:
  """Returns how the workers are started, ours first."""
  is_text = network.startswith('gpt')
  size = f'--batch_size={batch_size}'
  shape = [f'--image_size={_IMAGE_SIZE.value}']
  if is_text:
    shape = [f'--context_length={_CONTEXT_LENGTH.value}']
  dtype = f'--compute_dtype={_COMPUTE_DTYPE.value}'
  script = functools.partial(_script, sys.executable)
  own = [f'--model={network}', f'--methods={method}', size, dtype, *shape]
  commands = [Command(OURS, script('step', own))]
  if other:
    label = f'ours at {_COMMIT.value}'
    commands.append(Command(label, script('step', own), other))
  named = [f'--network={network}', f'--method={method}', size, *shape]
  for peer in _PEERS.value:
    if peer == 'optax':
      commands.append(Command('optax', script('optax', named)))
    elif not is_text or peer != 'channels_last':
      extra = [*_TORCH[peer], dtype, f'--device={_DEVICE.value}']
      arguments = _script(_TORCH_PYTHON.value, 'torch', [*named, *extra])
      commands.append(Command(f'torch {peer}', arguments))
  return commands


def _script(python: str, name: str, arguments: Sequence[str]) -> list[str]:
  """Returns the command line of a worker."""
  return [python, f'scripts/benchmark_{name}.py', '--serve', *arguments]


def compare(
  commands: Sequence[Command], *, rounds: int, count: int
) -> list[dict[str, Any]]:
  """Times workers in turn.

  Args:
    commands: that start them; the first is what the others are compared with.
    rounds: how often each is timed.
    count: steps in a round.

  Returns:
    The figures of each, or `error`, in the order of the commands.
  """
  failed: dict[str, str] = {}
  with contextlib.ExitStack() as stack:
    running: dict[str, workers.Worker] = {}
    for command in commands:
      # One prepares at a time, so that none compiles beside another.
      with _noted(command.label, failed):
        worker = stack.enter_context(_ready(command, running))
        running[command.label] = worker
    seconds = _rounds(running, failed, rounds, count)
  of_ours = seconds.get(commands[0].label, [])
  return [
    {'label': label, 'error': failed[label]}
    if label in failed
    else _figures(running[label], seconds[label], of_ours)
    for label in (command.label for command in commands)
  ]


def _ready(
  command: Command, running: Mapping[str, workers.Worker]
) -> workers.Worker:
  """Starts a worker, and returns it when it is ready to be timed."""
  worker = workers.Worker(
    command.label,
    command.arguments,
    directory=command.directory,
    environment=_ENVIRONMENT,
  )
  try:
    worker.ready()
    if running:
      check_same_network(next(iter(running.values())), worker)
  except workers.WorkerError:
    worker.close()
    raise
  return worker


def _rounds(
  running: Mapping[str, workers.Worker],
  failed: dict[str, str],
  rounds: int,
  count: int,
) -> dict[str, list[float]]:
  """Returns the seconds per step of each worker, one for each round."""
  seconds: dict[str, list[float]] = {label: [] for label in running}
  for done in range(rounds):
    for label, worker in running.items():
      if label not in failed:
        with _noted(label, failed):
          seconds[label].append(worker.take(count))
    benchmarking.say(f'round {done + 1}/{rounds}')
  return seconds


@contextlib.contextmanager
def _noted(label: str, failed: dict[str, str]) -> Iterator[None]:
  """Takes note of why a worker is not timed any more."""
  try:
    yield
  except workers.WorkerError as error:
    failed[label] = workers.one_line(error)
    benchmarking.say(f'not measured: {failed[label]}')


def check_same_network(ours: workers.Worker, other: workers.Worker) -> None:
  """Refuses a worker that has another network.

  Raises:
    WorkerError: its parameters or operations are others; the message has both.
  """
  for name, unit, tolerance in (
    ('parameters', 'parameters', 0),
    ('flops', 'operations in a step', gpu_results.FLOPS_TOLERANCE),
  ):
    own, found = ours.facts[name], other.facts[name]
    if abs(found - own) > tolerance * own:
      raise workers.WorkerError(
        f'{other.label}: the network differs from {ours.label}: '
        f'{found:,} {unit}, not {own:,}'
      )


def _figures(
  worker: workers.Worker, seconds: Sequence[float], of_ours: Sequence[float]
) -> dict[str, Any]:
  """Returns the figures of a worker, with a ratio where ours was timed too."""
  ratios = [own / base for own, base in zip(seconds, of_ours, strict=False)]
  return {
    'label': worker.label,
    **worker.facts,
    'step_ms': benchmarking.spread([1e3 * each for each in seconds]),
    'ratio': benchmarking.spread(ratios) if ratios else None,
  }


def _show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
  """Prints the table of a network and a method."""
  width = max(len(row['label']) for row in rows) + 1
  print(title)
  print(
    f'{"":{width}}{"step, ms":>10}{"/ ours":>18}{"memory, MiB":>13}'
    f'{"compile, s":>12}{"GFLOP/s":>9}'
  )
  for row in rows:
    if 'error' in row:
      print(f'not measured: {row["error"]}')
      continue
    step, memory = row['step_ms']['median'], row['memory_bytes']
    memory = None if memory is None else memory / benchmarking.MIB
    ratio = benchmarking.in_brackets(row['ratio']) if row['ratio'] else '-'
    print(
      f'{row["label"]:{width}}{step:>10.2f}{ratio:>18}'
      f'{benchmarking.number(memory, ",.0f"):>13}'
      f'{benchmarking.number(row["compile_s"], ".1f"):>12}'
      f'{row["flops"] / step / 1e6:>9.0f}'
    )
  print(flush=True)


def cli() -> None:
  _cli.run(main, 'benchmark_peers', flags)


if __name__ == '__main__':
  cli()
