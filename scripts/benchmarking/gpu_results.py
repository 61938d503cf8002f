"""The file of `benchmark_gpu.py`: results as lines of JSON, and for people."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from scripts import benchmarking
from scripts.benchmarking import gpu_plan

# Of counts of floating-point operations that are meant to be equal.
FLOPS_TOLERANCE = 0.005


class Results:
  """The results so far: those of the file, and those that are added to it."""

  def __init__(self, path: pathlib.Path) -> None:
    """Reads what an earlier command has found."""
    self._path = path
    self.rows: list[dict[str, Any]] = []
    if path.exists():
      lines = path.read_text('utf-8').split('\n')
      self.rows = [_row(path, line) for line in lines if line.strip()]

  def add(self, row: Mapping[str, Any]) -> None:
    """Adds a result to the file, and shows it."""
    row = {**row, **self._beside_ours(row)}
    row |= self._share(row)
    with self._path.open('a', encoding='utf-8') as stream:
      stream.write(f'{json.dumps(row)}\n')
      stream.flush()
      os.fsync(stream.fileno())
    self.rows.append(row)
    print(shown(row), flush=True)

  def check_device(self, device: str) -> None:
    """Refuses a device that is not that of the results so far."""
    known = self.about.get('device', device)
    if known != device:
      raise ValueError(
        f'{self._path} has results of {known}, and this is {device}; name '
        'another file with --out'
      )

  def has(self, entry: gpu_plan.Entry) -> bool:
    """Returns whether an entry was measured to its end."""
    return any(
      row['entry'] == entry.name and row['what'] == 'end' for row in self.rows
    )

  @property
  def about(self) -> Mapping[str, Any]:
    """The machine; empty if it is not known."""
    return next((row for row in self.rows if 'platform' in row), {})

  def _beside_ours(self, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how PyTorch's step compares with our latest, if that is known."""
    ours = next((r for r in reversed(self.rows) if _is_ours(r, row)), None)
    if ours is None:
      return {}
    for name, tolerance in (('parameters', 0), ('flops', FLOPS_TOLERANCE)):
      if abs(row[name] - ours[name]) > tolerance * ours[name]:
        counts = f'{row[name]:,} {name}, not {ours[name]:,}'
        return {'error': f'the network differs from ours: {counts}'}
    found = {'precision': ours['precision']}
    if row['microbatch_size'] == ours['microbatch_size']:
      ratio = row['step_ms']['median'] / ours['step_ms']['median']
      found['ratio_to_ours'] = ratio
    return found

  def _share(self, row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the share of the peak that a step reaches."""
    peaks = {
      known['precision']: known['flops_per_second']
      for known in self.rows
      if known['what'] == 'peak' and 'precision' in known
    }
    peak = peaks.get(row.get('precision'))
    if row['what'] == 'peak' or not peak or 'flops_per_second' not in row:
      return {}
    return {'share_of_peak': row['flops_per_second'] / peak}


def _is_ours(known: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
  """Returns whether a step is the one that PyTorch has taken."""
  if row['what'] != 'torch' or 'error' in row or known['what'] != 'step':
    return False
  network = known['entry'].partition(':')[0] == row['entry'].partition(':')[0]
  return network and 'error' not in known and known['label'] == row['label']


def read(line: str) -> dict[str, Any]:
  """Returns a line of the file, or of a process that measures.

  Raises:
    ValueError: it is no result.
  """
  row = json.loads(line)
  if not isinstance(row, dict) or not {'entry', 'what'} <= set(row):
    raise ValueError('a result is of an entry, and says what it is')
  return row


def _row(path: pathlib.Path, line: str) -> dict[str, Any]:
  """Returns a line of the file."""
  try:
    return read(line)
  except ValueError as error:
    raise ValueError(
      f'{path} has a line that is no result of this script: {line[:60]!r}; '
      'name another file with --out'
    ) from error


def shown(row: Mapping[str, Any]) -> str:
  """Returns a result as a line for people."""
  what, text = row['what'], ''
  if 'error' in row:
    text = row['error']
  elif what == 'left out':
    return f'not measured, too little time left: {row["entry"]}'
  elif what in ('step', 'torch'):
    text = _shown_step(row)
  elif 'flops_per_second' in row:
    text = f'{row["precision"]}: {row["flops_per_second"] / 1e12:.3g} TFLOP/s'
  else:
    known = {k: v for k, v in row.items() if k not in ('entry', 'what')}
    text = ', '.join(
      f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}'
      for k, v in known.items()
      if not isinstance(v, dict) or k == 'options'
    )
  return f'{row["entry"]}: {row.get("label", what)}: {text}'


def _shown_step(row: Mapping[str, Any]) -> str:
  """Returns the figures of a step."""
  cells = [f'{row["step_ms"]["median"]:.2f} ms']
  if 'ratio' in row:
    cells.append(f'ratio {benchmarking.in_brackets(row["ratio"])}')
  if 'ratio_to_sam' in row:
    cells.append(f'of SAM {benchmarking.in_brackets(row["ratio_to_sam"])}')
  if 'ratio_to_ours' in row:
    cells.append(f'{row["ratio_to_ours"]:.2f} of ours')
  if 'm' in row:
    cells.append(f'm {row["m"]}, microbatches {row["microbatch_size"]}')
  if row.get('is_halved'):
    cells.append('smaller microbatches than asked for, to fit into memory')
  forms = {
    'compile_s': 'compiled in {:.1f} s',
    'share_of_peak': '{:.0%} of the peak',
    'memory_planned_mib': 'planned {:,.0f} MiB',
    'memory_held_mib': 'held at most {:,.0f} MiB',
  }
  known = {k: form for k, form in forms.items() if row.get(k) is not None}
  cells += [form.format(row[key]) for key, form in known.items()]
  return ', '.join(cells)
