"""Makes the tables of docs/benchmarks.md of the files in docs/benchmarks/.

    python scripts/benchmark_page.py          # writes them
    python scripts/benchmark_page.py --check  # fails if one would be another

A line `<!-- table: FILE FILE -->` begins a table, and `<!-- end -->` ends it.
What is between the two is made of these files, all of one benchmark; the text
around them is written by hand. A file is what a benchmark wrote with --json, or
benchmark_gpu.py with --out:

    python scripts/benchmark_step.py --json=docs/benchmarks/step_NAME.json
    python scripts/benchmark_peers.py --json=docs/benchmarks/peers.json
    python scripts/benchmark_compile.py --json=docs/benchmarks/compile.json
    python scripts/benchmark_gpu.py --out=docs/benchmarks/gpu.jsonl
"""

import itertools
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# The checkout goes first, installed or not.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from sam_jax import _cli
from scripts import benchmarking
from scripts.benchmarking import gpu_tables, tables

flags = _cli.Flags()
_CHECK = flags.DEFINE_bool('check', False, 'Whether to write nothing.')

PAGE = _ROOT / 'docs' / 'benchmarks.md'
FIGURES = _ROOT / 'docs' / 'benchmarks'
_TABLE = re.compile(r'(<!-- table: (.*?) -->\n).*?(<!-- end -->)', re.DOTALL)

Rows = Sequence[Mapping[str, Any]]
_number = benchmarking.number


def main(argv: Sequence[str]) -> int:
  """Writes or checks the page; returns the exit status."""
  _cli.refuse_arguments(argv[1:])
  found = PAGE.read_text('utf-8')
  wanted = page(found)
  if found == wanted:
    return 0
  if _CHECK.value:
    print('docs/benchmarks.md: run python scripts/benchmark_page.py')
    return 1
  PAGE.write_text(wanted, encoding='utf-8')
  print('wrote docs/benchmarks.md')
  return 0


def page(text: str) -> str:
  """Returns the text of a page with its tables made anew."""

  def table(match: re.Match[str]) -> str:
    start, names, end = match.groups()
    tables = _tables([_read(name) for name in names.split()])
    return '\n\n'.join([start.rstrip(), *tables, end])

  return _TABLE.sub(table, text)


def _read(name: str) -> Any:
  """Returns the figures of a file; those of lines as a list."""
  path = FIGURES / name
  if not path.exists():
    raise ValueError(f'docs/benchmarks.md has a table of {name}; it is missing')
  text = path.read_text('utf-8')
  if path.suffix == '.jsonl':
    return [json.loads(line) for line in text.splitlines()]
  return json.loads(text)


def _tables(files: Sequence[Any]) -> Iterator[str]:
  """Yields captions and tables of files of one benchmark."""
  if isinstance(files[0], list):
    yield from gpu_tables.make(list(itertools.chain.from_iterable(files)))
    return
  for key, make in _TABLES.items():
    if key in files[0]:
      yield from dict.fromkeys(map(tables.caption, files))
      yield from make(files)
      return
  raise ValueError(f'these are figures of no benchmark: {list(files[0])}')


def _steps(files: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Yields the table of `benchmark_step.py`, of several networks."""
  rows = []
  for file in files:
    base, *others = file['methods']
    for row in others:
      rows.append(
        [
          f'{file["model"]}, {file["batch_size"]}',
          row['method'],
          f'{base["step_ms"]["median"]:,.1f} ms',
          f'{row["step_ms"]["median"]:,.1f} ms',
          benchmarking.in_brackets(row['ratio']),
          benchmarking.memory_beside(row, base, file['parameters']),
          _number(row['compile_s'], '.1f'),
        ]
      )
  name = files[0]['methods'][0]['method']
  yield tables.table(
    ['network, batch', 'method', name, 'step', f'/ {name}']
    + [f'memory beside {name}', 'compilation, s'],
    rows,
  )


def _peers(files: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Yields the tables of `benchmark_peers.py`, one for each method."""
  rows = list(itertools.chain.from_iterable(file['rows'] for file in files))
  for method in dict.fromkeys(row['method'] for row in rows):
    own = [row for row in rows if row['method'] == method]
    name = {'sgd': "The optimizer's step alone", 'sam': 'A SAM step'}[method]
    yield f'{name}, time relative to ours; smaller is faster:'
    yield _matrix(own, _of_ours)
    yield 'Its compilation in seconds, and its memory where it is known:'
    yield _matrix(own, _costs)


def _matrix(rows: Rows, show: Callable[[Mapping[str, Any]], str]) -> str:
  """Returns a table with a column for each network, a row for each worker."""
  networks = list(dict.fromkeys((r['network'], r['batch_size']) for r in rows))
  cells = {(r['label'], r['network'], r['batch_size']): show(r) for r in rows}
  return tables.table(
    ['', *(f'{name}, {size}' for name, size in networks)],
    [
      [label, *(cells.get((label, *network), '') for network in networks)]
      for label in dict.fromkeys(row['label'] for row in rows)
    ],
  )


def _of_ours(row: Mapping[str, Any]) -> str:
  """Returns the time of ours, or the ratio of another one to it."""
  if 'error' in row:
    return 'not measured'
  if row['label'] == 'ours' or not row['ratio']:
    return f'{row["step_ms"]["median"]:,.1f} ms'
  return benchmarking.in_brackets(row['ratio'])


def _costs(row: Mapping[str, Any]) -> str:
  """Returns compilation and memory."""
  if 'error' in row:
    return 'not measured'
  seconds = f'{_number(row["compile_s"], ".1f")} s'
  if row['memory_bytes'] is None:
    return seconds
  return f'{seconds}, {row["memory_bytes"] / benchmarking.MIB:,.0f} MiB'


def _compilations(files: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Yields the table of `benchmark_compile.py`."""
  names = ('trace, s', 'lower, s', 'compile, s', 'total, s')
  rows = itertools.chain.from_iterable(file['models'] for file in files)
  yield tables.table(
    ['network', *names, 'temporary memory, MiB'],
    [
      [row['model'], *(f'{row[name]:.1f}' for name in names)]
      + [f'{row["temporary, MiB"]:,.0f}']
      for row in rows
    ],
  )


_TABLES = {'methods': _steps, 'rows': _peers, 'models': _compilations}


def cli() -> None:
  _cli.run(main, 'benchmark_page', flags)


if __name__ == '__main__':
  cli()
