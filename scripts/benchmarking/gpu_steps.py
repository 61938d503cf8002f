"""Steps of one network on an accelerator, each beside the optimizer's own."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from scripts import benchmarking
from scripts.benchmarking import measured_step, workers


def measure(
  setups: Mapping[str, measured_step.Setup], rounds: int, count: int
) -> Iterator[dict[str, Any]]:
  """Yields the figures of steps, each beside the first, timed in turn.

  SAM in other groups is timed beside SAM, too. Compiling is most of the time,
  so all of them are compiled side by side before any is timed.
  """
  programs = measured_step.compile_together(list(setups.values()))
  (base_label, setup), *others = setups.items()
  base = fitting(setup, programs[0])
  # The device tells the most that it ever held, which later is others'.
  held = {'memory_held_mib': benchmarking.held()}
  beside = {base_label: base}
  (alone,) = _in_turn(beside, rounds, count)
  row = _figures(base, base, alone, alone)
  yield _about(base_label, setup, base) | row | held
  for (label, setup), program in zip(others, programs[1:], strict=True):
    try:
      candidate = fitting(*_as_small(setup, program, base))
      peers = beside if setup.method == 'sam' else {base_label: base}
      own, *of_others = _in_turn({label: candidate, **peers}, rounds, count)
    except (ValueError, jax.errors.JaxRuntimeError) as error:
      yield {'label': label, 'error': workers.one_line(error)}
      continue
    row = _figures(candidate, base, own, of_others[0])
    if len(of_others) > 1:
      row['ratio_to_sam'] = benchmarking.spread(own / of_others[1])
    yield _about(label, setup, candidate) | row
    if setup.method == 'sam' and 'sam' not in beside:
      beside['sam'] = candidate
    del candidate  # its arrays leave the device


def _about(
  label: str, asked: measured_step.Setup, candidate: measured_step.Candidate
) -> dict[str, Any]:
  """Returns a step's label, and whether it did not fit as it was asked for."""
  return {'label': label, 'is_halved': candidate.setup != asked}


def _as_small(
  setup: measured_step.Setup,
  program: Callable[[], measured_step.Candidate],
  base: measured_step.Candidate,
) -> tuple[measured_step.Setup, Callable[[], measured_step.Candidate]]:
  """Returns a step in microbatches no larger than those that fit of the base.

  Args:
    setup: of the step.
    program: what was compiled of it.
    base: which it is timed beside.
  """
  size = setup.microbatch_size or setup.m or setup.batch_size
  fits = base.experiment.layout.microbatch_size
  if size <= fits:
    return setup, program
  setup = dataclasses.replace(setup, microbatch_size=fits)
  return setup, functools.partial(measured_step.prepare, setup)


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
  """Returns the figures of one step."""
  layout, setup = candidate.experiment.layout, candidate.setup
  # Of a step with branches, the most expensive one was counted.
  flops = base.flops * candidate.gradients / base.gradients
  return {
    'model': setup.model,
    'method': setup.method,
    'precision': _precision(setup),
    'parameters': candidate.parameters,
    'batch_size': layout.batch_size,
    'm': layout.m,
    'microbatch_size': layout.microbatch_size,
    'step_ms': benchmarking.spread(1e3 * seconds),
    'ratio': benchmarking.spread(seconds / of_base),
    'examples_per_second': layout.batch_size / float(np.median(seconds)),
    'compile_s': candidate.compile_seconds,
    'flops': flops,
    'flops_per_second': flops / float(np.median(seconds)),
    'memory_planned_mib': candidate.memory_mib,
  }


def _precision(setup: measured_step.Setup) -> str:
  """Returns the name of the products that a step has, on this device."""
  if setup.compute_dtype != 'float32':
    return setup.compute_dtype
  is_gpu = jax.default_backend() == 'gpu'
  return 'tensorfloat32' if is_gpu else 'float32'


def fitting(
  setup: measured_step.Setup,
  program: Callable[[], measured_step.Candidate] | None = None,
) -> measured_step.Candidate:
  """Returns a step, compiled and warm, in microbatches that fit into memory.

  Args:
    setup: of the step.
    program: returns what was compiled of it; None compiles it.
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
