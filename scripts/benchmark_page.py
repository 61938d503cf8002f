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

flags = _cli.Flags()
_CHECK = flags.DEFINE_bool('check', False, 'Whether to write nothing.')

PAGE = _ROOT / 'docs' / 'benchmarks.md'
FIGURES = _ROOT / 'docs' / 'benchmarks'
_TABLE = re.compile(r'(<!-- table: (.*?) -->\n).*?(<!-- end -->)', re.DOTALL)
_VERSIONS = ('jax', 'torch')

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
    yield from _accelerator(list(itertools.chain.from_iterable(files)))
    return
  for key, make in _TABLES.items():
    if key in files[0]:
      yield from dict.fromkeys(map(_caption, files))
      yield from make(files)
      return
  raise ValueError(f'these are figures of no benchmark: {list(files[0])}')


def _caption(about: Mapping[str, Any]) -> str:
  """Returns what figures belong to, as a sentence."""
  versions = dict(about['versions'])
  for row in about.get('rows', ()):
    versions |= row.get('versions', {})
  named = [f'{k} {versions[k]}' for k in _VERSIONS if versions.get(k)]
  return (
    f'{about["date"]}, {about["device"]} ({about["host"]}), '
    f'{", ".join(named)}: `{about["command"]}`'
  )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a table of Markdown."""
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _steps(files: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Yields the table of `benchmark_step.py`, of several networks."""
  rows = []
  for file in files:
    base, *others = file['methods']
    for row in others:
      more = row['memory_mib'] - base['memory_mib']
      copies = more * benchmarking.MIB / (4 * file['parameters'])
      rows.append(
        [
          f'{file["model"]}, {file["batch_size"]}',
          row['method'],
          f'{base["step_ms"]["median"]:,.1f} ms',
          f'{row["step_ms"]["median"]:,.1f} ms',
          benchmarking.in_brackets(row['ratio']),
          f'{more:,.0f} MiB, {copies:.1f} copies of the parameters',
          _number(row['compile_s'], '.1f'),
        ]
      )
  name = files[0]['methods'][0]['method']
  yield _table(
    ['network, batch', 'method', name, 'step', f'/ {name}']
    + [f'memory above {name}', 'compilation, s'],
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
  return _table(
    ['', *(f'{name}, {size}' for name, size in networks)],
    [
      [label, *(cells.get((label, *network), '') for network in networks)]
      for label in dict.fromkeys(row['label'] for row in rows)
    ],
  )


def _of_ours(row: Mapping[str, Any]) -> str:
  """Returns the time of ours, or the ratio of another one to it."""
  if 'error' in row:
    return 'left out'
  if row['label'] == 'ours' or not row['ratio']:
    return f'{row["step_ms"]["median"]:,.1f} ms'
  return benchmarking.in_brackets(row['ratio'])


def _costs(row: Mapping[str, Any]) -> str:
  """Returns compilation and memory."""
  if 'error' in row:
    return 'left out'
  seconds = f'{_number(row["compile_s"], ".1f")} s'
  if row['memory_bytes'] is None:
    return seconds
  return f'{seconds}, {row["memory_bytes"] / benchmarking.MIB:,.0f} MiB'


def _compilations(files: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Yields the table of `benchmark_compile.py`."""
  names = ('trace, s', 'lower, s', 'compile, s', 'total, s')
  rows = itertools.chain.from_iterable(file['models'] for file in files)
  yield _table(
    ['network', *names, 'temporary memory, MiB'],
    [
      [row['model'], *(f'{row[name]:.1f}' for name in names)]
      + [f'{row["temporary, MiB"]:,.0f}']
      for row in rows
    ],
  )


_TABLES = {'methods': _steps, 'rows': _peers, 'models': _compilations}


def _accelerator(rows: Rows) -> Iterator[str]:
  """Yields the tables of `benchmark_gpu.py`."""
  # What was measured again, after an entry that failed, counts last.
  latest = {_key(row): row for row in rows}
  rows = list(latest.values())
  about = next(row for row in rows if 'platform' in row)
  scale = next(row for row in rows if 'scale' in row)
  minutes = sum(r['seconds'] for r in rows if r['what'] == 'end') / 60
  yield _caption(about | {'command': scale['command']}) + (
    f', scale {scale["scale"]}, {minutes:.1f} minutes in all.'
  )
  peaks = [r for r in rows if r['what'] == 'peak' and 'precision' in r]
  yield (
    'A large matrix product: '
    + ', '.join(
      f'{row["precision"]} {row["flops_per_second"] / 1e12:.3g} TFLOP/s'
      for row in peaks
    )
    + '.'
  )
  steps = _steps_once(rows)
  networks = _networks(steps)
  # A network's rows are together, whenever they were measured.
  yield _table(
    ['network, batch, precision', 'step', 'm, b', 'time', '/ first']
    + ['examples/s', 'of the peak', 'memory planned, held', 'compilation'],
    [
      [name, *_step(row)]
      for network, name in networks.items()
      for row in steps
      if _network(row) == network and 'error' not in row
    ],
  )
  yield from _singles(rows)
  if errors := [row for row in rows if 'error' in row]:
    yield 'Not measured:'
    yield '\n'.join(f'- {r["entry"]}: {r["error"]}' for r in errors)


def _network(row: Mapping[str, Any]) -> str:
  """Returns the network of a result, as the plan calls it."""
  return row['entry'].partition(':')[0]


def _networks(steps: Rows) -> dict[str, str]:
  """Returns what each network of the plan is: at a reduced scale, another."""
  found: dict[str, str] = {}
  for row in steps:
    if 'model' in row:
      name = f'{row["model"]}, {row["batch_size"]}, {row["precision"]}'
      found.setdefault(_network(row), name)
  return found


def _steps_once(rows: Rows) -> Rows:
  """Returns the steps; SGD's and AdamW's, with which others are timed, once."""
  found: dict[tuple[str, ...], Mapping[str, Any]] = {}
  for row in rows:
    network, _, what = row['entry'].partition(': ')
    if row['what'] == 'step':
      found.setdefault((network, row.get('label', what)), row)
    elif row['what'] == 'torch':
      found[network, what, row['label']] = row
  return list(found.values())


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns what a result is of."""
  names = ('entry', 'what', 'label', 'precision', 'recipe', 'options')
  return tuple(str(row.get(name)) for name in names)


def _step(row: Mapping[str, Any]) -> list[str]:
  """Returns the cells of a step, ours or PyTorch's."""
  what = row['entry'].partition(': ')[2]
  is_ours = row['what'] == 'step'
  ratio = (
    f'{row["ratio_to_ours"]:.2f} of ours' if 'ratio_to_ours' in row else ''
  )
  share = row.get('share_of_peak')
  memory = (row.get('memory_planned_mib'), row.get('memory_held_mib'))
  return [
    row['label'] if is_ours else f'{what}: {row["label"]}',
    f'{row["m"]}, {row["microbatch_size"]}' if is_ours else '',
    f'{row["step_ms"]["median"]:,.1f} ms',
    benchmarking.in_brackets(row['ratio']) if is_ours else ratio,
    f'{row["examples_per_second"]:,.0f}' if is_ours else '',
    _number(share, '.0%'),
    ', '.join(_number(each, ',.0f') for each in memory) + ' MiB',
    f'{_number(row["compile_s"], ".1f")} s',
  ]


def _singles(rows: Rows) -> Iterator[str]:
  """Yields what is no step: epsilon, determinism, waiting for input."""
  of = {
    what: [r for r in rows if r['what'] == what and 'error' not in r]
    for what in ('epsilon', 'determinism', 'input')
  }
  if found := of['epsilon']:
    yield 'Epsilon in each precision, beside that of float32:'
    yield _table(
      ['network', 'precision', 'relative difference', 'cosine']
      + ['what w + epsilon keeps of its length', 'cosine of what it keeps'],
      [
        [_network(row), row['precision']]
        + [f'{row["relative_difference"]:.2g}', f'{row["cosine"]:.5f}']
        + [f'{row["effective_perturbation_ratio"]:.3f}']
        + [f'{row["effective_perturbation_cosine"]:.3f}']
        for row in found
      ],
    )
  if found := of['determinism']:
    yield 'The same SGD or AdamW step, from the same state, several times:'
    yield _table(
      ['network', 'option of XLA', 'bit-equal', 'difference', 'time'],
      [
        [_network(row), ', '.join(row['options']) or 'none']
        + ['yes' if row['is_bit_equal'] else 'no']
        + [f'{row["largest_relative_difference"]:.2g}']
        + [f'{row["step_ms"]:,.1f} ms']
        for row in found
      ],
    )
  if found := of['input']:
    yield 'Images in memory, augmented on the device, in a loop of SAM steps:'
    yield _table(
      ['recipe', 'waiting', 'augmentation / step', 'host, images/s'],
      [
        [row['recipe'], f'{row["waiting"]:.2%}', f'{row["device/step"]:.2%}']
        + [f'{row["host, images/s"]:,.0f}']
        for row in found
      ],
    )


def cli() -> None:
  _cli.run(main, 'benchmark_page', flags)


if __name__ == '__main__':
  cli()
