"""docs/benchmarks.md is what the script makes of the figures."""

import json

import pytest

from scripts import benchmark_page


def test_the_page_is_as_the_script_writes_it():
  found = benchmark_page.PAGE.read_text('utf-8')
  assert found == benchmark_page.page(found), (
    'run python scripts/benchmark_page.py'
  )
  assert '<!-- table: ' in found


_ABOUT = {
  'date': '2026-01-02',
  'device': '1 x A',
  'host': 'P, 2 cores',
  'versions': {'jax': '1.2'},
  'command': 'python scripts/x.py',
}
_SPREAD = {'median': 2.0, 'min': 1.0, 'max': 3.5}


def _write(directory, name, *contents):
  text = '\n'.join(map(json.dumps, contents))
  (directory / name).write_text(text)


def test_text_stays_and_tables_are_made(monkeypatch, tmp_path):
  monkeypatch.setattr(benchmark_page, 'FIGURES', tmp_path)
  row = {'network': 'n', 'batch_size': 8, 'method': 'sam', 'label': 'ours'}
  row |= {'step_ms': _SPREAD, 'ratio': _SPREAD, 'compile_s': None}
  row |= {'memory_bytes': 2**21}
  failed = {'network': 'n', 'batch_size': 8, 'method': 'sam', 'label': 'c'}
  rows = [row, row | {'label': 'b'}, failed | {'error': 'gone'}]
  _write(tmp_path, 'peers.json', _ABOUT | {'rows': rows})
  method = {'method': 'sgd', 'compile_s': 4.0, 'memory_mib': 10.0}
  method |= {'step_ms': _SPREAD, 'ratio': _SPREAD}
  both = [method, method | {'method': 'sam', 'memory_mib': 14.0}]
  _write(
    tmp_path,
    's.json',
    _ABOUT
    | {'model': 'm', 'batch_size': 4, 'parameters': 2**19, 'methods': both},
  )
  text = (
    'before\n<!-- table: peers.json -->\nold\n<!-- end -->\nbetween\n'
    '<!-- table: s.json s.json -->\n<!-- end -->\nafter\n'
  )
  found = benchmark_page.page(text)
  lines = found.split('\n')
  assert 'old' not in lines
  assert {'before', 'between', 'after', '<!-- end -->'} <= set(lines)
  assert '2026-01-02, 1 x A (P, 2 cores), jax 1.2: `python scripts/x.py`' in (
    lines
  )
  assert '|  | n, 8 |' in lines
  assert '| ours | 2.0 ms |' in lines
  assert '| b | 2.00 [1.00-3.50] |' in lines
  assert '| c | not measured |' in lines
  assert '| ours | - s, 2 MiB |' in lines
  step = (
    '| m, 4 | sam | 2.0 ms | 2.0 ms | 2.00 [1.00-3.50] | 4 MiB more, '
    '2.0 copies of the parameters | 4.0 |'
  )
  assert lines.count(step) == 2
  assert benchmark_page.page(found) == found


@pytest.mark.parametrize(
  ('name', 'message'),
  [('none.json', 'is missing'), ('odd.json', 'of no benchmark')],
)
def test_a_table_of_nothing_is_refused(monkeypatch, tmp_path, name, message):
  monkeypatch.setattr(benchmark_page, 'FIGURES', tmp_path)
  _write(tmp_path, 'odd.json', {'loss': 1})
  with pytest.raises(ValueError, match=message):
    benchmark_page.page(f'<!-- table: {name} -->\n<!-- end -->\n')


@pytest.fixture
def accelerator(monkeypatch, tmp_path):
  """Returns the tables of a file of `benchmark_gpu.py`, of a scale."""
  monkeypatch.setattr(benchmark_page, 'FIGURES', tmp_path)

  def make(scale):
    first = {'entry': 'matmul peak', 'what': 'peak'}
    step = {'entry': 'N: steps', 'what': 'step', 'label': 'sgd', 'm': 4}
    step |= {'model': 'n', 'batch_size': 4, 'precision': 'bfloat16'}
    step |= {'microbatch_size': 2, 'step_ms': _SPREAD, 'ratio': _SPREAD}
    step |= {'examples_per_second': 5.0, 'compile_s': 1.0, 'share_of_peak': 0.5}
    torch = {'entry': 'N: PyTorch, eager', 'what': 'torch', 'label': 'sam'}
    replicas = {'entry': 'five', 'what': 'replicas', 'runs': 5}
    replicas |= {'ratio': _SPREAD, 'at once, ms': 2.0, 'in a row, ms': 1.0}
    lines = [
      first | _ABOUT | {'platform': 'gpu'},
      first | {'precision': 'float32', 'flops_per_second': 2e12},
      first | {'what': 'scale', 'scale': scale, 'command': 'c'},
      {'entry': 'N: steps', 'what': 'left out'},
      {'entry': 'N: steps', 'what': 'error', 'error': 'no luck'},
      step | {'examples_per_second': 6.0},
      {'entry': 'N: loops', 'what': 'error', 'error': 'too large'},
      torch | {'error': 'other network'},
      {'entry': 'x', 'what': 'left out'},
      step,
      step | {'label': 'b', 'ratio_to_sam': _SPREAD, 'is_halved': True},
      {'entry': 'N: steps', 'what': 'end', 'seconds': 90.0},
      replicas,
    ]
    _write(tmp_path, 'gpu.jsonl', *lines)
    return benchmark_page.page('<!-- table: gpu.jsonl -->\n<!-- end -->\n')

  return make


_NOT_MEASURED = """Not measured:

- N: loops: too large
- N: PyTorch, eager: sam: other network

Not measured, too little time was left:

- x
"""


def test_what_was_measured_again_counts_last(accelerator):
  found = accelerator('full')
  assert '`c`, scale full, 1.5 minutes in all.' in found
  assert 'float32 2 TFLOP/s.' in found
  cells = '2.0 ms | 2.00 [1.00-3.50] |  | 5 | 50% | -, - MiB | 1.0 s |'
  assert f'| n, 4, bfloat16 | sgd | 4, 2 | {cells}' in found
  assert found.count('| sgd |') == 1
  cells = cells.replace('|  |', '| 2.00 [1.00-3.50] |')
  assert f'| b | 4, 2, to fit into memory | {cells}' in found
  assert '| 5 | 2.00 ms | 1.00 ms | 2.00 [1.00-3.50] |' in found
  assert _NOT_MEASURED in found


def test_reduced_sizes_say_nothing_about_speed(accelerator):
  found = accelerator('reduced')
  assert 'shows that everything runs, and says nothing about speed' in found
  assert '| N: steps | 2 | ran | 90 |' in found
  assert '| five | 1 | failed | - |' in found
  assert '| N: loops | 0 | failed | - |' in found
  assert _NOT_MEASURED in found
  assert not {'ms', 'TFLOP/s', '2.00'} & set(found.split())
