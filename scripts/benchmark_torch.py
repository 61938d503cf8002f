r"""Measures a training step in PyTorch, with the work that ours does.

    python scripts/benchmark_torch.py --network=WideResnet28x1 --batch_size=128
    python scripts/benchmark_torch.py --network=gpt2 --context_length=1024 \
        --vocabulary_size=50257 --batch_size=64 --microbatch_size=16 \
        --compute_dtype=bfloat16 --compile --device=cuda

The methods are timed in turn, as scripts/benchmark_step.py times ours, and the
table is like its table. The networks are in benchmarking/torch_networks.py and
the step in benchmarking/torch_step.py.

With --serve it is a worker of `benchmark_peers.py` (see
benchmarking/workers.py): it times one method, whenever it is asked to. Nothing
here imports JAX.
"""

import argparse
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

# The checkout goes first, installed or not. Nothing is imported from sam_jax,
# which would load JAX: it takes the memory of a GPU, and need not be there.
# Hence argparse and not `sam_jax._cli`, and the message of `sam_jax.extras`.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

try:
  import torch
except ModuleNotFoundError as error:
  if error.name != 'torch':
    raise
  sys.exit(
    'benchmark_torch: torch is not installed; install it with: '
    "pip install 'sam_jax[torch]'"
  )

from scripts import benchmarking
from scripts.benchmarking import torch_networks, torch_step, workers

_FORMATS = {
  'contiguous': torch.contiguous_format,
  'channels_last': torch.channels_last,
}
_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
_WARM_UP = 2  # steps, of which the first compiles


class _Parser(argparse.ArgumentParser):
  """Raises what is wrong, for one line without the usage before it."""

  def error(self, message: str) -> NoReturn:
    """Raises ValueError."""
    raise ValueError(f'{message}; --help lists the flags')


class Candidate:
  """A method in training: what it is, and how long its steps take."""

  def __init__(self, options: argparse.Namespace, method: str):
    """Makes the network, and takes the first steps."""
    self._device = torch.device(options.device)
    if self._device.type == 'cuda':
      self._held = torch.cuda.memory_allocated()
    self._trainer = _trainer(options, method)
    self._batch = _batch(options)
    self.compile_seconds = self.take(1)
    if self._device.type == 'cuda':  # without the kernels that were tried
      torch.cuda.reset_peak_memory_stats()
    self.take(_WARM_UP - 1)
    self.memory_bytes = self._peak_memory()

  def take(self, count: int) -> float:
    """Takes steps; returns the seconds of one, and waits for the last."""
    start = self._now()
    for _ in range(count):
      self._trainer.step(self._batch)
    return (self._now() - start) / count

  def _now(self) -> float:
    """Returns the time when all is done that was begun."""
    if self._device.type == 'cuda':
      torch.cuda.synchronize()
    return time.perf_counter()

  def _peak_memory(self) -> int | None:
    """Returns the bytes that this method has taken; None on a CPU."""
    if self._device.type != 'cuda':
      return None
    return torch.cuda.max_memory_allocated() - self._held


def _trainer(options: argparse.Namespace, method: str) -> torch_step.Trainer:
  """Returns the training of a new network."""
  with torch.device(options.device):
    network = _network(options)
  return torch_step.Trainer(
    network,
    torch_step.RECIPES[options.optimizer],
    method=method,
    m=options.m,
    microbatch_size=options.microbatch_size,
    precision=torch_step.Precision(
      compute_dtype=_DTYPES[options.compute_dtype],
      memory_format=_FORMATS[options.layout],
      is_compiled=options.compile,
    ),
  )


def _network(options: argparse.Namespace) -> torch.nn.Module:
  return torch_networks.create(
    options.network,
    num_classes=options.vocabulary_size
    if torch_networks.is_text(options.network)
    else options.num_classes,
    image_size=options.image_size,
    context_length=options.context_length,
  )


