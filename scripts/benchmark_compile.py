"""Measures how long a training step takes to trace, lower and compile.

    python scripts/benchmark_compile.py --models=WideResnet28x10,Resnet50
    python scripts/benchmark_compile.py --models=Pyramid_ShakeDrop --remat

For each model, the whole step of SAM with the paper's CIFAR recipe, on the
smallest batch: two passes, clipping, optimizer, diagnostics. Nothing is run.
Memory is what the compiler plans besides arguments and results. --remat shows
in it where activations outweigh the parameters: give --batch_size=32 or so.

Any model's name can be asked for (`python -m sam_jax.models` lists them).
Without --models it is all of the paper and the CIFAR ResNets, but for the
largest, which take minutes and gigabytes: efficientnet-b8, -l2 and -l2-475.
"""

import pathlib
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli
from sam_jax.runs import provenance
from scripts import benchmarking
from scripts.benchmarking import measured_step

flags = _cli.Flags()
_MODELS = flags.DEFINE_list(
  'models',
  [
    'WideResnet28x1',
    'WideResnet28x10',
    'WideResnet28x6_ShakeShake',
    'PyramidNet272',
    'Pyramid_ShakeDrop',
    'CifarResnet20',
    'CifarResnet32',
    'CifarResnet56',
    'PreactResnet18',
    'PreactResnet32_wide',
    'Resnet50',
    'Resnet101',
    'Resnet152',
    *(f'efficientnet-b{i}' for i in range(8)),
  ],
  'Names of the models.',
)
_METHOD = flags.DEFINE_string('method', 'sam', 'Name of the method.')
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 2, 'Batch size B.', lower_bound=1
)
_SIZE = flags.DEFINE_integer(
  'image_size', 32, 'Height and width, EfficientNets included.'
)
_REMAT = flags.DEFINE_bool('remat', False, 'Whether blocks are recomputed.')
_JSON = flags.DEFINE_string('json', None, 'File for all figures.')

_HEADER = (
  'model',
  'parameters',
  'trace, s',
  'lower, s',
  'compile, s',
  'total, s',
  'program, lines',
  'temporary, MiB',
)


def main(argv: Sequence[str]) -> None:
  _cli.refuse_arguments(argv[1:])
  rows = []
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
  print(f'{_HEADER[0]:28}' + ''.join(f'{name:>16}' for name in _HEADER[1:]))
  for name in _MODELS.value:
    rows.append(_measure(name))
    cells = list(rows[-1].values())
    print(
      f'{cells[0]:28}'
      + ''.join(
        f'{c:16,.1f}' if isinstance(c, float) else f'{c:16,}' for c in cells[1:]
      ),
      flush=True,
    )
  content = {**benchmarking.describe(), 'models': rows}
  benchmarking.write(_JSON.value, content)


def _measure(name: str) -> dict[str, object]:
  """Returns the figures of one model."""
  setup = measured_step.Setup(
    model=name,
    batch_size=_BATCH_SIZE.value,
    method=_METHOD.value,
    image_size=_SIZE.value,
    remat=_REMAT.value,
  )
  experiment = setup.build()
  state = experiment.state_shapes()
  batch = experiment.task.batch_shapes(_BATCH_SIZE.value)
  times = [time.perf_counter()]
  traced = experiment.compile_train_step().trace(state, batch)
  times.append(time.perf_counter())
  lowered = traced.lower()
  times.append(time.perf_counter())
  compiled = lowered.compile()
  times.append(time.perf_counter())
  trace, lower, compiling = np.diff(times)
  return dict(
    zip(
      _HEADER,
      (
        name,
        provenance.count_parameters(state.params),
        float(trace),
        float(lower),
        float(compiling),
        float(times[-1] - times[0]),
        lowered.as_text().count('\n'),
        compiled.memory_analysis().temp_size_in_bytes / 2**20,
      ),
      strict=True,
    )
  )


def cli() -> None:
  _cli.run(main, 'benchmark_compile', flags)


if __name__ == '__main__':
  cli()
