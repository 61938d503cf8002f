"""What `benchmark_gpu.py` measures, in a process of its own for each entry.

A process gives the memory of the device back when it ends, so that PyTorch has
it next, and what one entry has broken is not broken for the others.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import sam_jax
from sam_jax import keys, tree
from sam_jax.runs import initialization
from sam_jax.training import precision, train_step
from scripts import benchmark_input, benchmarking
from scripts.benchmarking import gpu_plan, gpu_steps, measured_step, workers

Results = Iterator[dict[str, Any]]

_RHO = 0.05
# Of matrix products and convolutions: dtype, and what of float32 they see.
_PRECISIONS = {
  'float32': ('float32', 'float32'),
  'tensorfloat32': ('float32', 'tensorfloat32'),
  'bfloat16': ('bfloat16', None),
}
# What makes XLA choose kernels that add up in one order on a GPU.
_DETERMINISTIC = {'xla_gpu_deterministic_ops': True}


def run(entry: gpu_plan.Entry) -> Results:
  """Yields the results of an entry, each as soon as it is there.

  The first one only says on which device they will be. An entry of PyTorch has
  none: to ask JAX would take the memory of a GPU.
  """
  about = {'entry': entry.name, 'what': entry.kind}
  if entry.kind != 'torch':
    about['device'] = benchmarking.device()
    yield about | {'what': 'device'}
  try:
    for result in _MEASURES[entry.kind](**entry.options):
      yield about | result
  except Exception as error:  # of one entry; the others are measured
    yield about | {'what': 'error', 'error': workers.one_line(error)}


def _peak() -> Results:
  """Yields the machine, and the rate of a matrix product in each precision."""
  yield {'platform': jax.default_backend(), **benchmarking.describe()}
  for name, (dtype, matmul) in _PRECISIONS.items():
    rate = benchmarking.peak(dtype, matmul)
    yield {'precision': name, 'flops_per_second': rate}


def _determinism(setup: measured_step.Setup, count: int) -> Results:
  """Yields whether a step from one state gives the same bits each time."""
  candidate = gpu_steps.fitting(setup)
  start = candidate.copy_state()
  lowered = candidate.experiment.compile_train_step().lower(
    candidate.state, candidate.batch
  )
  for options in ({}, _DETERMINISTIC):
    if options:
      candidate.step = lowered.compile(compiler_options=options)
    found = []
    for _ in range(count):
      candidate.state = jax.tree.map(lambda x: x.copy(), start)
      candidate.take(1)
      found.append(jax.device_get(candidate.state.params))
    first, *others = found
    yield {
      'options': options,
      'repeats': count,
      'is_bit_equal': all(_is_bit_equal(first, other) for other in others),
      'largest_relative_difference': max(
        _difference(first, other) for other in others
      ),
      'step_ms': 1e3 * candidate.take(count),
    }


def _is_bit_equal(one: Any, other: Any) -> bool:
  """Returns whether two trees have the same bytes, whatever they stand for."""
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(a.tobytes() == b.tobytes() for a, b in pairs)


def _difference(one: Any, other: Any) -> float:
  """Returns how far two trees of NumPy are apart, in lengths of the first."""
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  squares = [(np.sum((b - a) ** 2), np.sum(a**2)) for a, b in pairs]
  off, length = np.sum(squares, axis=0, dtype=np.float64)
  return float(np.sqrt(off / length))


def _epsilon(setup: measured_step.Setup) -> Results:
  """Yields how far the perturbation of a precision is from float32's."""
  experiment = setup.build()
  state = initialization.initial_state(experiment, seed=0)
  stream = experiment.task.train_batches(
    experiment.dataset.train, setup.batch_size, seed=0
  )
  batch = jax.device_put(next(stream))
  exact = None
  for name, (dtype, matmul) in _PRECISIONS.items():
    own = dataclasses.replace(
      setup, compute_dtype=dtype, matmul_precision=matmul
    )
    fns = own.build().fns
    epsilon = jax.jit(functools.partial(_perturbation, fns))(state, batch)
    exact = epsilon if exact is None else exact
    bits = precision.mantissa_bits(dtype, matmul, jax.default_backend())
    found = _compare(state.params, exact, epsilon, bits)
    yield {'precision': name, **{k: float(v) for k, v in found.items()}}


