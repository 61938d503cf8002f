"""The tables of `benchmark_gpu.py`: steps, and what is no step."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scripts import benchmarking
from scripts.benchmarking import tables

Rows = Sequence[Mapping[str, Any]]


def make(rows: Rows) -> Iterator[str]:
  """Yields the tables of a file of results.

  Args:
    rows: its lines. What was measured again counts last; what was left out or
      has failed does not count if its entry was measured later.
  """
  last = {row['entry']: row for row in rows}
  ends = {row['entry'] for row in rows if row['what'] == 'end'}
  latest = {_key(row): row for row in rows}.values()
  rows = [
    row
    for row in latest
    if (not _is_left_out(row) or _is_left_out(last[row['entry']]))
    and ('error' not in row or row['entry'] not in ends)
  ]
  about = next(row for row in rows if 'platform' in row)
  scale = next(row for row in rows if 'scale' in row)
  minutes = sum(r['seconds'] for r in rows if r['what'] == 'end') / 60
  yield tables.caption(about | {'command': scale['command']}) + (
    f', scale {scale["scale"]}, {minutes:.1f} minutes in all.'
  )
  if scale['scale'] == 'reduced':
    yield (
      'The sizes are reduced: the table shows that everything runs, and says '
      'nothing about speed.'
    )
    yield _runs(rows)
  else:
    yield from _figures(rows)
  yield from _failures(rows)


def _is_left_out(row: Mapping[str, Any]) -> bool:
  """Returns whether there was too little time for an entry."""
  return row['what'] == 'left out'


def _runs(rows: Rows) -> str:
  """Returns a table of what has run, without any figure of speed."""
  cells = []
  for entry in dict.fromkeys(row['entry'] for row in rows):
    own = [row for row in rows if row['entry'] == entry]
    if any(map(_is_left_out, own)):
      continue
    results = [r for r in own if r['what'] not in ('end', 'scale')]
    seconds = next((r['seconds'] for r in own if r['what'] == 'end'), None)
    cells.append(
      [entry, str(sum('error' not in row for row in results))]
      + ['failed' if seconds is None else 'ran']
      + [benchmarking.number(seconds, '.0f')]
    )
  return tables.table(
    ['entry', 'steps or other results', 'outcome', 'seconds in all'], cells
  )


def _failures(rows: Rows) -> Iterator[str]:
  """Yields what was not measured, and why."""
  if errors := [row for row in rows if 'error' in row]:
    yield 'Not measured:'
    yield '\n'.join(
      f'- {": ".join([r["entry"], *filter(None, [r.get("label")])])}: '
      f'{r["error"]}'
      for r in errors
    )
  if names := [row['entry'] for row in rows if _is_left_out(row)]:
    yield 'Not measured, too little time was left:'
    yield '\n'.join(f'- {name}' for name in names)


def _figures(rows: Rows) -> Iterator[str]:
  """Yields the peak, the table of steps and the other tables."""
  peaks = [r for r in rows if r['what'] == 'peak' and 'precision' in r]
  yield (
    'A large matrix product: '
    + ', '.join(
      f'{row["precision"]} {row["flops_per_second"] / 1e12:.3g} TFLOP/s'
      for row in peaks
    )
    + '.'
  )
  steps = [row for row in rows if row['what'] in ('step', 'torch')]
  networks = _networks(steps)
  # A network's rows are together, whenever they were measured.
  yield tables.table(
    ['network, batch, precision', 'step', 'm, b', 'time', '/ first', '/ SAM']
    + ['examples/s', 'of the peak', 'memory planned, held', 'compilation'],
    [
      [name, *_step(row)]
      for network, name in networks.items()
      for row in steps
      if _network(row) == network and 'error' not in row
    ],
  )
  yield from _singles(rows)


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


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns what a result is of."""
  names = ['entry', 'what', 'label']
  if 'label' not in row:
    names += ['precision', 'recipe', 'options']
  return tuple(str(row.get(name)) for name in names)


def _step(row: Mapping[str, Any]) -> list[str]:
  """Returns the cells of a step, ours or PyTorch's."""
  what = row['entry'].partition(': ')[2]
  is_ours = row['what'] == 'step'
  ratio, of_sam = '', ''
  if 'ratio_to_ours' in row:
    ratio = f'{row["ratio_to_ours"]:.2f} of ours'
  if 'ratio_to_sam' in row:
    of_sam = benchmarking.in_brackets(row['ratio_to_sam'])
  share = row.get('share_of_peak')
  memory = (row.get('memory_planned_mib'), row.get('memory_held_mib'))
  return [
    row['label'] if is_ours else f'{what}: {row["label"]}',
    _sizes(row),
    f'{row["step_ms"]["median"]:,.1f} ms',
    benchmarking.in_brackets(row['ratio']) if is_ours else ratio,
    of_sam,
    f'{row["examples_per_second"]:,.0f}' if is_ours else '',
    benchmarking.number(share, '.0%'),
    ', '.join(benchmarking.number(each, ',.0f') for each in memory) + ' MiB',
    f'{benchmarking.number(row["compile_s"], ".1f")} s',
  ]


def _sizes(row: Mapping[str, Any]) -> str:
  """Returns the examples of a perturbation and of a forward pass."""
  if row['what'] != 'step':
    return f'-, {row["microbatch_size"]}'
  halved = ', to fit into memory' if row.get('is_halved') else ''
  return f'{row["m"]}, {row["microbatch_size"]}{halved}'


def _singles(rows: Rows) -> Iterator[str]:
  """Yields what is no step: epsilon, determinism, waiting for input."""
  of = {
    what: [r for r in rows if r['what'] == what and 'error' not in r]
    for what in ('epsilon', 'determinism', 'input', 'replicas')
  }
  if found := of['epsilon']:
    yield 'Epsilon in each precision, beside that of float32:'
    yield tables.table(
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
    yield tables.table(
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
    yield tables.table(
      ['recipe', 'waiting', 'augmentation / step', 'host, images/s'],
      [
        [row['recipe'], f'{row["waiting"]:.2%}', f'{row["device/step"]:.2%}']
        + [f'{row["host, images/s"]:,.0f}']
        for row in found
      ],
    )
  if found := of['replicas']:
    yield 'A step of several small runs at once, beside one after the other:'
    yield tables.table(
      ['runs', 'at once', 'in a row', 'at once / in a row'],
      [
        [str(row['runs']), f'{row["at once, ms"]:,.2f} ms']
        + [f'{row["in a row, ms"]:,.2f} ms']
        + [benchmarking.in_brackets(row['ratio'])]
        for row in found
      ],
    )
