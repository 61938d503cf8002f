r"""Finds rho for a config: a grid of short runs on the validation split.

    python -m sam_jax.find_rho --config=digits:noisy --workdir=runs/rho \
        --workers=2

Trains with each rho of the paper's grid, and without a perturbation (rho = 0).
Each of them has three runs with different seeds, and each run has a fifth of
the config's length; the flags change that. Prints and draws the validation
score against rho, and names the best rho and those that cannot be told apart
from it. The best rho of short runs may differ from that of long runs. If you
can afford it, give the full length by --config.num_epochs=N:
--config.FIELD=VALUE sets a field of all runs. The runs are a sweep: the same
command resumes a search that was interrupted.

Exit status: 0 if there is a recommendation, 1 if runs failed, 2 if the command
cannot be carried out, 128 + the number of a signal that ended it.
"""

from collections.abc import Sequence

import ml_collections

from sam_jax import _cli, _config_flag
from sam_jax.datasets import fake
from sam_jax.runs import files
from sam_jax.sweeps import (
  cells as cells_lib,
  check,
  execution,
  overrides,
  pool,
  rho_search,
)

flags = _cli.Flags()
_CONFIG = _config_flag.ConfigFlag(flags)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory of all runs.', required=True
)
_RHOS = flags.DEFINE_list(
  'rhos', ['0.01', '0.02', '0.05', '0.1', '0.2', '0.5'], 'Values of rho to try.'
)
_SEEDS = flags.DEFINE_integer(
  'seeds', 3, 'Number of runs with each value.', lower_bound=1
)
_SET = flags.DEFINE_multi_string(
  'set', [], 'FIELD=VALUE of the config, as --config.FIELD=VALUE.'
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


def main(argv: Sequence[str]) -> int:
  """Searches; returns the exit status."""
  _cli.refuse_arguments(argv[1:])
  directory = files.run_directory(_WORKDIR.value)
  config = _CONFIG.load()
  given = _given(config)
  cells = rho_search.cells(_CONFIG.path, _RHOS.value, _SEEDS.value, given)
  for line in _CONFIG.remarks(config):
    _cli.say('find_rho', line)
  place = pool.Pool(directory, workers=_WORKERS.value, gpus=_GPUS.value)
  try:
    status = execution.execute(
      cells, directory, place, retry=_RETRY.value, check=True
    )
  except check.Refused as error:
    for problem in error.problems:
      _cli.say('find_rho', problem)
    return 2
  if status:
    return status
  found, score = rho_search.read(cells, directory)
  picture = directory / 'rho.png'
  method = cells_lib.config(cells[0], directory).method.name
  rho_search.draw(found, score, method, _CONFIG.name, picture)
  print(f'\n{rho_search.table(found, score)}\n\n{picture}')
  print(rho_search.recommend(found))
  for line in fake.remarks([config.data.name]):
    print(line)
  return 0


def _given(config: ml_collections.ConfigDict) -> cells_lib.Fields:
  """Returns the fields that the flags set for all runs."""
  typed = {
    name: overrides.absolute(name, value)
    for name, value in _config_flag.values(config, _CONFIG.overrides).items()
  }
  given = overrides.parse_fields(_SET.value)
  for name in given:
    if name in typed:
      raise ValueError(
        f'{name} is given by --config.{name} and by --set={name}; leave one out'
      )
  return typed | given


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'find_rho', flags)


if __name__ == '__main__':
  cli()
