"""Measures a Hessian-vector product: time in gradients, and memory.

    python scripts/benchmark_analysis.py --model=WideResnet28x1

A gradient and a product with the Hessian, both over the same random images and
compiled as the analysis does, are timed in turn, A B A B, so that what else the
machine does falls on both; the ratio is the median over the rounds. Memory is
what the process holds at most while it walks `--batches` batches, and ten times
as many, which are made when they are wanted.
"""

import functools
import pathlib
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli, analysis, models, types
from sam_jax.runs import initialization, provenance
from sam_jax.tasks import losses
from scripts import benchmarking

flags = _cli.Flags()
_MODEL = flags.DEFINE_string('model', 'WideResnet28x1', 'Name of the model.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 32, 'Height and width.')
_CHANNELS = flags.DEFINE_integer('channels', 3, 'Channels of the images.')
_MICROBATCH = flags.DEFINE_integer(
  'microbatch_size', 64, 'Examples per forward pass.', lower_bound=1
)
_BATCHES = flags.DEFINE_integer('batches', 2, 'Batches per walk.', 1)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Number of rounds.', lower_bound=1)
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
  walks = {'gradient': gradient, 'product': product}
  seconds = benchmarking.in_turn(
    {k: functools.partial(benchmarking.timed, v) for k, v in walks.items()},
    rounds=_ROUNDS.value,
    count=1,
    warm_up=1,
    say=benchmarking.say,
  )
  few = _peak_mib()
  longer = objective.over(functools.partial(_batches, 10 * _BATCHES.value))
  benchmarking.timed(functools.partial(longer.hvp, params, params))
  _report(params, seconds, (few, _peak_mib()))


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


def _peak_mib() -> float:
  """Returns the most memory that the process has held."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _report(
  params: types.Params,
  seconds: Mapping[str, np.ndarray],
  peaks: tuple[float, float],
) -> None:
  """Prints the figures; writes them if asked to."""
  gradient, product = (1e3 * float(np.median(s)) for s in seconds.values())
  ratio = benchmarking.spread(seconds['product'] / seconds['gradient'])
  figures = {
    'model': _MODEL.value,
    'parameters': provenance.count_parameters(params),
    'examples': _BATCHES.value * _MICROBATCH.value * jax.device_count(),
    'gradient_ms': gradient,
    'product_ms': product,
    'ratio': ratio,
    'peak_mib': peaks[0],
    'peak_mib_of_ten_times_the_examples': peaks[1],
  }
  print(
    f'{_MODEL.value}, {figures["parameters"]:,} parameters, '
    f'{figures["examples"]} examples, {_ROUNDS.value} rounds, '
    f'{jax.device_count()} x {jax.devices()[0].device_kind}, '
    f'jax {jax.__version__}\n'
    f'gradient {gradient:.0f} ms, Hessian-vector product {product:.0f} ms: '
    f'{benchmarking.in_brackets(ratio)} gradients\n'
    f'memory {peaks[0]:.0f} MiB, with ten times the examples '
    f'{peaks[1]:.0f} MiB'
  )
  benchmarking.write(_JSON.value, figures | benchmarking.describe())


def cli() -> None:
  _cli.run(main, 'benchmark_analysis', flags)


if __name__ == '__main__':
  cli()
