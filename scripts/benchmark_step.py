r"""Measures a training step: compilation, time, rate, memory, ratio to SGD.

    python scripts/benchmark_step.py --model=WideResnet28x1 --batch_size=128 \
        --methods='sgd,sam,looksam(every=5)' --json=out.json
    python scripts/benchmark_step.py --batch_size=128 --m=128,16 \
        --microbatch_loop=scan,unroll,vmap
    python scripts/benchmark_step.py --model=gpt2 --context_length=1024 \
        --vocabulary_size=50257 --batch_size=64 --microbatch_size=16 \
        --compute_dtype=bfloat16 --methods=sgd,sam,quarter_sam

With a context length, the model is a language model, an example is a window of
text, and all methods, 'sgd' too, have AdamW.

The methods are timed in turn, A B A B, so that what else the machine does falls
on all of them; a ratio is the median over the rounds of a method's step to
SGD's in the same round. Warm-up steps are left out. Memory is planned by the
compiler for one step: arguments, results and temporaries. Of a program out of
JAX's compilation cache it is not known how long it took to compile.

On a GPU the floating-point rate of the step, of its matrix products and
convolutions, is compared with the rate of a large matrix product.

With --serve it is a worker of `benchmark_peers.py` (see
benchmarking/workers.py): it times one method, whenever it is asked to.
"""

import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli
from sam_jax.runs import provenance
from sam_jax.sweeps import method_list
from scripts import benchmarking
from scripts.benchmarking import measured_step, workers

flags = _cli.Flags()
_MODEL = flags.DEFINE_string('model', 'WideResnet28x1', 'Name of the model.')
_METHODS = flags.DEFINE_string(
  'methods', 'sgd,sam', 'Methods to compare, with fields: sam(p=1),looksam.'
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 128, 'Batch size B.', lower_bound=1
)
_M = flags.DEFINE_list(
  'm',
  None,
  'Examples that share a perturbation, or several values; default B / devices.',
)
_MICROBATCH = flags.DEFINE_integer(
  'microbatch_size',
  None,
  'Examples of a forward pass; default the smaller of m and B / devices.',
)
_LOOPS = flags.DEFINE_list(
  'microbatch_loop',
  ['scan'],
  'How a device goes through microbatches: scan, unroll, vmap, or several.',
)
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 32, 'Height and width.')
_CHANNELS = flags.DEFINE_integer('channels', 3, 'Channels of the images.')
_CONTEXT_LENGTH = flags.DEFINE_integer(
  'context_length', None, 'Tokens of a window, for a language model.'
)
_VOCABULARY_SIZE = flags.DEFINE_integer(
  'vocabulary_size', 256, 'Tokens that a language model knows.', lower_bound=256
)
_COMPUTE_DTYPE = flags.DEFINE_string(
  'compute_dtype', 'float32', 'Type of the activations: float32 or bfloat16.'
)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Number of rounds.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 3, 'Steps per round.', lower_bound=1)
_SERVE = flags.DEFINE_bool('serve', False, 'Whether to serve as a worker.')
_JSON = flags.DEFINE_string('json', None, 'File for all figures.')


def main(argv: Sequence[str]) -> int:
  _cli.refuse_arguments(argv[1:])
  setups = _setups()
  if _SERVE.value:
    if len(setups) > 1:
      raise ValueError(f'a worker has one step, not {len(setups)}: {[*setups]}')
    return workers.serve(lambda: _worker(*setups.values()))
  candidates = {k: measured_step.prepare(v) for k, v in setups.items()}
  seconds = benchmarking.in_turn(
    {label: candidate.take for label, candidate in candidates.items()},
    rounds=_ROUNDS.value,
    count=_STEPS.value,
    say=benchmarking.say,
  )
  _report(candidates, seconds)
  return 0


def _setups() -> dict[str, measured_step.Setup]:
  """Returns what the steps are of, by label."""
  ms, loops = _sizes(), _LOOPS.value
  found = {}
  for entry in method_list.parse(_METHODS.value):
    # m is nothing to a step that does not perturb.
    for m in ms[:1] if entry.name == 'sgd' else ms:
      size = _MICROBATCH.value or m or _BATCH_SIZE.value
      is_cut = size * jax.device_count() < _BATCH_SIZE.value
      for loop in loops if is_cut else loops[:1]:
        label = entry.label
        label += f', m = {m}' if len(ms) > 1 and entry.name != 'sgd' else ''
        label += f', {loop}' if len(loops) > 1 and is_cut else ''
        found[label] = _setup(entry.label, m, loop)
  return found


def _sizes() -> list[int | None]:
  """Returns the values of m; None is the layout's own."""
  try:
    return [int(m) for m in _M.value] if _M.value else [None]
  except ValueError as error:
    raise ValueError(f'--m takes numbers, got {_M.value}') from error


