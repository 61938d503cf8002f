"""What `benchmark_gpu.py` measures, in a process of its own for each entry.

A process gives the memory of the device back when it ends, so that PyTorch has
it next, and what one entry has broken is not broken for the others. The most
that a device has held is known since the process began.
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
from scripts.benchmarking import gpu_plan, measured_step, workers

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
  """Yields the results of an entry, each as soon as it is there."""
  about = {'entry': entry.name, 'what': entry.kind}
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


def _steps(
  setups: Mapping[str, measured_step.Setup], rounds: int, count: int
) -> Results:
  """Yields the figures of steps, each beside the first, timed in turn.

  Compiling is most of the time, so all of them are compiled side by side before
  any is timed.
  """
  programs = measured_step.compile_together(list(setups.values()))
  (base_label, setup), *others = setups.items()
  base = _fitting(setup, programs[0])
  (alone,) = _in_turn({base_label: base}, rounds, count)
  yield {'label': base_label, **_figures(base, base, alone, alone)}
  for (label, setup), program in zip(others, programs[1:], strict=True):
    size = setup.microbatch_size or setup.m or setup.batch_size
    fits = base.experiment.layout.microbatch_size
    if size > fits:
      setup = dataclasses.replace(setup, microbatch_size=fits)
      program = functools.partial(measured_step.prepare, setup)
    try:
      candidate = _fitting(setup, program)
      own, of_base = _in_turn(
        {label: candidate, base_label: base}, rounds, count
      )
    except (ValueError, jax.errors.JaxRuntimeError) as error:
      yield {'label': label, 'error': workers.one_line(error)}
      continue
    yield {'label': label, **_figures(candidate, base, own, of_base)}
    del candidate  # its arrays leave the device


def _in_turn(
  candidates: Mapping[str, measured_step.Candidate], rounds: int, count: int
) -> list[np.ndarray]:
  """Returns the seconds of warm steps, timed in turn."""
  takers = {label: each.take for label, each in candidates.items()}
  found = benchmarking.in_turn(takers, rounds=rounds, count=count, warm_up=0)
  return list(found.values())


def _figures(
  candidate: measured_step.Candidate,
  base: measured_step.Candidate,
  seconds: np.ndarray,
  of_base: np.ndarray,
) -> dict[str, Any]:
  """Returns the figures of one step.

  Besides what it holds itself, the device holds the state of the base.
  """
  setup = candidate.experiment.layout
  # Of a step that takes one of several branches, the dearest was counted.
  flops = base.flops * candidate.gradients / base.gradients
  return {
    'model': candidate.setup.model,
    'method': candidate.setup.method,
    'device': benchmarking.device(),
    'precision': _precision(candidate.setup),
    'parameters': candidate.parameters,
    'batch_size': setup.batch_size,
    'm': setup.m,
    'microbatch_size': setup.microbatch_size,
    'step_ms': benchmarking.spread(1e3 * seconds),
    'ratio': benchmarking.spread(seconds / of_base),
    'examples_per_second': setup.batch_size / float(np.median(seconds)),
    'compile_s': candidate.compile_seconds,
    'flops': flops,
    'flops_per_second': flops / float(np.median(seconds)),
    'memory_planned_mib': candidate.memory_mib,
    'memory_held_mib': benchmarking.held(),
  }


def _precision(setup: measured_step.Setup) -> str:
  """Returns the name of the products that a step has, on this device."""
  if setup.compute_dtype != 'float32':
    return setup.compute_dtype
  is_gpu = jax.default_backend() == 'gpu'
  return 'tensorfloat32' if is_gpu else 'float32'


def _fitting(
  setup: measured_step.Setup,
  program: Callable[[], measured_step.Candidate] | None = None,
) -> measured_step.Candidate:
  """Returns a step, compiled and warm, in microbatches that fit into memory.

  Args:
    setup: of the step.
    program: waits for what is being compiled of it; None compiles it.
  """
  program = program or functools.partial(measured_step.prepare, setup)
  while True:
    try:
      candidate = program()
      limit = benchmarking.capacity()
      if limit is None or candidate.memory_mib <= limit:
        candidate.take(2)
        return candidate
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
    candidate = None  # its arrays leave the device
    size = setup.microbatch_size or setup.m or setup.batch_size
    if size == 1:
      raise ValueError('not even microbatches of one example fit into memory')
    setup = dataclasses.replace(setup, microbatch_size=size // 2)
    program = functools.partial(measured_step.prepare, setup)
    benchmarking.say(f'it does not fit; trying microbatches of {size // 2}')


def _determinism(setup: measured_step.Setup, count: int) -> Results:
  """Yields whether a step from one state gives the same bits each time."""
  candidate = _fitting(setup)
  state = candidate.copy_state()
  lowered = candidate.experiment.compile_train_step().lower(
    state, candidate.batch
  )
  for options in ({}, _DETERMINISTIC):
    step = lowered.compile(compiler_options=options) if options else None
    step = step or candidate.step

    def take(step: Any = step) -> Any:
      start = jax.tree.map(lambda x: x.copy(), state)
      return step(start, candidate.batch)[0].params

    found = [jax.device_get(take()) for _ in range(count)]
    differences = [_difference(found[0], other) for other in found[1:]]
    yield {
      'options': options,
      'repeats': count,
      'is_bit_equal': not any(differences),
      'largest_relative_difference': max(differences),
      'step_ms': 1e3 * benchmarking.timed(take, count),
    }


def _difference(one: Any, other: Any) -> float:
  """Returns how far two trees are apart, in lengths of the first."""
  off = tree.norm(jax.tree.map(lambda a, b: a - b, other, one))
  return float(off / tree.norm(one))


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
    left = precision.effective_perturbation(state.params, epsilon, bits)
    yield {
      'precision': name,
      'relative_difference': _difference(exact, epsilon),
      'cosine': float(tree.cosine(exact, epsilon)),
      **{key: float(value) for key, value in left.items()},
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
  candidate = _fitting(setup)
  states = [candidate.copy_state() for _ in range(number)]
  together = jax.tree.map(lambda *x: jax.numpy.stack(x), *states)
  batches = jax.tree.map(
    lambda x: jax.numpy.stack([x] * number), candidate.batch
  )
  step = jax.jit(jax.vmap(candidate.experiment.compile_train_step()))
  compiled = step.lower(together, batches).compile()

  def at_once(count: int) -> float:
    return benchmarking.timed(lambda: compiled(together, batches), count)

  def in_a_row(count: int) -> float:
    return number * candidate.take(count)

  takers = {'at once': at_once, 'in a row': in_a_row}
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
  **of_ours: Any,
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
      'step_ms': benchmarking.spread(1e3 * seconds),
      'compile_s': facts['compile_s'],
      'parameters': facts['parameters'],
      'flops': facts['flops'],
      'flops_per_second': facts['flops'] / float(np.median(seconds)),
      'memory_held_mib': memory and memory / benchmarking.MIB,
      'versions': facts['versions'],
      **of_ours,
    }


_MEASURES: dict[str, Callable[..., Results]] = {
  'peak': _peak,
  'step': _steps,
  'determinism': _determinism,
  'epsilon': _epsilon,
  'input': _input,
  'replicas': _replicas,
  'torch': _torch,
}
