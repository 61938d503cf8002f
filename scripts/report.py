"""Tables and pictures of the runs in a directory.

    python scripts/report.py runs/noise --sweep=configs/sweeps/digits_noise.py

Runs that differ in their seed alone are one cell: mean test error and 95 %
confidence interval (Student's t), beside the paper's number where the sweep
file has one. Where there are cells for both splits, a second table has for each
method the rho that is best on the validation split, as the paper chooses it.
Cells that mix versions of the code or devices are named. Written to
DIRECTORY/report: table.txt, table.md, table.csv, selected.* and pictures:
error against rho, m, and compute, and the curves of training.
"""

import csv
import io
import math
import pathlib
import sys
from collections.abc import Callable, Sequence

import matplotlib
from absl import app, flags

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import reports, sweeps

_SWEEP = flags.DEFINE_string(
  'sweep', None, "Sweep file: has the paper's numbers, and what replicas are."
)
_MAX_CURVES = 12
_ERROR = 'final_error_rate'

Row = dict[str, str]


def main(argv: Sequence[str]) -> None:
  if len(argv) != 2:
    _exit('give one directory with runs')
  directory = pathlib.Path(argv[1])
  try:
    sweep = sweeps.load(pathlib.Path(_SWEEP.value)) if _SWEEP.value else None
    runs, num_unfinished = reports.collect(directory)
  except (ValueError, OSError) as error:
    _exit(str(error))
  if not runs:
    _exit(f'none of the {num_unfinished} runs in {directory} is finished')
  replicas = sweep.replicas if sweep else ('seed',)
  cells = reports.group(runs, replicas)
  paper = sweep.paper if sweep else ()
  out = directory / 'report'
  out.mkdir(exist_ok=True)
  _write(out / 'table', [_row(cell, cells, paper) for cell in cells])
  _write_selected(out / 'selected', cells, paper)
  for cell in cells:
    for name in reports.mixed(cell):
      print(f'warning: the runs of {cell.fields} differ in {name}')
  if num_unfinished:
    print(f'{num_unfinished} runs are not finished and left out')
  _draw(out, cells)


