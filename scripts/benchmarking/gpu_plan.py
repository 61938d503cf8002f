"""What `benchmark_gpu.py` measures, in which order, at which sizes.

The cheapest comes first: SGD and SAM of each network, then what needs more
compilations. The seconds of an entry are an estimate for one H100, start-up and
compilation included; an entry that would not fit any more is left out.
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
# Seconds of SGD and SAM; of the other methods; of PyTorch, eager and compiled.
_SECONDS = {
  'WRN-28-10': (30, 45, 20, 75),
  'WRN-28-10 in float32': (35, 45, 25, 75),
  'ResNet-50': (35, 50, 25, 90),
  'ViT-S/16': (40, 55, 25, 90),
  'GPT-2 small': (45, 60, 30, 100),
}
_SHARE = {'full': 1, 'reduced': 1 / 3}  # of these seconds
_QUARTER, _LOOKSAM = 'quarter_sam', 'looksam(every=5)'
# Rounds, and steps in each: as many as LookSAM's period.
_TIMING = {
  'full': {'rounds': 3, 'count': 5},
  'reduced': {'rounds': 1, 'count': 5},
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
  """

  name: str
  kind: str
  seconds: float
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def first() -> Entry:
  """Returns what is measured before anything is known of the machine."""
  return Entry(FIRST, 'peak', 15)


def plan(
  scale: str, *, platform: str = 'cpu', torch_python: str | None = None
) -> list[Entry]:
  """Returns what is measured after that, in order.

  Args:
    scale: one of `SCALES`.
    platform: of the device, for PyTorch.
    torch_python: that has PyTorch; None leaves it out.
  """
  entries = _entries(scale, platform, torch_python)
  return [
    dataclasses.replace(entry, seconds=_SHARE[scale] * entry.seconds)
    for entry in entries
  ]


def environment(scale: str) -> dict[str, str]:
  """Returns the variables of a process that measures at a scale.

  What is reduced is not worth the time of the compiler's optimisations.
  """
  return {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'} if scale == 'reduced' else {}


def _entries(
  scale: str, platform: str, torch_python: str | None
) -> list[Entry]:
  """Returns the entries in order."""
  networks = _NETWORKS[scale]
  entries = [_cheap(name, setup, scale) for name, setup in networks.items()]
  device = {'cpu': 'cpu', 'gpu': 'cuda'}.get(platform)
  peers = networks if torch_python and device else {}
  run = {'python': torch_python, **_TIMING[scale]}
  entries += [
    _torch(name, setup, device, is_compiled=False, **run)
    for name, setup in peers.items()
  ]
  entries += _singles(scale)
  entries += [_dear(name, setup, scale) for name, setup in networks.items()]
  entries += [
    _torch(name, setup, device, is_compiled=True, **run)
    for name, setup in peers.items()
  ]
  return entries


def _cheap(name: str, setup: Setup, scale: str) -> Entry:
  """Returns SGD, or AdamW, and SAM."""
  return Entry(
    f'{name}: SGD, SAM',
    'step',
    _SECONDS[name][0],
    {'setups': _setups(setup, 'sam'), **_TIMING[scale]},
  )


def _dear(name: str, setup: Setup, scale: str) -> Entry:
  """Returns what shows what other methods and sizes of m cost."""
  setups = _setups(setup, _QUARTER, _LOOKSAM)
  setups[_label('sam', 8)] = _with_groups(setup, 8)
  return Entry(
    f'{name}: quarter ascent, LookSAM, m = B/8',
    'step',
    _SECONDS[name][1],
    {'setups': setups, **_TIMING[scale]},
  )


def _setups(setup: Setup, *methods: str) -> dict[str, Setup]:
  """Returns the steps of methods, after the optimizer's own."""
  own = {_label(m): dataclasses.replace(setup, method=m) for m in methods}
  return {setup.optimizer: setup, **own}


def _with_groups(setup: Setup, groups: int, **changes: Any) -> Setup:
  """Returns SAM with so many groups in a batch."""
  m = setup.batch_size // groups
  size = min(setup.microbatch_size or m, m)
  return dataclasses.replace(
    setup, method='sam', m=m, microbatch_size=size, **changes
  )


def _label(method: str, groups: int = 1) -> str:
  """Returns what tables call a method."""
  return f'{method}, m = B/{groups}' if groups > 1 else method


def _singles(scale: str) -> Iterator[Entry]:
  """Yields what is measured of one network or two."""
  networks = _NETWORKS[scale]
  convolutions, text = networks['WRN-28-10'], networks['GPT-2 small']
  for name, setup, size in (
    ('WRN-28-10', convolutions, 128),
    ('GPT-2 small', text, 8),
  ):
    size = min(size, setup.batch_size)
    small = dataclasses.replace(setup, batch_size=size, microbatch_size=size)
    yield Entry(f'{name}: epsilon', 'epsilon', 40, {'setup': small})
  for name, setup in (('WRN-28-10', convolutions), ('GPT-2 small', text)):
    yield Entry(
      f'{name}: determinism', 'determinism', 40, {'setup': setup, 'count': 3}
    )
  small = Setup('cnn', 25, method='sam', image_size=8, channels=1)
  yield Entry(
    'cnn: five runs at once', 'replicas', 20, {'setup': small, 'number': 5}
  )
  recipes = ('basic', 'autoaugment+cutout')
  yield Entry(
    'WRN-28-10: waiting for input',
    'input',
    50,
    {'arguments': _INPUT[scale], 'recipes': recipes},
  )
  loops = {
    loop: _with_groups(convolutions, 2, loop=loop)
    for loop in ('scan', 'unroll')
  }
  yield Entry(
    'WRN-28-10: loops', 'step', 60, {'setups': loops, **_TIMING[scale]}
  )


def _torch(
  name: str,
  setup: Setup,
  device: str | None,
  *,
  is_compiled: bool,
  **run: Any,
) -> Entry:
  """Returns the same network in PyTorch, with SGD or AdamW, and SAM."""
  arguments = {
    _label(method): [f'--method={method}', *_flags(setup, device)]
    + ['--compile'] * is_compiled
    for method in ('sgd', 'sam')
  }
  return Entry(
    f'{name}: PyTorch, {"compiled" if is_compiled else "eager"}',
    'torch',
    _SECONDS[name][3 if is_compiled else 2],
    {'arguments': arguments, **run},
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
