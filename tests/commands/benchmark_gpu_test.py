"""The script that measures everything on one accelerator."""

import importlib
import importlib.metadata
import json
import re
import sys

import jax
import numpy as np
import pytest

from scripts import benchmark_gpu, benchmarking
from scripts.benchmarking import (
  gpu_plan,
  gpu_results,
  measured_step,
)
from tests import tiny

_TINY = measured_step.Setup('cnn', 8, image_size=8, compute_dtype='bfloat16')


def _entry(name, seconds=10.0):
  return gpu_plan.Entry(name, 'step', seconds)


class _Clock:
  """Entries that take as long as they say, or fail."""

  def __init__(self, seconds):
    self.seconds, self.started, self.broken = seconds, [], ()

  def left(self):
    return self.seconds

  def start(self, entry, seconds):
    assert seconds == min(self.seconds, 3 * entry.seconds)
    self.started.append(entry.name)
    yield {'entry': entry.name, 'what': 'device', 'device': 'd'}
    self.seconds -= entry.seconds
    if entry.name in self.broken:
      yield {'entry': entry.name, 'what': 'step', 'error': 'no luck'}
    yield {'entry': entry.name, 'what': 'end of a part'}


def test_what_does_not_fit_into_the_time_is_named(tmp_path, capsys):
  plan = [_entry('a'), _entry('b', 100.0), _entry('c'), _entry('d')]
  path = tmp_path / 'out.jsonl'
  clock, results = _Clock(45), gpu_results.Results(path)
  clock.broken = ('c',)
  assert benchmark_gpu.walk(plan, results, clock.left, clock.start) == ['b']
  assert clock.started == ['a', 'c', 'd']
  out = capsys.readouterr().out
  assert 'not measured, too little time left: b\n' in out
  assert 'c: step: no luck' in out
  # What was measured to its end is not measured again.
  clock, results = _Clock(300), gpu_results.Results(path)
  assert benchmark_gpu.walk(plan, results, clock.left, clock.start) == []
  assert clock.started == ['b', 'c']
  ends = [r['entry'] for r in results.rows if r['what'] == 'end']
  assert ends == ['a', 'd', 'b', 'c']
  lines = path.read_text().splitlines()
  assert list(map(json.loads, lines)) == results.rows


def test_a_result_is_in_the_file_at_once_and_beside_the_peak(tmp_path):
  path = tmp_path / 'out.jsonl'
  results = gpu_results.Results(path)
  step = {
    'entry': 'N: SGD, SAM',
    'what': 'step',
    'label': 'sgd',
    'method': 'sgd',
    'precision': 'bfloat16',
    'flops_per_second': 25.0,
    'parameters': 7,
    'flops': 1000,
    'batch_size': 4,
    'm': 4,
    'microbatch_size': 4,
    'step_ms': {'median': 2.0, 'min': 1.0, 'max': 3.0},
  }
  peak = {'entry': gpu_plan.FIRST, 'what': 'peak', 'precision': 'bfloat16'}
  results.add(peak | {'flops_per_second': 100.0})
  results.add(step)
  assert json.loads(path.read_text().split('\n')[1])['share_of_peak'] == 0.25
  # What was measured again counts.
  results.add(step | {'step_ms': {'median': 4.0, 'min': 1.0, 'max': 3.0}})
  torch = {'entry': 'N: PyTorch, eager', 'what': 'torch', 'label': 'sgd'}
  torch |= {'step_ms': {'median': 6.0}, 'flops_per_second': 10.0}
  torch |= {'parameters': 7, 'flops': 1004, 'microbatch_size': 4}
  results.add(torch)
  assert results.rows[-1]['ratio_to_ours'] == 1.5
  assert results.rows[-1]['share_of_peak'] == 0.1
  results.add(torch | {'microbatch_size': 2})
  assert 'ratio_to_ours' not in results.rows[-1]
  results.add(torch | {'parameters': 8})
  assert 'differs from ours: 8 parameters, not 7' in results.rows[-1]['error']
  results.add(torch | {'flops': 1006})
  assert '1,006 flops, not 1,000' in results.rows[-1]['error']


