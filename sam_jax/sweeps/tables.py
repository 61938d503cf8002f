"""Tables of settings, beside the numbers of the paper.

A table is written as text, Markdown and CSV. Its words are those of the score
of the runs, such as 'error, %'.
"""

import csv
import io
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

from sam_jax import tasks
from sam_jax.datasets import fake
from sam_jax.runs import files
from sam_jax.sweeps import (
  choice as choice_lib,
  paper as paper_lib,
  results,
  settings as settings_lib,
  statistics,
)

Row = dict[str, str]


def write(
  directory: pathlib.Path,
  settings: Sequence[settings_lib.Setting],
  paper: Sequence[paper_lib.Paper] = (),
) -> Iterator[str]:
  """Writes all tables; yields what there is to print, a text at a time.

  Args:
    directory: where `table.*` and `selected.*` are written.
    settings: of a sweep, at least one.
    paper: numbers to compare with.
  """
  rows = [_row(setting, settings, paper) for setting in settings]
  remarks = list(remarks_on_data(settings))
  yield write_rows(directory / 'table', rows, remarks)
  yield from remarks
  choices = choice_lib.choose(settings)
  if any(choice.tried for choice in choices):
    rows = [
      _row(choice.test, settings, paper) | {'best of': _number_tried(choice)}
      for choice in choices
      if choice.test is not None
    ]
    if rows:
      yield '\nBest rho, or alpha, on the validation split:\n'
      yield write_rows(directory / 'selected', rows, remarks)
    for choice in choices:
      yield from _remarks_on_choice(choice)
  for setting in settings:
    yield from _remarks_on_runs(setting)


def _row(
  setting: settings_lib.Setting,
  settings: Sequence[settings_lib.Setting],
  paper: Sequence[paper_lib.Paper],
) -> Row:
  """Returns the columns of one setting."""
  score = setting.score
  found = setting.estimate(results.FINAL)
  is_fake = fake.is_fake(setting.data)
  # Whatever the format, nobody takes these numbers for those of real images.
  row = {'data.name': setting.data} if is_fake else {}
  row |= {name: _show(value) for name, value in setting.shown.items()}
  row |= {
    'n': str(found.n),
    score.heading(): interval(found, score),
    score.heading('best epoch'): interval(
      setting.estimate('best_score'), score
    ),
    'gradients': f'{setting.estimate("gradient_evaluations").mean:.0f}',
    'seconds': f'{setting.estimate("wall_seconds").mean:.0f}',
  }
  row |= _rival(setting, settings)
  if any(map(settings_lib.mixed, settings)):
    row['runs differ in'] = ', '.join(settings_lib.mixed(setting))
  metrics = dict.fromkeys(number.metric for number in paper)
  if score.metric in metrics:  # else the paper measured something else
    for metric in metrics:
      numbers = [number for number in paper if number.metric == metric]
      row |= _beside_paper(setting, metric, [] if is_fake else numbers)
  return row


def _rival(
  setting: settings_lib.Setting, settings: Sequence[settings_lib.Setting]
) -> Row:
  """Returns the column of SGD at equal compute, if there is any SGD."""
  if all(other.method != 'sgd' for other in settings):
    return {}
  sgd = choice_lib.sgd_at_equal_compute(setting, settings)
  name = setting.score.heading('SGD with as many gradients')
  if sgd is None:
    return {name: ''}
  found = sgd.estimate(results.FINAL)
  return {name: f'{interval(found, setting.score)} (n = {found.n})'}


def _beside_paper(
  setting: settings_lib.Setting,
  metric: str,
  numbers: Sequence[paper_lib.Paper],
) -> Row:
  """Returns the columns of one metric of the paper.

  Args:
    setting: of the row.
    metric: of the numbers. If it is not the score, it gets a column of its own;
      it has the unit and the scale of the score.
    numbers: of the paper, of which none may fit.
  """
  score = setting.score
  row: Row = {}
  if metric == score.metric:
    found, prefix = setting.estimate(results.FINAL), ''
  else:
    last = setting.final(metric)
    if last is None:  # the runs have not logged this metric
      return {}
    label = metric.replace('_', ' ')
    row[score.heading(label)] = interval(last, score)
    found, prefix = last, f'{label}: '
  meant = [n for n in numbers if n.fits(setting.runs[0].fields)]
  if meant:
    row[score.heading(f'{prefix}paper')] = str(meant[0])
    difference = found.mean - meant[0].number / score.scale
    row[f'{prefix}difference'] = score.number(difference, '+')
  return row


