"""The script that measures everything on one accelerator."""

import contextlib
import importlib
import importlib.metadata
import json
import pathlib
import re
import sys

import pytest

from scripts import benchmark_gpu
from scripts.benchmarking import gpu_plan, measured_step
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
    assert seconds == self.seconds
    self.started.append(entry.name)
    yield {'entry': entry.name, 'what': 'end of a part'}
    self.seconds -= entry.seconds
    if entry.name in self.broken:
      yield {'entry': entry.name, 'what': 'error', 'error': 'no luck'}


def test_what_does_not_fit_into_the_time_is_named(tmp_path, capsys):
  plan = [_entry('a'), _entry('b', 100.0), _entry('c'), _entry('d')]
  path = tmp_path / 'out.jsonl'
  clock, results = _Clock(45), benchmark_gpu.Results(path)
  clock.broken = ('c',)
  assert benchmark_gpu.walk(plan, results, clock.left, clock.start) == ['b']
  assert clock.started == ['a', 'c', 'd']
  out = capsys.readouterr().out
  assert 'would not have been enough: b\n' in out
  assert 'c: error: no luck' in out
  # What was measured to its end is not measured again.
  clock, results = _Clock(300), benchmark_gpu.Results(path)
  assert benchmark_gpu.walk(plan, results, clock.left, clock.start) == []
  assert clock.started == ['b', 'c']
  ends = [r['entry'] for r in results.rows if r['what'] == 'end']
  assert ends == ['a', 'd', 'b', 'c']
  lines = path.read_text().splitlines()
  assert list(map(json.loads, lines)) == results.rows


def test_a_result_is_in_the_file_at_once_and_beside_the_peak(tmp_path):
  path = tmp_path / 'out.jsonl'
  results = benchmark_gpu.Results(path)
  step = {
    'entry': 'N: SGD, SAM',
    'what': 'step',
    'label': 'sgd',
    'method': 'sgd',
    'precision': 'bfloat16',
    'flops_per_second': 25.0,
    'parameters': 7,
    'batch_size': 4,
    'm': 4,
    'microbatch_size': 4,
    'step_ms': {'median': 2.0, 'min': 1.0, 'max': 3.0},
  }
  peak = {'entry': gpu_plan.FIRST, 'what': 'peak', 'precision': 'bfloat16'}
  results.add(peak | {'flops_per_second': 100.0})
  results.add(step)
  assert json.loads(path.read_text().split('\n')[1])['share_of_peak'] == 0.25
  torch = {'entry': 'N: PyTorch, eager', 'what': 'torch', 'label': 'sgd'}
  torch |= {'step_ms': {'median': 3.0}, 'flops_per_second': 10.0}
  results.add(torch | {'parameters': 7})
  assert results.rows[-1]['ratio_to_ours'] == 1.5
  assert results.rows[-1]['share_of_peak'] == 0.1
  results.add(torch | {'parameters': 8})
  assert '8 parameters, not 7' in results.rows[-1]['error']


def test_results_of_another_machine_or_file_are_refused(tmp_path):
  path = tmp_path / 'out.jsonl'
  about = {'entry': gpu_plan.FIRST, 'what': 'peak', 'platform': 'gpu'}
  benchmark_gpu.Results(path).add(about | {'device': '1 x A'})
  results = benchmark_gpu.Results(path)
  with pytest.raises(ValueError, match='1 x A, and this is 1 x B'):
    results.add({'entry': 'a', 'what': 'epsilon', 'device': '1 x B'})
  path.write_text('{"loss": 1}\n')
  with pytest.raises(ValueError, match='no result of this script'):
    benchmark_gpu.Results(path)


def test_what_an_entry_has_started_ends_with_it(tmp_path, monkeypatch):
  program = tmp_path / 'program.py'
  program.write_text(
    'import json, subprocess, sys, time\n'
    'inner = subprocess.Popen([sys.executable, "-c", "input()"],'
    ' stdin=subprocess.PIPE)\n'
    'print(json.dumps({"entry": "a", "what": "pid", "pid": inner.pid}))\n'
    'print("half a li", end="", flush=True)\n'
    'time.sleep(1000)\n'
  )
  monkeypatch.setattr(benchmark_gpu, '__file__', str(program))
  benchmark_gpu.flags.values(['benchmark_gpu'])
  rows = benchmark_gpu._start('', (), _entry('a'), 1000.0)
  inner = next(rows)['pid']
  rows.close()
  # It may be there for a moment, until somebody asks how it ended.
  state = pathlib.Path(f'/proc/{inner}/stat')
  with contextlib.suppress(OSError):
    while state.read_text().split()[2] != 'Z':
      pass
  rows = benchmark_gpu._start('', (), _entry('a'), 0.0)
  assert 'there was no time left' in list(rows)[-1]['error']


def test_the_plan_has_the_cheapest_first_and_every_name_once():
  for scale in gpu_plan.SCALES:
    plan = gpu_plan.plan(scale, platform='gpu', torch_python='python')
    names = [entry.name for entry in plan]
    assert len(set(names)) == len(names)
    assert [n for n in names if 'PyTorch' not in n] == [
      entry.name for entry in gpu_plan.plan(scale)
    ]
    assert all(name.endswith('SGD, SAM') for name in names[:5])
  full = gpu_plan.plan('full')
  first = {name: s for e in full[:5] for name, s in e.options['setups'].items()}
  assert set(first) == {'sgd', 'adamw', 'sam'}
  dear = [s for e in full if 'LookSAM' in e.name for s in [e.options['setups']]]
  for setups in dear:
    eighth = setups['sam, m = B/8']
    assert 8 * eighth.m == eighth.batch_size
    assert eighth.m % eighth.microbatch_size == 0


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
  steps = plan.Entry(
    'tiny', 'step', 0, {'setups': setups, 'rounds': 1, 'count': 1}
  )
  sgd, sam = gpu_entries.run(steps)
  assert (sgd['label'], sam['label']) == ('sgd', 'sam')
  assert sam['flops'] == 2 * sgd['flops']
  assert sam['ratio']['median'] > 0
  assert sgd['memory_held_mib'] is None  # a CPU does not say


def test_an_entry_that_fails_says_so():
  from scripts.benchmarking import gpu_entries

  broken = measured_step.Setup('no_such_network', 8)
  entry = gpu_plan.Entry('x', 'step', 0, {'setups': {'sgd': broken},
                                          'rounds': 1, 'count': 1})  # fmt: skip
  (row,) = gpu_entries.run(entry)
  assert row['what'] == 'error'
  assert 'no_such_network' in row['error']


@pytest.mark.slow
def test_epsilon_differs_by_precision(monkeypatch):
  from scripts.benchmarking import gpu_entries

  tiny.use_devices(monkeypatch, 1)
  entry = gpu_plan.Entry('x', 'epsilon', 0, {'setup': _TINY})
  rows = {row['precision']: row for row in gpu_entries.run(entry)}
  assert rows['float32']['relative_difference'] == 0
  assert 0 < rows['bfloat16']['relative_difference'] < 0.5
  assert 0.8 < rows['bfloat16']['cosine'] < 1


@pytest.mark.slow
def test_determinism_is_measured(monkeypatch):
  from scripts.benchmarking import gpu_entries

  tiny.use_devices(monkeypatch, 1)
  entry = gpu_plan.Entry('x', 'determinism', 0, {'setup': _TINY, 'count': 2})
  rows = list(gpu_entries.run(entry))
  assert [row['is_bit_equal'] for row in rows] == [True, True]  # on a CPU
  assert [bool(row['options']) for row in rows] == [False, True]