def test_results_of_another_machine_or_file_are_refused(tmp_path):
  path = tmp_path / 'out.jsonl'
  about = {'entry': gpu_plan.FIRST, 'what': 'peak', 'platform': 'gpu'}
  gpu_results.Results(path).add(about | {'device': '1 x A'})
  results, clock = gpu_results.Results(path), _Clock(100)
  with pytest.raises(ValueError, match='1 x A, and this is d'):
    benchmark_gpu.walk([_entry('a')], results, clock.left, clock.start)
  assert clock.seconds == 100  # it is refused before it is measured
  path.write_text('{"loss": 1}\n')
  with pytest.raises(ValueError, match='no result of this script'):
    gpu_results.Results(path)


def test_what_nobody_can_read_is_an_error():
  row = {'entry': 'a', 'what': 'step'}
  assert benchmark_gpu._read(_entry('a'), json.dumps(row)) == row
  for line in ('loading\n', '3\n', '{"entry": "a"}\n'):
    found = benchmark_gpu._read(_entry('a'), line)
    assert 'what is no result' in found['error']


def test_the_plan_fits_into_its_time_and_has_every_name_once():
  for scale in gpu_plan.SCALES:
    plan = gpu_plan.plan(scale, platform='gpu', torch_python='python')
    names = [entry.name for entry in plan]
    assert len(set(names)) == len(names)
    assert [n for n in names if 'PyTorch' not in n] == [
      entry.name for entry in gpu_plan.plan(scale)
    ]
    # 8 minutes, of which the script itself takes a few seconds.
    required = [e.seconds for e in [gpu_plan.first(), *plan] if not e.is_extra]
    assert 400 < sum(required) <= 470
    assert [e.is_extra for e in plan] == sorted(e.is_extra for e in plan)
  assert names[0] == 'WRN-28-10: steps'
  assert all('compiled' in name for name in names[-5:])


def test_the_plan_has_the_same_steps_of_each_network():
  plan = gpu_plan.plan('full', platform='gpu', torch_python='python')
  steps = {e.name: e for e in plan if e.name.endswith(': steps')}
  assert len(steps) == 5
  for name, entry in steps.items():
    (base, own), *others = entry.options['setups'].items()
    assert (base, own.method) == (own.optimizer, 'sgd')
    assert others[0][0] == 'sam'
    if 'float32' in name:
      assert len(others) == 1
      continue
    eighth = dict(others)['sam, m = B/8']
    assert 8 * eighth.m == eighth.batch_size
    assert eighth.m % eighth.microbatch_size == 0
    torch = next(e for e in plan if e.name == f'{name[:-5]}PyTorch, eager')
    assert list(torch.options['arguments']) == [base, 'sam']


def _binary_packages():
  """Returns the modules of compiled packages that are not jax's or flax's."""
  needed, found = set(), ['jax', 'jaxlib', 'flax', 'optax']
  while found:
    name = re.sub('[-_.]+', '-', found.pop()).lower()
    if name in needed:
      continue
    needed.add(name)
    try:
      requires = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
      continue
    plain = [r for r in requires if 'extra ==' not in r]
    found += [re.match(r'[\w.-]+', r)[0] for r in plain]
  modules = set()
  for package in importlib.metadata.distributions():
    is_pure = 'Root-Is-Purelib: true' in (package.read_text('WHEEL') or '')
    name = re.sub('[-_.]+', '-', package.metadata['Name']).lower()
    if not is_pure and name not in needed:
      top = (package.read_text('top_level.txt') or '').split()
      modules |= set(top) or {f.parts[0] for f in package.files or ()}
  return {m for m in modules if m.isidentifier()} - {'sam_jax'}


@pytest.fixture
def bare(monkeypatch):
  """Leaves jax, flax, optax and pure Python; yields what cannot be imported."""
  tiny.use_devices(monkeypatch, 1)
  saved = dict(sys.modules)
  blocked = _binary_packages()
  for name in saved:
    if name.split('.')[0] in {'sam_jax', 'scripts', *blocked}:
      del sys.modules[name]
  sys.modules.update(dict.fromkeys(blocked))
  yield blocked
  sys.modules.clear()
  sys.modules.update(saved)