def interval(
  found: statistics.Estimate, score: tasks.Score, sign: str = ''
) -> str:
  """Returns a mean with its interval, in the unit of a score.

  Args:
    found: of values of the metric.
    score: has the unit.
    sign: see `Score.number`; of the mean.
  """
  mean = score.number(found.mean, sign)
  if math.isnan(found.half_width):
    return mean
  return f'{mean} ± {score.number(found.half_width)}'


def _show(value: object) -> str:
  """Returns the value of a field."""
  return '-' if value is None else str(value)


# --- Remarks -----------------------------------------------------------------


def _name(setting: settings_lib.Setting) -> str:
  """Returns what tells a setting from others, in one line."""
  parts = (f'{name}={_show(value)}' for name, value in setting.shown.items())
  return ', '.join(parts) or 'the only setting'


def _number_tried(choice: choice_lib.Choice) -> str:
  """Returns of how many settings a setting is the best."""
  if not choice.is_needed or choice.best is None:
    return '-'
  return f'{len(choice.tried)} tried, n = {len(choice.best.runs)}'


def _remarks_on_choice(choice: choice_lib.Choice) -> Iterator[str]:
  """Yields what a reader must know of a choice on the validation split."""
  most = max((len(setting.runs) for setting in choice.tried), default=0)
  for setting in choice.tried:
    if len(setting.runs) < most:
      yield f'only {len(setting.runs)} of {most} runs exist of {_name(setting)}'
  for setting in choice.left_out:
    yield (
      f'left out of the choice, because it has {len(setting.runs)} of {most} '
      f'runs: {_name(setting)}'
    )
  if choice.is_needed and choice.test is None and choice.best is not None:
    yield (f'best of {_number_tried(choice)}, not tested: {_name(choice.best)}')


def _remarks_on_runs(setting: settings_lib.Setting) -> Iterator[str]:
  """Yields what a reader must know of the runs of a setting."""
  for name in settings_lib.mixed(setting):
    yield f'warning: the runs of {_name(setting)} differ in {name}'
  if not setting.repeated:
    return
  differs = any(
    run.result[results.FINAL] != counted.result[results.FINAL]
    for run, counted in setting.repeated
  )
  find = ' and do not find the same' if differs else ''
  yield (
    f'warning: {len(setting.repeated)} runs of {_name(setting)} repeat a seed'
    f'{find}; one run of each seed counts, and not '
    f'{setting.repeated[0][0].workdir}'
  )


def remarks_on_data(
  settings: Sequence[settings_lib.Setting],
) -> Iterator[str]:
  """Yields a line for each data set whose images are synthetic."""
  return fake.remarks(setting.data for setting in settings)


# --- Files -------------------------------------------------------------------


def write_rows(
  path: pathlib.Path, rows: Sequence[Row], remarks: Sequence[str] = ()
) -> str:
  """Writes a table as text, Markdown and CSV; returns the text.

  Args:
    path: of the files, without .txt, .md, .csv.
    rows: at least one; what a row lacks is left empty.
    remarks: what stands below it in Markdown.
  """
  header = list(dict.fromkeys(name for row in rows for name in row))
  rows = [{name: row.get(name, '') for name in header} for row in rows]
  widths = {
    name: max(len(name), *(len(row[name]) for row in rows)) for name in header
  }

  def lines(join: Callable[[list[str]], str]) -> list[str]:
    table = [{name: name for name in header}, *rows]
    return [join([r[n].ljust(widths[n]) for n in header]) for r in table]

  text = '\n'.join(line.rstrip() for line in lines('  '.join))
  marked = lines(lambda columns: f'| {" | ".join(columns)} |')
  marked.insert(1, f'|{"|".join("-" * (widths[n] + 2) for n in header)}|')
  stream = io.StringIO()
  writer = csv.DictWriter(stream, header, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  files.write_text(path.with_suffix('.txt'), text + '\n')
  if remarks:
    marked += ['', *(f'- {remark}' for remark in remarks)]
  files.write_text(path.with_suffix('.md'), '\n'.join(marked) + '\n')
  files.write_text(path.with_suffix('.csv'), stream.getvalue())
  return text