def _batch(options: argparse.Namespace) -> tuple[torch.Tensor, ...]:
  """Returns random images and labels, or random windows of tokens."""
  n, size = options.batch_size, options.image_size
  if torch_networks.is_text(options.network):
    shape = (n, options.context_length + 1)
    tokens = torch.randint(options.vocabulary_size, shape)
    return (tokens.to(options.device),)
  images = torch.randint(256, (n, size, size, 3), dtype=torch.uint8)
  labels = torch.randint(options.num_classes, (n,))
  return images.to(options.device), labels.to(options.device)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  """Returns the flags, with the defaults that depend on others.

  Raises:
    ValueError: they do not fit together; the message has one line.
  """
  options = _parser().parse_args(argv)
  is_text = torch_networks.is_text(options.network)
  options.optimizer = options.optimizer or ('adamw' if is_text else 'sgd')
  options.m = options.m or options.batch_size
  options.microbatch_size = options.microbatch_size or options.m
  if options.batch_size % options.m or options.m % options.microbatch_size:
    raise ValueError(
      'microbatch_size must divide m, and m batch_size, got '
      f'{options.microbatch_size}, {options.m} and {options.batch_size}'
    )
  if options.device == 'cuda' and not torch.cuda.is_available():
    raise ValueError('PyTorch finds no CUDA device; use --device=cpu')
  return options


def _parser() -> _Parser:
  """Returns the parser; the flags of benchmark_step.py mean the same here."""
  parser = _Parser(
    prog='benchmark_torch.py',
    description='Measures a training step in PyTorch.',
    allow_abbrev=False,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )

  def choice(flag: str, values: Sequence[str], default: str | None, text: str):
    parser.add_argument(flag, choices=values, default=default, help=text)

  def number(flag: str, default: int | None, text: str):
    parser.add_argument(flag, type=_positive, default=default, help=text)

  parser.add_argument(
    '--network', default='WideResnet28x1', help='our name of the network'
  )
  methods = list(torch_step.PASSES)
  choice('--method', methods, None, 'method; both are timed unless it is given')
  choice(
    '--optimizer',
    list(torch_step.RECIPES),
    None,
    'optimizer; default adamw for text',
  )
  number('--batch_size', 128, 'batch size B')
  number('--m', None, 'examples that share a perturbation; default B')
  number('--microbatch_size', None, 'examples of a forward pass; default m')
  number('--image_size', 32, 'height and width')
  number('--num_classes', 10, 'number of classes of the images')
  number('--context_length', 128, 'tokens of a window')
  number('--vocabulary_size', 256, 'tokens that a language model knows')
  choice('--layout', list(_FORMATS), 'contiguous', 'layout of images in memory')
  choice('--compute_dtype', list(_DTYPES), 'float32', 'type of the activations')
  choice('--device', ['cpu', 'cuda'], 'cpu', 'device on which it runs')
  parser.add_argument(
    '--compile', action='store_true', help='whether torch.compile is used'
  )
  parser.add_argument(
    '--tf32',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='whether float32 is multiplied as TensorFloat-32 on a GPU, as in JAX',
  )
  number('--parameters', None, 'number that the network must have, as ours')
  number('--rounds', 7, 'number of rounds')
  number('--steps', 3, 'steps per round')
  parser.add_argument(
    '--serve', action='store_true', help='whether to serve as a worker'
  )
  return parser


def _positive(text: str) -> int:
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f'{value} is not positive')
  return value


def _describe(options: argparse.Namespace) -> dict:
  """Returns what is known before a step: name, size, FLOPs, versions.

  Raises:
    ValueError: the network has not as many parameters as it must have.
  """
  with torch.device('meta'):
    network, inputs = _network(options), _inputs(options)
  parameters = sum(p.numel() for p in network.parameters())
  if options.parameters not in (None, parameters):
    raise ValueError(
      f'{options.network} has {parameters:,} parameters in PyTorch, and '
      f'--parameters={options.parameters} says {options.parameters:,}; give '
      'both sides the same classes, image size, context and vocabulary'
    )
  versions = {'python': platform.python_version(), 'torch': torch.__version__}
  if options.device == 'cuda':
    versions['cuda'] = torch.version.cuda
  is_other = {
    'compile': options.compile,
    options.layout: options.layout != 'contiguous',
    options.compute_dtype: options.compute_dtype != 'float32',
  }
  return {
    'name': ' '.join(['torch', *(name for name in is_other if is_other[name])]),
    'parameters': parameters,
    'gradient_flops': torch_step.count_flops(network, inputs),
    'versions': versions,
    'device': _device_name(options.device),
  }


