r"""Compares methods on a config, at equal compute and each at its best rho.

    python -m sam_jax.compare_methods --config=digits --workdir=runs/compare \
        --methods='sgd,sam,asam(eta=0.01),looksam(every=2|5)' --workers=2

Every run has the same number of gradient evaluations (--gradients), so that a
method that needs two of them in a step makes half as many steps as SGD. The
default is the number that SAM needs for the length of the config.

--methods lists names, each perhaps with fields. A field has one value, or
several, separated by |: the best on the validation split is taken. If a method
has a rho, and it is not given, the values are multiples of the method's default
(--rho_factors). Besides rho, one field of a method can have several values. The
section `method` of the config is not used.

1. Each value is evaluated on the validation split, in --tuning_seeds runs with
   all gradient evaluations. A method that has only one value has no such runs.
   The number and the cost of all runs are printed first, and --dry_run stops
   there.
2. The value with the lowest mean score is evaluated on the test split, in
   --seeds runs. Nothing is chosen on the test split.

Prints a table, and writes it to the workdir with a picture (comparison.*), and
the scores on the validation split (tuning.*). The column "minus sam" has the
mean difference from SAM between runs of the same seed, and its interval;
--reference names another method than SAM. A method has the same colour in the
pictures of all comparisons.

The runs are a sweep: the same command resumes a comparison that was
interrupted. If you add methods, values or seeds, it makes only the runs that
are missing. `python -m sam_jax.report` reads the workdir, too.

Exit status: 0 if all runs are finished, 1 if some are not, 2 if the command
cannot be carried out, 128 + the number of a signal that ended it.
"""

import pathlib
from collections.abc import Sequence

from sam_jax import _cli, _config_flag
from sam_jax.runs import files
from sam_jax.sweeps import (
  cells as cells_lib,
  check,
  comparison as comparison_lib,
  comparison_report,
  cost,
  execution,
  pool,
)

flags = _cli.Flags()
_CONFIG = _config_flag.ConfigFlag(flags)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory of all runs.', required=True
)
_METHODS = flags.DEFINE_string(
  'methods',
  None,
  "Methods, separated by commas, each perhaps with fields: 'sgd,sam(p=1|2)'.",
  required=True,
)
_GRADIENTS = flags.DEFINE_integer(
  'gradients',
  None,
  'Gradient evaluations of each run; one is a forward and a backward pass of a '
  'batch. Default: as many as SAM needs for the length of the config.',
  lower_bound=1,
)
_RHO_FACTORS = flags.DEFINE_list(
  'rho_factors',
  ['0.25', '0.5', '1', '2', '4'],
  "Multiples of a method's default rho to try.",
)
_TUNING_SEEDS = flags.DEFINE_integer(
  'tuning_seeds',
  3,
  'Number of runs of each value on the validation split.',
  lower_bound=1,
)
_SEEDS = flags.DEFINE_integer(
  'seeds', 5, 'Number of runs of each method on the test split.', lower_bound=1
)
_REFERENCE = flags.DEFINE_string(
  'reference', 'sam', 'The method that the others are compared with.'
)
_WORKERS = flags.DEFINE_integer(
  'workers', 1, 'Number of runs at a time.', lower_bound=1
)
_GPUS = flags.DEFINE_list(
  'gpus',
  [],
  'Numbers of the GPUs to use, such as 0,1; each run has one of them.',
)
_RETRY = flags.DEFINE_bool(
  'retry',
  False,
  'Start failed runs again, even if their settings have not changed.',
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print the runs and their cost; start none.'
)
_TIME_STEPS = flags.DEFINE_integer(
  'time_steps',
  0,
  'With --dry_run: steps of each kind of run that are timed; 0 times none.',
  lower_bound=0,
)


def main(argv: Sequence[str]) -> int:
  """Compares; returns the exit status."""
  _cli.refuse_arguments(argv[1:])
  directory = files.run_directory(_WORKDIR.value)
  comparison = comparison_lib.create(
    _CONFIG.path,
    _CONFIG.fields(),
    _METHODS.value,
    budget=_GRADIENTS.value,
    rho_factors=_factors(_RHO_FACTORS.value),
    tuning_seeds=_TUNING_SEEDS.value,
    seeds=_SEEDS.value,
  )
  labels = list(comparison.entries)
  reference = comparison_report.find_reference(labels, _REFERENCE.value)
  for line in comparison.lines():
    print(line)
  if _DRY_RUN.value:
    return _dry_run(comparison, directory)
  try:
    return _compare(comparison, directory, reference)
  except check.Refused as error:
    return _refuse(error.problems)


def _compare(
  comparison: comparison_lib.Comparison,
  directory: pathlib.Path,
  reference: str,
) -> int:
  """Runs what is left, and reports; returns the exit status."""
  cells = comparison.tuning_cells()
  tuning = _execute(cells, directory)
  if tuning >= 128 or not comparison_lib.is_settled(cells, directory):
    return tuning
  tried = comparison.choose(directory)
  cells = comparison.chosen_cells(tried)
  testing = _execute(cells, directory)
  if not comparison_lib.is_settled(cells, directory):
    return testing
  print()
  report = comparison_report.Report(comparison, tried, directory, reference)
  for text in report.write(directory):
    print(text)
  return max(tuning, testing)


def _execute(cells: Sequence[cells_lib.Fields], directory: pathlib.Path) -> int:
  """Runs cells that are not finished; returns the exit status."""
  if not cells:
    return 0
  place = pool.Pool(directory, workers=_WORKERS.value, gpus=_GPUS.value)
  return execution.execute(
    cells, directory, place, retry=_RETRY.value, check=True
  )


def _dry_run(
  comparison: comparison_lib.Comparison, directory: pathlib.Path
) -> int:
  """Prints the runs that are known so far; returns the exit status."""
  cells = comparison.tuning_cells()
  if not cells:
    cells = comparison.chosen_cells(comparison.choose(directory))
  found = cost.Estimates(cells, directory, _TIME_STEPS.value)
  for line in found.lines():
    print(line)
  for reason in found.missing.values():
    _cli.say('compare_methods', f'warning: the runs need their data: {reason}')
  if comparison.tuning_cells():
    print('These are the runs on the validation split; those on the test split')
    print('follow, and what they cost depends on what is chosen.')
  return _refuse(found.problems())


def _refuse(problems: Sequence[str]) -> int:
  """Says why runs cannot be made; returns the exit status, 0 if they can."""
  for problem in problems:
    _cli.say('compare_methods', problem)
  return 2 if problems else 0


def _factors(texts: Sequence[str]) -> list[float]:
  """Returns by what the default rho is multiplied."""
  found = []
  for text in texts:
    try:
      factor = float(text)
    except ValueError:
      factor = 0.0
    if not 0 < factor < float('inf') or factor in found:
      raise ValueError(
        f'--rho_factors has {text!r}; give numbers above 0, each once'
      )
    found.append(factor)
  if not found:
    raise ValueError('--rho_factors is empty; give numbers above 0')
  return sorted(found)


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'compare_methods', flags)


if __name__ == '__main__':
  cli()