def test_an_entry_needs_no_other_compiled_package(bare):
  assert {'cv2', 'simplejpeg', 'PIL', 'xxhash', 'sklearn'} <= bare
  gpu_entries = importlib.import_module('scripts.benchmarking.gpu_entries')
  importlib.import_module('scripts.benchmark_gpu')
  importlib.import_module('scripts.benchmark_input')
  plan = gpu_entries.gpu_plan
  tiny_setup = sys.modules['scripts.benchmarking.measured_step'].Setup(
    'cnn', 8, image_size=8
  )
  setups = plan._setups(tiny_setup, 'sam')
  setups['sam, m = B/8'] = plan._with_groups(tiny_setup, 8)
  steps = plan.Entry(
    'tiny', 'step', 0, {'setups': setups, 'rounds': 1, 'count': 1}
  )
  device, sgd, sam, eighth = gpu_entries.run(steps)
  assert device['what'] == 'device'
  assert sgd['device'] == sam['device'] == device['device']
  assert (sgd['label'], sam['label']) == ('sgd', 'sam')
  assert eighth['ratio_to_sam']['median'] > 0
  assert not eighth['is_halved']
  assert sam['flops'] == 2 * sgd['flops']
  assert sam['ratio']['median'] > 0
  assert sgd['memory_held_mib'] is None  # a CPU does not say
  assert 'memory_held_mib' not in sam


def test_an_entry_that_fails_says_so():
  from scripts.benchmarking import gpu_entries

  broken = measured_step.Setup('no_such_network', 8)
  entry = gpu_plan.Entry('x', 'step', 0, {'setups': {'sgd': broken},
                                          'rounds': 1, 'count': 1})  # fmt: skip
  _, row = gpu_entries.run(entry)
  assert row['what'] == 'error'
  assert 'no_such_network' in row['error']


@pytest.mark.slow
def test_epsilon_differs_by_precision(monkeypatch):
  from scripts.benchmarking import gpu_entries

  tiny.use_devices(monkeypatch, 1)
  entry = gpu_plan.Entry('x', 'epsilon', 0, {'setup': _TINY})
  _, *found = gpu_entries.run(entry)
  rows = {row['precision']: row for row in found}
  assert rows['float32']['relative_difference'] == 0
  assert 0 < rows['bfloat16']['relative_difference'] < 0.5
  assert 0.8 < rows['bfloat16']['cosine'] < 1


@pytest.mark.slow
def test_determinism_is_measured(monkeypatch):
  from scripts.benchmarking import gpu_entries

  tiny.use_devices(monkeypatch, 1)
  entry = gpu_plan.Entry('x', 'determinism', 0, {'setup': _TINY, 'count': 2})
  _, *rows = gpu_entries.run(entry)
  assert [row['is_bit_equal'] for row in rows] == [True, True]  # on a CPU
  assert [bool(row['options']) for row in rows] == [False, True]
  assert all(row['largest_relative_difference'] == 0 for row in rows)


@pytest.mark.slow
def test_runs_at_once_are_beside_runs_in_a_row(monkeypatch):
  from scripts.benchmarking import gpu_entries

  tiny.use_devices(monkeypatch, 1)
  entry = gpu_plan.Entry('x', 'replicas', 0, {'setup': _TINY, 'number': 2})
  _, row = gpu_entries.run(entry)
  assert row['runs'] == 2
  assert row['ratio']['median'] > 0


def test_trees_are_compared_by_their_bytes_and_their_length():
  from scripts.benchmarking import gpu_entries

  one = {'a': np.array([3.0, np.nan]), 'b': np.array([0.0])}
  assert gpu_entries._is_bit_equal(one, {k: v.copy() for k, v in one.items()})
  assert not gpu_entries._is_bit_equal(one, one | {'b': np.array([-0.0])})
  one = {'a': np.array([3.0, 0.0]), 'b': np.array([4.0])}
  assert gpu_entries._difference(one, one) == 0
  other = {'a': np.array([3.0, 3.0]), 'b': np.array([0.0])}
  assert gpu_entries._difference(one, other) == 1


class _Step:
  """A compiled step that takes as many MiB as its microbatch has examples."""

  def __init__(self, setup):
    self.setup = setup
    self.memory_mib = setup.microbatch_size or setup.batch_size

  def take(self, count):
    assert count == 2
    if self.setup.microbatch_size == 16:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')


def test_microbatches_are_halved_until_they_fit(monkeypatch):
  from scripts.benchmarking import gpu_steps

  monkeypatch.setattr(measured_step, 'prepare', _Step)
  monkeypatch.setattr(benchmarking, 'capacity', lambda: 16)
  setup = measured_step.Setup('cnn', 64)
  found = gpu_steps.fitting(setup)
  assert found.setup.microbatch_size == 8  # 64 and 32 are planned, 16 is tried
  assert gpu_steps._about('sgd', setup, found)['is_halved']
  monkeypatch.setattr(benchmarking, 'capacity', lambda: 0)
  with pytest.raises(ValueError, match='not even microbatches of one'):
    gpu_steps.fitting(setup)