def _exit(message: str) -> None:
  """Ends the program with one line."""
  print(f'report: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)


# --- Tables ------------------------------------------------------------------


def _row(
  cell: reports.Cell,
  cells: Sequence[reports.Cell],
  paper: Sequence[sweeps.Paper],
) -> Row:
  """Returns the columns of a cell, one of all cells."""
  error = cell.estimate(_ERROR)
  row = {name: _show(value) for name, value in cell.fields.items()}
  row |= {
    'n': str(error.n),
    'error, %': _interval(error),
    'best epoch, %': _interval(cell.estimate('best_error_rate')),
    'gradients': f'{cell.estimate("gradient_evaluations").mean:.0f}',
    'seconds': f'{cell.estimate("wall_seconds").mean:.0f}',
  }
  if any(c.runs[0].fields['method'] == 'sgd' for c in cells):
    sgd = reports.sgd_at_equal_compute(cell, cells)
    row['SGD within these gradients, %'] = (
      '' if sgd is None else _interval(sgd.estimate(_ERROR))
    )
  if paper:
    found = [p for p in paper if p.means(cell.runs[0].fields)]
    row |= {'paper, %': '', 'difference': ''}
    if found:
      difference = 100 * error.mean - found[0].error
      row |= {
        'paper, %': _of_paper(found[0]),
        'difference': f'{difference:+.2f}',
      }
  return row


def _of_paper(paper: sweeps.Paper) -> str:
  """Returns the paper's number as it prints it."""
  half_width = '' if paper.half_width is None else f' ± {paper.half_width}'
  return f'{paper.error}{half_width}'


def _show(value: object) -> str:
  """Returns the value of a field."""
  return '-' if value is None else str(value)


def _interval(found: reports.Estimate) -> str:
  """Returns a rate in percent with its interval."""
  if math.isnan(found.half_width):
    return f'{100 * found.mean:.2f}'
  return f'{100 * found.mean:.2f} ± {100 * found.half_width:.2f}'


def _write_selected(
  path: pathlib.Path,
  cells: Sequence[reports.Cell],
  paper: Sequence[sweeps.Paper],
) -> None:
  """Writes the table of what is best on the validation split."""
  splits = {cell.fields.get('data.split') for cell in cells}
  if not {'validation', 'test'} <= splits:
    return
  rows = []
  for cell, values in reports.select(cells):
    tried = [v for v in values if v is not None]
    row = {'rho of': f'{len(tried)} tried' if len(tried) > 1 else '-'}
    rows.append(_row(cell, cells, paper) | row)
  if rows:
    print('\nBest rho on the validation split:\n')
    _write(path, rows)


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


# --- Pictures ----------------------------------------------------------------


def _draw(out: pathlib.Path, cells: Sequence[reports.Cell]) -> None:
  """Draws what there is something to see of."""
  matplotlib.use('agg')
  for field, name, axis in (
    ('sam.rho', 'error_vs_rho.png', 'rho'),
    ('sam.m', 'error_vs_m.png', 'm'),
  ):
    values = {c.fields[field] for c in cells if c.fields.get(field) is not None}
    if len(values) > 1:
      _draw_against(out / name, cells, field, axis)
  _draw_compute(out / 'error_vs_compute.png', cells)
  _draw_curves(out / 'curves.png', cells)


def _draw_against(
  path: pathlib.Path, cells: Sequence[reports.Cell], field: str, axis: str
) -> None:
  """Draws the error of the cells against one of their fields."""
  lines: dict[str, list[reports.Cell]] = {}
  for cell in cells:
    if cell.fields.get(field) is not None:
      others = {k: v for k, v in cell.fields.items() if k != field}
      lines.setdefault(_label(others), []).append(cell)
  figure, [axes] = _figure(axis, path.stem)
  for label, members in lines.items():
    members = sorted(members, key=lambda c: c.fields[field])
    found = [c.estimate(_ERROR) for c in members]
    axes.errorbar(
      [c.fields[field] for c in members],
      [100 * e.mean for e in found],
      [_bar(e) for e in found],
      label=label,
      marker='o',
      capsize=3,
    )
  values = sorted({c.fields[field] for m in lines.values() for c in m})
  axes.set_xscale('log')
  axes.set_xticks(values, [str(value) for value in values])
  axes.set_xticks([], minor=True)
  _save(figure, axes, path, len(lines))


def _draw_compute(path: pathlib.Path, cells: Sequence[reports.Cell]) -> None:
  """Draws the error of the cells against what they cost.

  Of those that differ in the perturbation alone, only the best.
  """
  figure, panels = _figure('gradient evaluations', path.stem, num_panels=2)
  panels[1].set_xlabel('seconds')
  names = ('gradient_evaluations', 'wall_seconds')
  best: dict[str, reports.Cell] = {}
  for cell in sorted(cells, key=lambda c: c.estimate(_ERROR).mean):
    others = {k: v for k, v in cell.fields.items() if not k.startswith('sam.')}
    best.setdefault(f'{others} {cell.estimate(names[0]).mean}', cell)
  for i, cell in enumerate(c for c in cells if c in best.values()):
    found = cell.estimate(_ERROR)
    for axes, name in zip(panels, names, strict=True):
      axes.errorbar(
        cell.estimate(name).mean,
        100 * found.mean,
        _bar(found),
        label=_label(cell.fields),
        marker='osD^v'[i // 10 % 5],
        capsize=3,
      )
  _save(figure, panels[1], path, len(best))


def _draw_curves(path: pathlib.Path, cells: Sequence[reports.Cell]) -> None:
  """Draws the error along training, with bands; the best cells if many."""
  order = sorted(cells, key=lambda c: c.estimate(_ERROR).mean)
  figure, [axes] = _figure('epoch', path.stem)
  for cell in order[:_MAX_CURVES]:
    split = cell.runs[0].result['split']
    epochs, mean, half = reports.curve(cell, f'{split}/error_rate')
    [line] = axes.plot(epochs, 100 * mean, label=_label(cell.fields))
    axes.fill_between(
      epochs,
      100 * (mean - half),
      100 * (mean + half),
      color=line.get_color(),
      alpha=0.2,
      linewidth=0,
    )
  _save(figure, axes, path, min(len(cells), _MAX_CURVES))


def _figure(axis: str, title: str, num_panels: int = 1):
  """Returns a figure of errors, and its panels."""
  from matplotlib import pyplot as plt

  figure, panels = plt.subplots(
    1,
    num_panels,
    figsize=(3.5 + 3.5 * num_panels, 4.5),
    layout='constrained',
    sharey=True,
    squeeze=False,
  )
  for axes in panels[0]:
    axes.set_xlabel(axis)
    axes.grid(alpha=0.3)
  panels[0, 0].set_ylabel('error, %')
  figure.suptitle(title.replace('_', ' '))
  return figure, panels[0]


def _bar(found: reports.Estimate) -> float:
  """Returns the height of an error bar in percent."""
  return 0 if math.isnan(found.half_width) else 100 * found.half_width


def _label(fields: reports.Fields) -> str:
  """Returns a cell in a few words."""
  parts = (
    f'{name.rpartition(".")[2]}={_show(value)}'
    for name, value in fields.items()
    if value is not None
  )
  return ', '.join(parts) or 'all'


def _save(figure, axes, path: pathlib.Path, num_labels: int) -> None:
  """Writes a picture, with its legend outside."""
  from matplotlib import pyplot as plt

  if num_labels <= 30:
    axes.legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
  figure.savefig(path, dpi=120)
  plt.close(figure)
  print(path)


if __name__ == '__main__':
  app.run(main)
