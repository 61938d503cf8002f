"""Tables and pictures of the runs in a directory.

    python -m sam_jax.report runs/digits_noise --sweep=digits_noise

Runs that differ in nothing but their seed are one row: mean score and 95 %
confidence interval (Student's t), beside SGD within the same number of
gradients, and beside the paper's number if the sweep file has one. If there are
runs on both splits, a second table has for each method the rho (for Mixup:
alpha) that is best on the validation split, as the paper chooses it. What is
best there and was not tested is listed. Of several runs of the same seed one
counts. Rows that mix versions of the code or devices are named.

Written to DIRECTORY/report: table.txt, table.md, table.csv, selected.*, and
pictures of the score against rho, m and compute, and along training.

Exit status: 0 if there is a report, 2 if there is nothing to report.
"""

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
  "Sweep file, or the name of a shipped sweep: has the paper's numbers, and "
  'says what replicas are.',
)


def main(argv: Sequence[str]) -> None:
  """Writes and prints the report."""
  if len(argv) != 2:
    raise ValueError('give one directory with runs')
  directory = files.user_path(argv[1])
  sweep = cells_lib.Sweep(())
  if _SWEEP.value:
    sweep = sweep_files.load(_cli.sweep_path(_SWEEP.value), configs.find)
  runs, num_unfinished, unreadable, remarks = results.collect(directory)
  if not runs:
    count = num_unfinished + len(unreadable)
    reasons = ''.join(f'; {reason}' for reason in unreadable[:1])
    raise ValueError(
      f'none of the {count} runs in {directory} can be reported: '
      f'{num_unfinished} are not finished{reasons}'
    )
  settings = settings_lib.group(runs, sweep.replicas)
  out = directory / 'report'
  out.mkdir(exist_ok=True)
  for text in tables.write(out, settings, sweep.paper):
    print(text)
  for reason in unreadable:
    print(f'warning: left out: {reason}')
  for remark in remarks:
    print(f'warning: {remark}')
  if num_unfinished:
    print(f'{num_unfinished} runs are not finished and left out')
  for path in pictures.draw(out, settings):
    print(path)


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'report', flags)


if __name__ == '__main__':
  cli()