@functools.partial(jax.jit, static_argnames='bits')
def _compare(
  params: Any, exact: Any, epsilon: Any, bits: int
) -> dict[str, jax.Array]:
  """Returns how far a perturbation is from the exact one, and what is left.

  Args:
    params: which they perturb.
    exact: perturbation, in float32.
    epsilon: of another precision.
    bits: of that precision's mantissa.
  """
  off = tree.norm(jax.tree.map(lambda a, b: b - a, exact, epsilon))
  return {
    'relative_difference': off / tree.norm(exact),
    'cosine': tree.cosine(exact, epsilon),
    **precision.effective_perturbation(params, epsilon, bits),
  }


def _perturbation(
  fns: train_step.StepFns, state: train_step.TrainState, batch: Any
) -> Any:
  """Returns the perturbation of the parameters that a batch makes."""
  pieces = train_step.prepare(batch, state.step, fns)
  piece = jax.tree.map(lambda x: x[0], pieces)

  def loss(params: Any) -> jax.Array:
    outputs, _ = fns.apply_fn(
      {'params': params, 'batch_stats': state.batch_stats},
      fns.task.inputs(piece),
      train=True,
      true_gradient=True,
      mutable=['batch_stats'],
      rngs={'dropout': keys.make(0)},
    )
    return fns.task.example_losses(outputs, piece).mean()

  return sam_jax.l2(_RHO)(jax.grad(loss)(state.params), state.params)


def _replicas(setup: measured_step.Setup, number: int) -> Results:
  """Yields what steps of several runs take at once, beside one after another.

  A network that is too small to fill a device might be trained with several
  seeds at once, by `jax.vmap`.
  """
  candidate = gpu_steps.fitting(setup)
  states = [candidate.copy_state() for _ in range(number)]
  together = jax.tree.map(lambda *x: jax.numpy.stack(x), *states)
  batches = jax.tree.map(
    lambda x: jax.numpy.stack([x] * number), candidate.batch
  )
  step = jax.jit(
    jax.vmap(candidate.experiment.compile_train_step()), donate_argnums=0
  )
  compiled = step.lower(together, batches).compile()
  replicas = dataclasses.replace(
    candidate, step=compiled, state=together, batch=batches
  )

  def in_a_row(count: int) -> float:
    return number * candidate.take(count)

  takers = {'at once': replicas.take, 'in a row': in_a_row}
  seconds = benchmarking.in_turn(takers, rounds=5, count=5)
  yield {
    'runs': number,
    'ratio': benchmarking.spread(seconds['at once'] / seconds['in a row']),
    **{f'{k}, ms': 1e3 * float(np.median(v)) for k, v in seconds.items()},
  }


def _input(arguments: Sequence[str], recipes: Sequence[str]) -> Results:
  """Yields the share of a loop that waits for images, for each recipe."""
  benchmark_input.flags.values(['benchmark_input', *arguments])
  for recipe in recipes:
    yield benchmark_input.measure(recipe)


def _torch(
  arguments: Mapping[str, Sequence[str]],
  rounds: int,
  count: int,
  python: str = sys.executable,
) -> Results:
  """Yields the figures of PyTorch's steps, one process after the other."""
  script = str(benchmarking.ROOT / 'scripts' / 'benchmark_torch.py')
  for label, own in arguments.items():
    try:
      with workers.Worker(
        'PyTorch', [python, script, '--serve', *own]
      ) as worker:
        facts = worker.ready()
        seconds = benchmarking.in_turn(
          {label: worker.take}, rounds=rounds, count=count, warm_up=0
        )[label]
    except workers.WorkerError as error:
      yield {'label': label, 'error': workers.one_line(error)}
      continue
    memory = facts['memory_bytes']
    yield {
      'label': label,
      'device': facts['device'],
      'microbatch_size': facts['microbatch_size'],
      'step_ms': benchmarking.spread(1e3 * seconds),
      'compile_s': facts['compile_s'],
      'parameters': facts['parameters'],
      'flops': facts['flops'],
      'flops_per_second': facts['flops'] / float(np.median(seconds)),
      'memory_held_mib': memory and memory / benchmarking.MIB,
      'versions': facts['versions'],
    }


_MEASURES: dict[str, Callable[..., Results]] = {
  'peak': _peak,
  'step': gpu_steps.measure,
  'determinism': _determinism,
  'epsilon': _epsilon,
  'input': _input,
  'replicas': _replicas,
  'torch': _torch,
}
