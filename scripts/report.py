"""Tables and pictures of the runs in a directory.

    python scripts/report.py runs/noise --sweep=configs/sweeps/digits_noise.py

Runs that differ in their seed alone are one cell: mean test error and 95 %
confidence interval (Student's t), beside the paper's number where the sweep
file has one, of the top-5 error too. Where there are cells for both splits, a
second table has for each method the rho (Mixup: alpha) that is best on the
validation split, as the paper chooses it; what is best there and not tested is
listed. Of several runs of the same seed one counts. Cells that mix versions of
the code or devices are named. Written to
DIRECTORY/report: table.txt, table.md, table.csv, selected.* and pictures:
error against rho, m, and compute, and the curves of training.
"""

import csv
import io
import math
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax.sweeps import cells as cells_lib, pictures, statistics

_SWEEP = flags.DEFINE_string(
  'sweep', None, "Sweep file: has the paper's numbers, and what replicas are."
)
_ERROR = 'final_error_rate'

Row = dict[str, str]


def main(argv: Sequence[str]) -> None:
  if len(argv) != 2:
    _exit('give one directory with runs')
  directory = pathlib.Path(argv[1])
  try:
    sweep = cells_lib.load(pathlib.Path(_SWEEP.value)) if _SWEEP.value else None
    runs, num_unfinished = statistics.collect(directory)
  except (ValueError, OSError) as error:
    _exit(str(error))
  if not runs:
    _exit(f'none of the {num_unfinished} runs in {directory} is finished')
  replicas = sweep.replicas if sweep else ('seed',)
  cells = statistics.group(runs, replicas)
  paper = sweep.paper if sweep else ()
  out = directory / 'report'
  out.mkdir(exist_ok=True)
  _write(out / 'table', [_row(cell, cells, paper) for cell in cells])
  _write_selected(out / 'selected', cells, paper)
  for cell in cells:
    for name in statistics.mixed(cell):
      print(f'warning: the runs of {_name(cell)} differ in {name}')
    if cell.repeated:
      print(_of_repeated(cell))
  if num_unfinished:
    print(f'{num_unfinished} runs are not finished and left out')
  for path in pictures.draw(out, cells):
    print(path)


