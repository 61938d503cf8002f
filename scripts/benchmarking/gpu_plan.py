"""What `benchmark_gpu.py` measures, in which order, at which sizes.

A network's steps are one entry: one process, and programs that are compiled
beside each other. The seconds of an entry are an estimate for one H100 and 16
cores, and count what a process needs to start (8 s), to trace a program (1 to
2 s each), to compile (15 to 30 s beside each other), and the steps. All but
`is_extra` fits into 8 minutes together.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scripts.benchmarking.measured_step import Setup

SCALES = ('full', 'reduced')
FIRST = 'matmul peak'

_HALF = 'bfloat16'
_IMAGENET = {'image_size': 224, 'num_classes': 1000}
_NETWORKS = {
  'full': {
    'WRN-28-10': Setup('WideResnet28x10', 256, compute_dtype=_HALF),
    'WRN-28-10 in float32': Setup('WideResnet28x10', 256),
    'ResNet-50': Setup('Resnet50', 256, compute_dtype=_HALF, **_IMAGENET),
    'ViT-S/16': Setup(
      'ViT-S/16', 1024, compute_dtype=_HALF, optimizer='adamw', **_IMAGENET
    ),
    'GPT-2 small': Setup(
      'gpt2',
      64,
      microbatch_size=8,
      context_length=1024,
      vocabulary_size=50_257,
      compute_dtype=_HALF,
      optimizer='adamw',
    ),
  },
  # The same list in small, to see on a CPU that all of it runs.
  'reduced': {
    'WRN-28-10': Setup('WideResnet10x1', 16, compute_dtype=_HALF),
    'WRN-28-10 in float32': Setup('WideResnet10x1', 16),
    'ResNet-50': Setup('Resnet50', 8),
    'ViT-S/16': Setup('ViT-Ti/16', 8, compute_dtype=_HALF, optimizer='adamw'),
    'GPT-2 small': Setup(
      'gpt-tiny',
      8,
      microbatch_size=4,
      context_length=32,
      compute_dtype=_HALF,
      optimizer='adamw',
    ),
  },
}
# Seconds of all steps; of PyTorch, eager and compiled.
_SECONDS = {
  'WRN-28-10': (52, 18, 75),
  'WRN-28-10 in float32': (30, 25, 75),
  'ResNet-50': (58, 18, 90),
  'ViT-S/16': (53, 18, 90),
  'GPT-2 small': (68, 22, 100),
}
_FIRST_NETWORK, _FLOAT32 = 'WRN-28-10', 'WRN-28-10 in float32'
# Networks with SAM alone: a CPU compiles deep ones for minutes.
_PLAIN = {
  'full': (_FLOAT32,),
  'reduced': (_FLOAT32, 'ResNet-50', 'ViT-S/16'),
}
_QUARTER, _LOOKSAM = 'quarter_sam', 'looksam(every=5)'
# Rounds, and steps in each: as many as LookSAM's period.
_TIMING = {
  'full': {'rounds': 3, 'count': 5},
  'reduced': {'rounds': 1, 'count': 2},
}
_INPUT = {
  'full': ('--model=WideResnet28x10', '--batch_size=256', '--rounds=3',
           f'--compute_dtype={_HALF}', '--steps=5'),
  'reduced': ('--model=cnn', '--batch_size=32', '--rounds=1', '--steps=3'),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Entry:
  """Something to measure.

  Attributes:
    name: no other one has it.
    kind: of `gpu_entries`.
    seconds: that it takes.
    options: of the function that measures.
    is_extra: whether it comes after what 8 minutes have room for.
  """

  name: str
  kind: str
  seconds: float
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  is_extra: bool = False


def first() -> Entry:
  """Returns what is measured before anything is known of the machine."""
  return Entry(FIRST, 'peak', 13)


def plan(
  scale: str, *, platform: str = 'cpu', torch_python: str | None = None
) -> list[Entry]:
  """Returns what is measured after that, in order.

  Args:
    scale: one of `SCALES`.
    platform: of the device, for PyTorch.
    torch_python: that has PyTorch; None leaves it out.
  """
  networks, timing = _NETWORKS[scale], _TIMING[scale]
  device = {'cpu': 'cpu', 'gpu': 'cuda'}.get(platform)
  run = {'python': torch_python, **timing}
  steps = {k: _steps(k, setup, scale) for k, setup in networks.items()}
  eager = {k: _torch(k, setup, device, **run) for k, setup in networks.items()}
  large = [k for k in networks if k not in (_FIRST_NETWORK, _FLOAT32)]
  entries = [
    steps[_FIRST_NETWORK],
    eager[_FIRST_NETWORK],
    *(steps[k] for k in large),
    *(eager[k] for k in large),
    steps[_FLOAT32],
    *_singles(scale),
    dataclasses.replace(eager[_FLOAT32], is_extra=True),
    *(
      _torch(k, setup, device, is_compiled=True, **run)
      for k, setup in networks.items()
    ),
  ]
  has_torch = torch_python and device
  return [e for e in entries if has_torch or e.kind != 'torch']


def environment(scale: str) -> dict[str, str]:
  """Returns the variables of a process that measures at a scale.

  What is reduced is not worth the time of the compiler's optimisations.
  """
  return {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'} if scale == 'reduced' else {}


def _steps(name: str, setup: Setup, scale: str) -> Entry:
  """Returns SGD or AdamW, and SAM; mostly other methods and m, too."""
  setups = _setups(setup, 'sam')
  if name not in _PLAIN[scale]:
    setups['sam, m = B/8'] = _with_groups(setup, 8)
    setups |= _setups(setup, _QUARTER, _LOOKSAM)
  return Entry(
    f'{name}: steps',
    'step',
    _SECONDS[name][0],
    {'setups': setups, **_TIMING[scale]},
  )


def _setups(setup: Setup, *methods: str) -> dict[str, Setup]:
  """Returns the steps of methods, after the optimizer's own."""
  own = {m: dataclasses.replace(setup, method=m) for m in methods}
  return {setup.optimizer: setup, **own}


