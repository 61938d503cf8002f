"""Finds rho for a config: a grid of short runs on the validation split.

    python scripts/find_rho.py --config=configs/digits.py:noisy \
        --workdir=runs/rho --workers=2

Trains with each rho of the paper's grid and without a perturbation, for a fifth
of the config's length and with three seeds, unless told otherwise; prints and
draws the validation error against rho, and names the best one with those that
cannot be told apart from it. The runs are a sweep: the same command goes on
with one that was interrupted. A short run may like another rho than a long one:
give a length by --set=num_epochs=N if you can afford it.

Exit status: 0 if there is a recommendation, 1 if runs failed, 2 if the command
cannot be carried out, 128 + the number of a signal that ended it.
"""

import math
import pathlib
import sys
from collections.abc import Sequence

import matplotlib
from absl import app, flags, logging

# The checkout goes first, installed or not.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from sam_jax.sweeps import cells as cells_lib, pool as pool_lib, statistics

_CONFIG = flags.DEFINE_string(
  'config', None, 'Config file, perhaps with :ARGUMENT.', required=True
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory of all runs.', required=True
)
_RHOS = flags.DEFINE_list(
  'rhos', ['0.01', '0.02', '0.05', '0.1', '0.2', '0.5'], 'Values to try.'
)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Runs of each.', lower_bound=1)
_SET = flags.DEFINE_multi_string(
  'set', [], 'FIELD=VALUE of the config, for all runs: data.directory=DIR.'
)
_WORKERS = flags.DEFINE_integer('workers', 1, 'Runs at a time.', lower_bound=1)
_GPUS = flags.DEFINE_list(
  'gpus', [], 'Numbers of GPUs that the workers take turns with, one each.'
)
_RETRY = flags.DEFINE_bool('retry', False, 'Try failed runs again.')

_RHO = 'method.rho'
# Fields that are not to be set, and what is to be done instead.
_OURS = {
  _RHO: 'give --rhos',
  'seed': 'give --seeds',
  'data.split': 'it is always validation',
}
_SHARE = 5  # of the length of a whole run


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    _exit(f'unknown arguments: {" ".join(argv[1:])}')
  if not logging.get_verbosity():  # the libraries' chatter, unless asked for
    logging.set_verbosity(logging.WARNING)
  directory = pathlib.Path(_WORKDIR.value).absolute()
  try:
    cells = _cells(directory)
  except (ValueError, OSError) as error:
    _exit(str(error))
  runner = pool_lib.Runner(
    cells,
    directory,
    workers=_WORKERS.value,
    gpus=_GPUS.value,
    retry=_RETRY.value,
    root=_ROOT,
  )
  status = runner.run()
  if status:
    sys.exit(status)
  found = _read(cells, directory)
  _print(found)
  _draw(found, directory / 'rho.png')
  print(statistics.recommend(found))


def _exit(message: str) -> None:
  """Ends the program with one line."""
  print(f'find_rho: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)


def _cells(directory: pathlib.Path) -> list[cells_lib.Fields]:
  """Returns the runs to make."""
  rhos = sorted({_number(text) for text in _RHOS.value} | {0.0})
  if len(rhos) < 2:
    raise ValueError(f'--rhos is {",".join(_RHOS.value)}; give values above 0')
  base = {cells_lib.CONFIG: _config_file(), 'method.name': 'sam'}
  given = dict(map(cells_lib.parse_field, _SET.value))
  for name, other in _OURS.items():
    if name in given:
      raise ValueError(f'--set={name} is what is searched by; {other}')
  base |= given
  base |= _length(base, directory)
  cells = cells_lib.product(
    [base | {'data.split': 'validation'}],
    {_RHO: rhos, 'seed': range(_SEEDS.value)},
  )
  cells_lib.check(cells_lib.Sweep(cells))
  return cells


def _config_file() -> str:
  """Returns the config file, one from here or, if it is none, the checkout."""
  path, colon, argument = _CONFIG.value.partition(':')
  here = pathlib.Path(path).absolute()
  return f'{here}{colon}{argument}' if here.exists() else _CONFIG.value


def _length(
  base: cells_lib.Fields, directory: pathlib.Path
) -> cells_lib.Fields:
  """Returns the length of each run, unless it is given."""
  config = cells_lib.config(base, directory, _ROOT)
  if 'num_steps' not in base and None not in (
    base.get('num_epochs'),
    config.num_steps,
  ):
    raise ValueError(
      f'the config has num_steps = {config.num_steps}, which --set=num_epochs '
      'does not change; give --set=num_steps'
    )
  if not base.keys().isdisjoint(('num_epochs', 'num_steps')):
    return {}
  name = 'num_epochs' if config.num_steps is None else 'num_steps'
  return {name: max(1, config[name] // _SHARE)}


def _number(text: str) -> float:
  """Returns a value of rho."""
  try:
    rho = float(text)
  except ValueError as error:
    raise ValueError(f'--rhos has {text!r}, which is no number') from error
  if not 0 <= rho < math.inf:
    raise ValueError(f'--rhos has {text}; rho is a radius: give numbers >= 0')
  return rho


def _read(
  cells: Sequence[cells_lib.Fields], directory: pathlib.Path
) -> dict[float, list[float]]:
  """Returns the validation errors by rho, in the order of the seeds."""
  found: dict[float, list[float]] = {}
  for cell in cells:
    result = cells_lib.result(directory / cells_lib.cell_name(cell))
    found.setdefault(cell[_RHO], []).append(result['final_error_rate'])
  return found


def _print(found: dict[float, list[float]]) -> None:
  """Prints the errors."""
  print(f'\n{"rho":>6}{"validation error, %":>22}{"n":>4}')
  for rho, errors in found.items():
    estimate = statistics.estimate(errors)
    half = estimate.half_width
    bounds = '' if math.isnan(half) else f' ± {100 * half:.2f}'
    shown = f'{100 * estimate.mean:.2f}{bounds}'
    print(f'{rho:>6g}{shown:>22}{estimate.n:>4}')
  print()


def _draw(found: dict[float, list[float]], path: pathlib.Path) -> None:
  """Draws the errors against rho; that without a perturbation is a line."""
  matplotlib.use('agg')
  from matplotlib import pyplot as plt

  rhos = [rho for rho in found if rho > 0]
  estimates = [statistics.estimate(found[rho]) for rho in rhos]
  figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
  axes.errorbar(
    rhos,
    [100 * e.mean for e in estimates],
    [0 if math.isnan(e.half_width) else 100 * e.half_width for e in estimates],
    marker='o',
    capsize=3,
    label=f'SAM, mean of {_SEEDS.value} and 95 % confidence interval',
  )
  plain = statistics.estimate(found[0.0])
  axes.axhline(100 * plain.mean, color='gray', label='SGD (rho = 0)')
  best = statistics.best_rho(found)
  if best > 0:
    axes.axvline(best, color='C2', linestyle=':', label=f'best: {best:g}')
  axes.set_xscale('log')
  axes.set_xticks(rhos, [f'{rho:g}' for rho in rhos])
  axes.set_xticks([], minor=True)
  axes.set_ylim(bottom=0)
  axes.set_xlabel('rho')
  axes.set_ylabel('validation error, %')
  axes.set_title(_CONFIG.value)
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  figure.savefig(path, dpi=120)
  plt.close(figure)
  print(path)


if __name__ == '__main__':
  app.run(main)