def _exit(message: str) -> None:
  """Ends the program with one line."""
  print(f'report: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)


def _name(cell: statistics.Cell) -> str:
  """Returns what tells a cell from others, in one line."""
  parts = (f'{name}={_show(value)}' for name, value in cell.shown.items())
  return ', '.join(parts) or 'the cell'


def _of_repeated(cell: statistics.Cell) -> str:
  """Says that runs of the same seed were left out, and whether it matters."""
  differs = any(
    run.result[_ERROR] != counted.result[_ERROR]
    for run, counted in cell.repeated
  )
  differ = ' and do not find the same' if differs else ''
  return (
    f'warning: {len(cell.repeated)} runs of {_name(cell)} repeat a seed'
    f'{differ}; one of each counts: {cell.repeated[0][0].workdir} does not'
  )


def _row(
  cell: statistics.Cell,
  cells: Sequence[statistics.Cell],
  paper: Sequence[cells_lib.Paper],
) -> Row:
  """Returns the columns of a cell, one of all cells."""
  error = cell.estimate(_ERROR)
  row = {name: _show(value) for name, value in cell.shown.items()}
  row |= {
    'n': str(error.n),
    'error, %': _interval(error),
    'best epoch, %': _interval(cell.estimate('best_error_rate')),
    'gradients': f'{cell.estimate("gradient_evaluations").mean:.0f}',
    'seconds': f'{cell.estimate("wall_seconds").mean:.0f}',
  }
  if any(c.runs[0].fields['method.name'] == 'sgd' for c in cells):
    sgd = statistics.sgd_at_equal_compute(cell, cells)
    row['SGD within these gradients, %'] = (
      '' if sgd is None else _interval(sgd.estimate(_ERROR), says_n=True)
    )
  if any(map(statistics.mixed, cells)):
    row['runs differ in'] = ', '.join(statistics.mixed(cell))
  row |= _beside_paper('', cell, error, _of_metric(paper, 'error_rate'))
  top5 = _of_metric(paper, 'top5_error_rate')
  if top5:
    found = cell.final('top5_error_rate')
    row['top-5 error, %'] = '' if found is None else _interval(found)
    row |= _beside_paper('top-5 ', cell, found, top5)
  return row


def _of_metric(
  paper: Sequence[cells_lib.Paper], metric: str
) -> list[cells_lib.Paper]:
  """Returns the paper's numbers of a metric."""
  return [number for number in paper if number.metric == metric]


def _beside_paper(
  title: str,
  cell: statistics.Cell,
  found: statistics.Estimate | None,
  paper: Sequence[cells_lib.Paper],
) -> Row:
  """Returns the columns of what the paper has of a metric, if it has any."""
  if not paper:
    return {}
  row = {f'{title}paper, %': '', f'{title}difference': ''}
  meant = [p for p in paper if p.means(cell.runs[0].fields)]
  if meant:
    row[f'{title}paper, %'] = _of_paper(meant[0])
  if meant and found is not None:
    difference = 100 * found.mean - meant[0].error
    row[f'{title}difference'] = f'{difference:+.2f}'
  return row


def _of_paper(paper: cells_lib.Paper) -> str:
  """Returns the paper's number as it prints it."""
  half_width = '' if paper.half_width is None else f' ± {paper.half_width}'
  return f'{paper.error}{half_width}'


def _show(value: object) -> str:
  """Returns the value of a field."""
  return '-' if value is None else str(value)


def _interval(found: statistics.Estimate, *, says_n: bool = False) -> str:
  """Returns a rate in percent with its interval."""
  n = f' (n = {found.n})' if says_n else ''
  if math.isnan(found.half_width):
    return f'{100 * found.mean:.2f}{n}'
  return f'{100 * found.mean:.2f} ± {100 * found.half_width:.2f}{n}'


def _write_selected(
  path: pathlib.Path,
  cells: Sequence[statistics.Cell],
  paper: Sequence[cells_lib.Paper],
) -> None:
  """Writes the table of what is best on the validation split."""
  choices = statistics.choose(cells)
  if not any(choice.tried for choice in choices):
    return
  rows = []
  for choice in choices:
    if choice.test is not None:
      found = _row(choice.test, cells, paper)
      rows.append(found | {'best of': _of_tried(choice)})
  if rows:
    print('\nBest rho, or alpha, on the validation split:\n')
    _write(path, rows)
    print()
  for choice in choices:
    most = max((len(cell.runs) for cell in choice.tried), default=0)
    for cell in choice.tried:
      if len(cell.runs) < most:
        print(f'{len(cell.runs)} of {most} runs are there of {_name(cell)}')
    for cell in choice.left_out:
      print(
        f'left out of the choice, with {len(cell.runs)} of {most} runs: '
        f'{_name(cell)}'
      )
    if choice.is_needed and choice.test is None:
      print(f'best of {_of_tried(choice)}, not tested: {_name(choice.best)}')


def _of_tried(choice: statistics.Choice) -> str:
  """Returns what a cell is the best of."""
  if not choice.is_needed:
    return '-'
  return f'{len(choice.tried)} tried, n = {len(choice.best.runs)}'


def _write(path: pathlib.Path, rows: Sequence[Row]) -> None:
  """Prints a table, and writes it as text, Markdown and CSV."""
  header = list(rows[0])
  widths = {
    name: max(len(name), *(len(row[name]) for row in rows)) for name in header
  }

  def lines(join: Callable[[list[str]], str]) -> list[str]:
    table = [{name: name for name in header}, *rows]
    return [join([r[n].ljust(widths[n]) for n in header]) for r in table]

  text = '\n'.join(line.rstrip() for line in lines('  '.join)) + '\n'
  marked = lines(lambda columns: f'| {" | ".join(columns)} |')
  marked.insert(1, f'|{"|".join("-" * (widths[n] + 2) for n in header)}|')
  stream = io.StringIO()
  writer = csv.DictWriter(stream, header, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  for suffix, content in (
    ('.txt', text),
    ('.md', '\n'.join(marked) + '\n'),
    ('.csv', stream.getvalue()),
  ):
    path.with_suffix(suffix).write_text(content, encoding='utf-8')
  print(text, end='')


if __name__ == '__main__':
  app.run(main)
