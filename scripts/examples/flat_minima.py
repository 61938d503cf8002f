"""Are SAM's minima flatter? Trains SGD and SAM on digits, measures, draws.

    python scripts/examples/flat_minima.py
    python scripts/examples/flat_minima.py --seeds=3 --variant=clean

Every run and every measurement is the command that a user would type, and is
kept: the same command again goes on where it stopped. Prints a table, mean and
standard deviation over the seeds, and writes the spectra of the Hessian, the
landscapes and the m-sharpness of all runs as pictures. Takes two to three
minutes on two CPU cores.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from absl import app, flags

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

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_METHODS = ('sgd', 'sam')
_M = 25  # of both, that of the config
_COMMANDS = {
  'hessian': ('--trace_probes=50', '--probes=1', '--lanczos_steps=60'),
  'sharpness': (f'--m={_M}', '--rho=0.05', '--samples=1', '--ascent_steps=5'),
  'landscape': ('--points=15',),
}


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    _exit(f'unknown arguments: {" ".join(argv[1:])}')
  try:
    _train_all()
    for command, options in _COMMANDS.items():
      _analyze(command, options)
  except RuntimeError as error:
    _exit(str(error), status=1)
  print(_table())
  print(f'Pictures: {_directory()}/*.png')


def _exit(message: str, status: int = 2) -> None:
  """Ends the program with a message."""
  print(f'flat_minima: {message}', file=sys.stderr)
  sys.exit(status)


def _directory() -> pathlib.Path:
  """Returns where all of it goes."""
  return pathlib.Path(_DIRECTORY.value).absolute() / _VARIANT.value


def _workdirs(method: str) -> list[pathlib.Path]:
  """Returns the run directories of a method."""
  return [_directory() / f'{method}-{seed}' for seed in range(_SEEDS.value)]


def _train_all() -> None:
  """Trains every run, two at a time."""
  commands = [
    [
      *(sys.executable, '-m', 'sam_jax.train'),
      f'--config=configs/digits.py:{_VARIANT.value}',
      f'--config.method.name={method}',
      f'--config.seed={seed}',
      '--config.log.tensorboard=False',
      f'--workdir={workdir}',
    ]
    for method in _METHODS
    for seed, workdir in enumerate(_workdirs(method))
  ]
  print(f'{len(commands)} runs in {_directory()}', flush=True)
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    list(pool.map(_call, commands))


def _analyze(command: str, options: Sequence[str]) -> None:
  """Measures all runs by one command; the picture is theirs together."""
  workdirs = [w for method in _METHODS for w in _workdirs(method)]
  arguments = [
    *(sys.executable, 'scripts/analyze.py', command),
    *options,
    *(f'--workdir={workdir}' for workdir in workdirs),
    f'--output={_directory()}/{command}.png',
  ]
  print(f'{command} ...', flush=True)
  _call(arguments)


def _call(arguments: Sequence[str]) -> None:
  """Runs a command; raises RuntimeError with its output if it fails."""
  done = subprocess.run(
    arguments,
    cwd=_ROOT,
    # The network is small, and B = m = b asks for one device.
    env={'JAX_PLATFORMS': 'cpu', **os.environ},
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(f'{" ".join(arguments)}\n{done.stdout}{done.stderr}')


def _result(workdir: pathlib.Path, command: str) -> dict:
  """Returns the newest result of a run."""
  files = (workdir / 'analysis').glob(f'{command}-*.json')
  newest = max(files, key=lambda path: path.stat().st_mtime)
  return json.loads(newest.read_text('utf-8'))['result']


def _numbers(workdir: pathlib.Path) -> dict[str, float]:
  """Returns a run's columns of the table."""
  hessian = _result(workdir, 'hessian')
  values = hessian['eigenvalues']
  measures = _result(workdir, 'sharpness')['measures']
  final = json.loads((workdir / 'result.json').read_text('utf-8'))
  return {
    'lambda_max': values[0],
    'lambda_max/lambda_5': values[0] / values[4],
    'trace': hessian['trace'],
    f'{_M}-sharpness': measures['one_ascent_step']['mean'],
    'ascent': measures['projected_ascent']['mean'],
    'random': measures['random_directions']['mean'],
    'test error, %': 100 * final['final_error_rate'],
  }


def _table() -> str:
  """Returns the comparison as a table of Markdown."""
  rows = []
  for method in _METHODS:
    found = [_numbers(workdir) for workdir in _workdirs(method)]
    columns = {name: [f[name] for f in found] for name in found[0]}
    cells = [_cell(values) for values in columns.values()]
    rows.append([method.upper(), *cells])
  header = ['', *columns]
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _cell(values: Sequence[float]) -> str:
  """Returns mean and standard deviation."""
  mean = f'{np.mean(values):.3g}'
  return mean if len(values) < 2 else f'{mean} ± {np.std(values, ddof=1):.2g}'


if __name__ == '__main__':
  app.run(main)
