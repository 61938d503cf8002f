"""Measures a Hessian-vector product: time in gradients, and memory.

    python scripts/benchmark_analysis.py --model=WideResnet28x1

A gradient and a product with the Hessian, both over the same random images and
compiled as the analysis does, are timed in turn, A B A B, so that what else the
machine does falls on both; the ratio is the median over the rounds. Memory is
what the process holds at most while it walks `--batches` batches, and ten times
as many, which are made when they are wanted.
"""

import functools
import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli, analysis, models
from sam_jax.runs import files, initialization, provenance
from sam_jax.tasks import losses

flags = _cli.Flags()
_MODEL = flags.DEFINE_string('model', 'WideResnet28x1', 'Name of the model.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 32, 'Height and width.')
_CHANNELS = flags.DEFINE_integer('channels', 3, 'Channels.')
_MICROBATCH = flags.DEFINE_integer(
  'microbatch_size', 64, 'Examples per forward pass.', lower_bound=1
)
_BATCHES = flags.DEFINE_integer('batches', 2, 'Batches per walk.', 1)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Rounds.', lower_bound=1)
_JSON = flags.DEFINE_string('json', None, 'File for all figures.')

_NUM_CLASSES = 10


def main(argv: Sequence[str]) -> None:
  _cli.refuse_arguments(argv[1:])
  model = models.create(name=_MODEL.value, num_classes=_NUM_CLASSES)
  shape = (1, _IMAGE_SIZE.value, _IMAGE_SIZE.value, _CHANNELS.value)
  variables = initialization.init_variables(model, np.zeros(shape), 0)
  objective = analysis.Objective(
    functools.partial(_loss, model, dict(variables)),
    functools.partial(_batches, _BATCHES.value),
  )
  params = objective.place(variables['params'])
  gradient = functools.partial(objective.value_and_grad, params)
  product = functools.partial(objective.hvp, params, params)
  _seconds(gradient), _seconds(product)  # compile
  times = []
  for done in range(_ROUNDS.value):
    times.append((_seconds(gradient), _seconds(product)))
    print(f'round {done + 1}/{_ROUNDS.value}', file=sys.stderr, flush=True)
  few = _peak_mib()
  longer = objective.over(functools.partial(_batches, 10 * _BATCHES.value))
  _seconds(functools.partial(longer.hvp, params, params))
  _report(params, np.array(times), (few, _peak_mib()))


def _loss(model, variables, params, batch):
  """Returns the loss of each example, in evaluation mode."""
  images = batch['image']
  logits = model.apply({**variables, 'params': params}, images, train=False)
  return losses.cross_entropy(logits, batch['label'])


def _batches(count: int) -> Iterator[dict[str, np.ndarray]]:
  """Yields random images."""
  rows = _MICROBATCH.value * jax.device_count()
  size, channels = _IMAGE_SIZE.value, _CHANNELS.value
  rng = np.random.default_rng(0)
  for _ in range(count):
    yield {
      'image': rng.standard_normal((rows, size, size, channels), np.float32),
      'label': rng.integers(0, _NUM_CLASSES, rows).astype(np.int32),
    }


def _seconds(fn: Callable[[], object]) -> float:
  """Returns how long a walk takes."""
  start = time.perf_counter()
  jax.block_until_ready(fn())
  return time.perf_counter() - start


def _peak_mib() -> float:
  """Returns the most memory that the process has held."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _report(params, times: np.ndarray, peaks: tuple[float, float]) -> None:
  """Prints the figures; writes them if asked to."""
  gradient, product = np.median(1e3 * times, axis=0)
  ratios = times[:, 1] / times[:, 0]
  figures = {
    'model': _MODEL.value,
    'parameters': provenance.count_parameters(params),
    'examples': _BATCHES.value * _MICROBATCH.value * jax.device_count(),
    'gradient_ms': gradient,
    'product_ms': product,
    'ratio': float(np.median(ratios)),
    'ratio_min': float(ratios.min()),
    'ratio_max': float(ratios.max()),
    'peak_mib': peaks[0],
    'peak_mib_of_ten_times_the_examples': peaks[1],
  }
  print(
    f'{_MODEL.value}, {figures["parameters"]:,} parameters, '
    f'{figures["examples"]} examples, {_ROUNDS.value} rounds, '
    f'{jax.device_count()} x {jax.devices()[0].device_kind}, '
    f'jax {jax.__version__}\n'
    f'gradient {gradient:.0f} ms, Hessian-vector product {product:.0f} ms: '
    f'{figures["ratio"]:.2f} gradients '
    f'[{ratios.min():.2f}-{ratios.max():.2f}]\n'
    f'memory {peaks[0]:.0f} MiB, with ten times the examples '
    f'{peaks[1]:.0f} MiB'
  )
  if _JSON.value:
    with open(files.user_path(_JSON.value), 'w', encoding='utf-8') as stream:
      json.dump(figures | provenance.describe(), stream, indent=2)


def cli() -> None:
  _cli.run(main, 'benchmark_analysis', flags)


if __name__ == '__main__':
  cli()
