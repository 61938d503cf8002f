"""Are SAM's minima flatter? Trains SGD and SAM on digits, measures, draws.

    python scripts/examples/flat_minima.py
    python scripts/examples/flat_minima.py --seeds=3 --variant=clean

Every run and every measurement is the command that a user would type, and is
kept: the same command again resumes where it stopped. Prints a table, mean and
standard deviation over the seeds, and writes the spectra of the Hessian, the
landscapes and the m-sharpness of all runs as pictures. Takes two to three
minutes on two CPU cores.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

# The checkout goes first, installed or not.
_ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(_ROOT))

from sam_jax import _cli, configs
from sam_jax.runs import files
from sam_jax.sweeps import (
  cells as cells_lib,
  execution,
  pool,
  results,
  run_files,
  statistics,
)

flags = _cli.Flags()
_DIRECTORY = flags.DEFINE_string(
  'directory', 'runs/flat_minima', 'Where runs and pictures go.'
)
_SEEDS = flags.DEFINE_integer('seeds', 1, 'Runs per method.', lower_bound=1)
_VARIANT = flags.DEFINE_enum(
  'variant',
  'noisy',
  ['noisy', 'clean'],
  'Digits with 40 % wrong training labels (rho = 0.7), or as they are '
  '(rho = 0.05).',
)

_METHODS = {
  'SGD': {'method.name': 'sgd', 'method.rho': None},
  'SAM': {'method.name': 'sam'},
}
_M = 25  # of both methods, that of the config
_ANALYSES = {
  'hessian': ('--trace_probes=50', '--probes=1', '--lanczos_steps=60'),
  'sharpness': (f'--m={_M}', '--rho=0.05', '--samples=1', '--ascent_steps=5'),
  'landscape': ('--points=15',),
}


def main(argv: Sequence[str]) -> int:
  _cli.refuse_arguments(argv[1:])
  # The network is small, and B = m = b asks for one device.
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  directory = files.user_path(_DIRECTORY.value)
  directory /= _VARIANT.value
  cells = {name: _cells(fields) for name, fields in _METHODS.items()}
  listed = [cell for same in cells.values() for cell in same]
  place = pool.Pool(directory, workers=2)
  status = execution.execute(listed, directory, place, retry=True)
  if status:
    return status
  workdirs = {
    name: [cells_lib.workdir(cell, directory) for cell in same]
    for name, same in cells.items()
  }
  for name, options in _ANALYSES.items():
    if _analyze(name, options, directory, workdirs):
      return 1
  print(_table(workdirs))
  print(f'Pictures: {directory}/*.png')
  return 0


def _cells(fields: cells_lib.Fields) -> list[cells_lib.Fields]:
  """Returns the runs of a method, one for each seed."""
  config = configs.find(f'digits:{_VARIANT.value}')
  base = {cells_lib.CONFIG: config, 'log.tensorboard': False}
  return cells_lib.product([base | fields], {'seed': range(_SEEDS.value)})


def _analyze(
  name: str,
  options: Sequence[str],
  directory: pathlib.Path,
  workdirs: Mapping[str, Sequence[pathlib.Path]],
) -> int:
  """Measures all runs by one command, which draws them in one picture."""
  print(f'{name} ...', flush=True)
  runs = [workdir for same in workdirs.values() for workdir in same]
  command = [
    *(sys.executable, str(_ROOT / 'scripts' / 'analyze.py'), name, *options),
    *(f'--workdir={workdir}' for workdir in runs),
    f'--output={directory}/{name}.png',
  ]
  return subprocess.run(command, stdout=subprocess.DEVNULL).returncode


def _result(workdir: pathlib.Path, name: str) -> dict:
  """Returns the newest result of an analysis of a run."""
  found = (workdir / 'analysis').glob(f'{name}-*.json')
  newest = max(found, key=lambda path: path.stat().st_mtime)
  return json.loads(newest.read_text('utf-8'))['result']


def _numbers(workdir: pathlib.Path) -> dict[str, float]:
  """Returns a run's columns of the table."""
  result = run_files.read_result(workdir)
  run = results.FinishedRun(workdir, {}, result)
  hessian = _result(workdir, 'hessian')
  values = hessian['eigenvalues']
  measures = _result(workdir, 'sharpness')['measures']
  return {
    'lambda_max': values[0],
    'lambda_max/lambda_5': values[0] / values[4],
    'trace': hessian['trace'],
    f'{_M}-sharpness': measures['one_ascent_step']['mean'],
    'ascent': measures['projected_ascent']['mean'],
    'random': measures['random_directions']['mean'],
    f'{run.split} {run.score.heading()}': (
      run.score.scale * result[results.FINAL]
    ),
  }


def _table(workdirs: Mapping[str, Sequence[pathlib.Path]]) -> str:
  """Returns the comparison as a table of Markdown."""
  rows = []
  for method, same in workdirs.items():
    found = [_numbers(workdir) for workdir in same]
    rows.append([method, *(_mean([f[n] for f in found]) for n in found[0])])
  header = ['', *found[0]]
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _mean(values: Sequence[float]) -> str:
  """Returns mean and standard deviation."""
  found = statistics.estimate(values)
  mean = f'{found.mean:.3g}'
  return mean if found.n < 2 else f'{mean} ± {found.deviation:.2g}'


if __name__ == '__main__':
  _cli.run(main, 'flat_minima', flags)