def _inputs(options: argparse.Namespace) -> torch.Tensor:
  """Returns zeros of the shape that the network takes."""
  n, size = options.batch_size, options.image_size
  if torch_networks.is_text(options.network):
    return torch.zeros(n, options.context_length, dtype=torch.long)
  return torch.zeros(n, 3, size, size)


def _device_name(device: str) -> str:
  if device == 'cuda':
    return torch.cuda.get_device_name()
  return f'{benchmarking.host()}, {torch.get_num_threads()} threads'


def _worker(
  options: argparse.Namespace,
) -> tuple[dict[str, Any], Callable[[int], float]]:
  """Returns what a worker says of itself, and what takes its steps."""
  about = _describe(options)
  method = options.method or 'sam'
  candidate = Candidate(options, method)
  facts = {
    'flops': torch_step.PASSES[method] * about.pop('gradient_flops'),
    'compile_s': candidate.compile_seconds,
    'memory_bytes': candidate.memory_bytes,
    'microbatch_size': options.microbatch_size,
  }
  return about | facts, candidate.take


def _show(options: argparse.Namespace) -> None:
  """Times the methods in turn, and prints a table."""
  about = _describe(options)
  methods = [options.method] if options.method else list(torch_step.PASSES)
  candidates = {method: Candidate(options, method) for method in methods}
  seconds = benchmarking.in_turn(
    {method: candidate.take for method, candidate in candidates.items()},
    rounds=options.rounds,
    count=options.steps,
    warm_up=0,  # they are warm
    say=benchmarking.say,
  )
  print(
    f'{options.network}, {about["parameters"]:,} parameters, batch '
    f'{options.batch_size}, m {options.m}, {options.rounds} rounds of '
    f'{options.steps} steps, {about["device"]}, {about["name"]} '
    f'{torch.__version__}'
  )
  print(
    f'{"method":8}{"compile, s":>12}{"step, ms":>26}{"examples/s":>12}'
    f'{"TFLOP/s":>10}{"memory, MiB":>13}{"/ " + methods[0]:>20}'
  )
  for method, candidate in candidates.items():
    flops = torch_step.PASSES[method] * about['gradient_flops']
    step = benchmarking.spread(seconds[method])
    milliseconds = {key: 1e3 * value for key, value in step.items()}
    ratio = benchmarking.spread(seconds[method] / seconds[methods[0]])
    memory = candidate.memory_bytes
    mib = '-' if memory is None else f'{memory / benchmarking.MIB:.0f}'
    print(
      f'{method:8}{candidate.compile_seconds:>12.1f}'
      f'{benchmarking.in_brackets(milliseconds):>26}'
      f'{options.batch_size / step["median"]:>12.1f}'
      f'{flops / step["median"] / 1e12:>10.3f}'
      f'{mib:>13}'
      f'{benchmarking.in_brackets(ratio):>20}'
    )


def main(argv: Sequence[str]) -> int:
  """Measures what the flags ask for; returns the exit status."""
  try:
    options = _parse(argv)
    if options.device == 'cuda':
      _set_up_cuda(options.tf32)
    if options.serve:
      return workers.serve(lambda: _worker(options))
    _show(options)
  except ValueError as error:
    print(f'benchmark_torch: {error}', file=sys.stderr)
    return 2
  except torch.OutOfMemoryError as error:
    print(f'benchmark_torch: {str(error).splitlines()[0]}', file=sys.stderr)
    return 1
  return 0


def _set_up_cuda(uses_tf32: bool) -> None:
  """Sets what users of a GPU set; convolutions are timed once, and chosen."""
  torch.cuda.init()  # before the memory is asked for
  torch.backends.cudnn.benchmark = True
  torch.backends.cudnn.allow_tf32 = uses_tf32
  torch.set_float32_matmul_precision('high' if uses_tf32 else 'highest')


def cli() -> None:
  sys.exit(main(sys.argv[1:]))


if __name__ == '__main__':
  cli()