def _setup(method: str, m: int | None, loop: str) -> measured_step.Setup:
  """Returns what a step is of."""
  return measured_step.Setup(
    model=_MODEL.value,
    batch_size=_BATCH_SIZE.value,
    method=method,
    m=m,
    microbatch_size=_MICROBATCH.value,
    loop=loop,
    image_size=_IMAGE_SIZE.value,
    channels=_CHANNELS.value,
    context_length=_CONTEXT_LENGTH.value,
    vocabulary_size=_VOCABULARY_SIZE.value,
    compute_dtype=_COMPUTE_DTYPE.value,
  )


def _worker(
  setup: measured_step.Setup,
) -> tuple[dict[str, Any], Callable[[int], float]]:
  """Returns what a worker says of itself, and what takes its steps."""
  candidate = measured_step.prepare(setup)
  candidate.take(2)
  facts = {
    'name': f'sam_jax {setup.method}',
    'parameters': candidate.parameters,
    'flops': candidate.flops,
    'compile_s': candidate.compile_seconds,
    'memory_bytes': int(candidate.memory_mib * benchmarking.MIB),
  }
  return facts | provenance.describe(), candidate.take


def _report(
  candidates: Mapping[str, measured_step.Candidate],
  seconds: Mapping[str, np.ndarray],
) -> None:
  """Prints the table; writes the figures if asked to."""
  base = 'sgd' if 'sgd' in candidates else next(iter(candidates))
  rows = [
    _figures(label, candidate, seconds[label], seconds[base])
    for label, candidate in candidates.items()
  ]
  parameters = candidates[base].parameters
  width = max(len(row['method']) for row in [*rows, {'method': 'method'}]) + 1
  print(
    f'{_MODEL.value}, {parameters:,} parameters, batch {_BATCH_SIZE.value}, '
    f'{_ROUNDS.value} rounds of {_STEPS.value} steps, '
    f'{jax.device_count()} x {jax.devices()[0].device_kind}, '
    f'jax {jax.__version__}'
  )
  print(
    f'{"method":{width}}{"compile, s":>12}{"step, ms":>11}{"[min-max]":>20}'
    f'{"examples/s":>11}{"memory, MiB":>13}{"/ " + base:>9}'
    f'{"[min-max]":>16}'
  )
  for row in rows:
    step, ratio = row['step_ms'], row['ratio']
    print(
      f'{row["method"]:{width}}'
      f'{benchmarking.number(row["compile_s"], ".1f"):>12}'
      f'{step["median"]:>11.2f}'
      f'{"[{min:.2f}-{max:.2f}]".format(**step):>20}'
      f'{row["examples_per_second"]:>11.1f}{row["memory_mib"]:>13.0f}'
      f'{ratio["median"]:>9.2f}{"[{min:.2f}-{max:.2f}]".format(**ratio):>16}'
    )
  figures = {row['method']: row for row in rows}
  for label in figures:
    if label != base:
      beside = benchmarking.memory_beside(
        figures[label], figures[base], parameters
      )
      print(f'{label}: memory beside {base}: {beside}')
  if jax.default_backend() != 'cpu':
    _print_utilization(rows)
  content = {
    'model': _MODEL.value,
    'parameters': parameters,
    'batch_size': _BATCH_SIZE.value,
    **benchmarking.describe(),
    'methods': rows,
  }
  benchmarking.write(_JSON.value, content)


def _figures(
  label: str,
  candidate: measured_step.Candidate,
  seconds: np.ndarray,
  base: np.ndarray,
) -> dict:
  """Returns the figures of one method."""
  return {
    'method': label,
    'compile_s': candidate.compile_seconds,
    'step_ms': benchmarking.spread(1e3 * seconds),
    'examples_per_second': _BATCH_SIZE.value / float(np.median(seconds)),
    'memory_mib': candidate.memory_mib,
    'flops': candidate.flops,
    'gradients': candidate.gradients,
    'ratio': benchmarking.spread(seconds / base),
  }


def _print_utilization(rows: Sequence[dict]) -> None:
  """Prints the share of the matrix-multiplication rate that a step reaches."""
  peak = benchmarking.peak(_COMPUTE_DTYPE.value)
  # Of a step with branches, the most expensive one was counted.
  per_gradient = rows[0]['flops'] / rows[0]['gradients']
  for row in rows:
    flops = per_gradient * row['gradients']
    rate = flops / (row['step_ms']['median'] / 1e3)
    row['matmul_share'] = rate / peak
    print(
      f'{row["method"]}: {rate / 1e12:.1f} TFLOP/s of {peak / 1e12:.1f} '
      f'({rate / peak:.0%} of a {_COMPUTE_DTYPE.value} matrix multiplication)'
    )


def cli() -> None:
  _cli.run(main, 'benchmark_step', flags)


if __name__ == '__main__':
  cli()
