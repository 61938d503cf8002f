"""Tables and pictures of the runs in a directory.

    python -m sam_jax.report runs/digits_noise --sweep=digits_noise

Runs that differ only in their seed make one row. It has their mean score and
its 95 % confidence interval (Student's t), the score of SGD with the same
number of gradient evaluations, and the paper's number if the sweep file has
one. If there are runs on both splits, a second table has for each method the
rho (for Mixup: alpha) that is best on the validation split, as the paper
chooses it. If the best one has no run on the test split, a line says so. If
several runs have the same seed, one of them counts. A line names each row whose
runs are of different versions of the code, or of different devices.

Written to DIRECTORY/report: table.txt, table.md, table.csv, selected.*, and
pictures of the score against rho, m and compute, and along training.

    python -m sam_jax.report runs/digits_m --predictors

reports instead how well the sharpness predicts generalisation. It measures the
m-sharpness of each run for several m, and the gap: by how much score and loss
are worse on the split that the run was evaluated on than on its training
examples. Tables and a picture show both, Kendall's rank correlation (tau)
between them, and the conditional mutual information of the competition PGDL:
what the sharpness says about the gap that the hyper-parameters do not say
already. The files are gaps.*, gaps_of_runs.*, predictors.* and
gap_vs_sharpness.png. The measurements are kept in the run directories, so that
the same command resumes.

Exit status: 0 if there is a report, 2 if there is nothing to report.
"""

import pathlib
from collections.abc import Sequence

from sam_jax import _cli, configs
from sam_jax.runs import files
from sam_jax.sweeps import (
  cells as cells_lib,
  pictures,
  results,
  settings as settings_lib,
  sweep_files,
  tables,
)

flags = _cli.Flags()
_SWEEP = flags.DEFINE_string(
  'sweep',
  None,
  "Sweep file, or the name of a shipped sweep. It has the paper's numbers, and "
  'says which runs are replicas of each other.',
)
_PREDICTORS = flags.DEFINE_bool(
  'predictors',
  False,
  'Report what predicts the gap between training and test; measures the runs.',
)
_M = flags.DEFINE_list(
  'm',
  None,
  'With --predictors: numbers of examples in a group, such as 1,16. Default: '
  '1, 4, 16, 64 and 256, as far as there are so many examples.',
)
_RHO = flags.DEFINE_float(
  'rho', 0.05, 'With --predictors: radius of the sharpness, for all runs.'
)
_GROUPS = flags.DEFINE_integer(
  'groups',
  128,
  'With --predictors: largest number of groups for each m, the same for '
  'all runs.',
  lower_bound=1,
)
_NO_PLUGINS = _cli.define_no_plugins(flags)


def main(argv: Sequence[str]) -> None:
  """Writes and prints the report."""
  if len(argv) != 2:
    raise ValueError('give one directory with runs')
  _check_flags()
  directory = files.user_path(argv[1])
  sweep = cells_lib.Sweep(())
  if _SWEEP.value:
    sweep = sweep_files.load(_cli.sweep_path(_SWEEP.value), configs.find)
  found = results.collect(directory)
  if not found.runs:
    count = found.num_unfinished + len(found.unreadable)
    reasons = ''.join(f'; {reason}' for reason in found.unreadable[:1])
    raise ValueError(
      f'none of the {count} runs in {directory} can be reported: '
      f'{found.num_unfinished} are not finished{reasons}'
    )
  if _PREDICTORS.value:
    _report_predictors(directory / 'report', found, sweep.replicas)
  else:
    _report_scores(directory / 'report', found, sweep)


def _check_flags() -> None:
  """Refuses flags of the predictors without them.

  Raises:
    ValueError: there is such a flag.
  """
  given = [f for f in (_M, _RHO, _GROUPS, _NO_PLUGINS) if f.present]
  if given and not _PREDICTORS.value:
    names = ', '.join(f'--{flag.name}' for flag in given)
    raise ValueError(f'{names} needs --predictors; nothing else is measured')


def _report_scores(
  out: pathlib.Path, found: results.Found, sweep: cells_lib.Sweep
) -> None:
  """Writes and prints the tables and pictures of the scores."""
  settings = settings_lib.group(found.runs, sweep.replicas)
  out.mkdir(exist_ok=True)
  for text in tables.write(out, settings, sweep.paper):
    print(text)
  _print_remarks(found)
  for path in pictures.draw(out, settings):
    print(path)


def _report_predictors(
  out: pathlib.Path, found: results.Found, replicas: Sequence[str]
) -> None:
  """Measures; writes and prints the tables and the picture of it."""
  from sam_jax.runs import ambient
  from sam_jax.sweeps import gaps, predictors, scatter

  options = gaps.Options(
    _ms(), _RHO.value, _GROUPS.value, not _NO_PLUGINS.value
  )
  _cli.cache_compilations()
  with ambient.pinned():
    comparison = gaps.compare(found.runs, replicas, options)
  predictions = predictors.predict(comparison, replicas)
  out.mkdir(exist_ok=True)
  for text in predictors.write(out, comparison, predictions):
    print(text)
  _print_remarks(found)
  for reason in comparison.left_out:
    print(f'warning: left out: {reason}')
  scatter.draw(out / 'gap_vs_sharpness.png', predictions, options.rho)
  for name in ('gaps_of_runs.csv', 'gap_vs_sharpness.png'):
    print(out / name)


def _ms() -> tuple[int, ...] | None:
  """Returns the m that the flag names, None for the default."""
  if _M.value is None:
    return None
  texts = [text.strip() for text in _M.value]
  if not texts or not all(text.isdecimal() and int(text) for text in texts):
    raise ValueError(
      f'--m is {",".join(_M.value)!r}; give whole numbers of at least 1 with '
      'commas between them, such as 1,16,128'
    )
  return tuple(dict.fromkeys(map(int, texts)))


def _print_remarks(found: results.Found) -> None:
  """Prints what a reader must know of the runs in the directory."""
  for reason in found.unreadable:
    print(f'warning: left out: {reason}')
  for remark in found.remarks:
    print(f'warning: {remark}')
  if found.num_unfinished:
    print(f'{found.num_unfinished} runs are not finished and left out')


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'report', flags)


if __name__ == '__main__':
  cli()