def _with_groups(setup: Setup, groups: int, **changes: Any) -> Setup:
  """Returns SAM with so many groups in a batch."""
  m = setup.batch_size // groups
  size = min(setup.microbatch_size or m, m)
  return dataclasses.replace(
    setup, method='sam', m=m, microbatch_size=size, **changes
  )


def _singles(scale: str) -> Iterator[Entry]:
  """Yields what is measured of one network alone."""
  network = _NETWORKS[scale]['WRN-28-10']
  loops = {
    loop: _with_groups(network, 2, loop=loop) for loop in ('scan', 'unroll')
  }
  yield Entry(
    'WRN-28-10: loops', 'step', 33, {'setups': loops, **_TIMING[scale]}
  )
  size = min(128, network.batch_size)
  small = dataclasses.replace(network, batch_size=size)
  yield Entry('WRN-28-10: epsilon', 'epsilon', 24, {'setup': small})
  yield Entry(
    'WRN-28-10: determinism',
    'determinism',
    24,
    {'setup': network, 'count': 3},
  )
  # If the most expensive recipe does not keep steps waiting, no other one does.
  yield Entry(
    'WRN-28-10: waiting for input',
    'input',
    26,
    {'arguments': _INPUT[scale], 'recipes': ('autoaugment+cutout',)},
  )
  small = Setup('cnn', 25, method='sam', image_size=8, channels=1)
  yield Entry(
    'cnn: five runs at once', 'replicas', 13, {'setup': small, 'number': 5}
  )


def _torch(
  name: str,
  setup: Setup,
  device: str | None,
  *,
  is_compiled: bool = False,
  **run: Any,
) -> Entry:
  """Returns the same network in PyTorch, with SGD or AdamW, and SAM."""
  flags = [*_flags(setup, device), *(['--compile'] if is_compiled else [])]
  arguments = {
    setup.optimizer: ['--method=sgd', *flags],
    'sam': ['--method=sam', *flags],
  }
  return Entry(
    f'{name}: PyTorch, {"compiled" if is_compiled else "eager"}',
    'torch',
    _SECONDS[name][2 if is_compiled else 1],
    {'arguments': arguments, **run},
    is_extra=is_compiled,
  )


def _flags(setup: Setup, device: str | None) -> Sequence[str]:
  """Returns the flags of `benchmark_torch.py` for a network."""
  values = {
    'network': setup.model,
    'batch_size': setup.batch_size,
    'optimizer': setup.optimizer,
    'compute_dtype': setup.compute_dtype,
    'device': device,
  }
  if setup.microbatch_size:
    values['microbatch_size'] = setup.microbatch_size
  if setup.context_length:
    values['context_length'] = setup.context_length
    values['vocabulary_size'] = setup.vocabulary_size
  else:
    values['image_size'] = setup.image_size
    values['num_classes'] = setup.num_classes
    if not setup.model.startswith('ViT'):
      values['layout'] = 'channels_last'
  return [f'--{key}={value}' for key, value in values.items()]
