"""optax.contrib.sam on our networks, as a worker of `benchmark_peers.py`.

    python scripts/benchmark_optax.py --serve --network=WideResnet28x1 \
        --batch_size=128 --method=sam

A step is `jax.jit` of what users of optax write: the gradient, the transform's
update in opaque mode, where it asks for the second gradient itself, and the
parameters' update. BatchNorm's statistics are those of the first pass, in an
aux; there is no augmentation, and nothing is measured besides. 'sgd' is the
same step with the optimizer alone. benchmarking/workers.py says what a worker
does.
"""

import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli, models
from sam_jax.runs import initialization, provenance
from scripts import benchmarking
from scripts.benchmarking import flops, workers

flags = _cli.Flags()
_NETWORK = flags.DEFINE_string(
  'network', 'WideResnet28x1', 'Our name of the network.'
)
_METHOD = flags.DEFINE_enum(
  'method', 'sam', ['sgd', 'sam'], 'The method: sgd or sam.'
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 128, 'Batch size B.', lower_bound=1
)
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 32, 'Height and width.')
_CONTEXT_LENGTH = flags.DEFINE_integer(
  'context_length', None, 'Tokens of a window, for a language model.'
)
_VOCABULARY_SIZE = flags.DEFINE_integer(
  'vocabulary_size', 256, 'Tokens that a language model knows.'
)
_SERVE = flags.DEFINE_bool(
  'serve', False, 'Has to be given: this script only serves as a worker.'
)

_NUM_CLASSES = 10
_RHO, _DECAY = 0.05, 5e-4


def main(argv: Sequence[str]) -> int:
  _cli.refuse_arguments(argv[1:])
  if not _SERVE.value:
    raise ValueError(
      'this is a worker; give --serve, or run benchmark_peers.py'
    )
  return workers.serve(_prepare)


def _prepare() -> tuple[dict[str, Any], Callable[[int], float]]:
  """Returns what the worker says of itself, and what takes its steps."""
  model, batch = _model(), jax.device_put(_batch())
  variables = initialization.init_variables(model, batch['inputs'][:1], 0)
  optimizer = _optimizer()
  params = variables['params']
  stats = variables.get('batch_stats', {})
  state = (params, stats, optimizer.init(params))
  step = jax.jit(_step(model, optimizer), donate_argnums=0)
  start = time.perf_counter()
  traced = step.trace(state, batch)
  compiled = traced.lower().compile()
  seconds = time.perf_counter() - start
  states = [state]

  def take(count: int) -> float:
    state = states.pop()
    start = time.perf_counter()
    for _ in range(count):
      state = compiled(state, batch)
    states.append(jax.block_until_ready(state))
    return (time.perf_counter() - start) / count

  take(2)
  facts = {
    'name': f'optax {_METHOD.value}',
    'parameters': provenance.count_parameters(params),
    'flops': flops.count(traced.jaxpr),
    'compile_s': seconds,
    'memory_bytes': int(benchmarking.memory(compiled) * benchmarking.MIB),
  }
  return facts | provenance.describe(), take


def _model() -> Any:
  """Returns our network."""
  if _CONTEXT_LENGTH.value is None:
    return models.create(_NETWORK.value, num_classes=_NUM_CLASSES)
  return models.create(
    _NETWORK.value,
    num_classes=_VOCABULARY_SIZE.value,
    context_length=_CONTEXT_LENGTH.value,
  )


def _batch() -> dict[str, np.ndarray]:
  """Returns random images and labels, or random windows and their targets."""
  rng, n = np.random.default_rng(0), _BATCH_SIZE.value
  if _CONTEXT_LENGTH.value is not None:
    shape = (n, _CONTEXT_LENGTH.value + 1)
    tokens = rng.integers(0, _VOCABULARY_SIZE.value, shape, np.int32)
    return {'inputs': tokens[:, :-1], 'labels': tokens[:, 1:]}
  size = _IMAGE_SIZE.value
  images = rng.standard_normal((n, size, size, 3), np.float32)
  labels = rng.integers(0, _NUM_CLASSES, n, np.int32)
  return {'inputs': images, 'labels': labels}


def _optimizer() -> optax.GradientTransformation:
  """Returns SGD or AdamW, and SAM around it."""
  if _CONTEXT_LENGTH.value is None:
    optimizer = optax.chain(
      optax.clip_by_global_norm(5.0),
      optax.sgd(0.1, momentum=0.9, nesterov=True),
    )
  else:
    optimizer = optax.chain(
      optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.1)
    )
  if _METHOD.value == 'sgd':
    return optimizer
  ascent = optax.chain(optax.contrib.normalize(), optax.sgd(_RHO))
  return optax.contrib.sam(optimizer, ascent, sync_period=2, opaque_mode=True)


def _step(
  model: Any, optimizer: optax.GradientTransformation
) -> Callable[[Any, Any], Any]:
  """Returns `(state, batch) -> state`."""

  def loss(params: Any, stats: Any, batch: Any) -> tuple[jax.Array, Any]:
    logits, updated = model.apply(
      {'params': params, 'batch_stats': stats},
      batch['inputs'],
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(0)},
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['labels']
    )
    penalty = 0.0
    if _CONTEXT_LENGTH.value is None:
      penalty = 0.5 * _DECAY * optax.tree.norm(params, squared=True)
    return jnp.mean(losses) + penalty, updated.get('batch_stats', {})

  def step(state: Any, batch: Any) -> Any:
    params, stats, opt_state = state
    grads, new_stats = jax.grad(loss, has_aux=True)(params, stats, batch)
    options = {}
    if _METHOD.value == 'sam':
      options['grad_fn'] = lambda p, _: jax.grad(loss, has_aux=True)(
        p, stats, batch
      )[0]
    updates, opt_state = optimizer.update(grads, opt_state, params, **options)
    return optax.apply_updates(params, updates), new_stats, opt_state

  return step


def cli() -> None:
  _cli.run(main, 'benchmark_optax', flags)


if __name__ == '__main__':
  cli()
