"""The cells of a sweep as commands for a shell, for Slurm, or for a TPU pod."""

import itertools
import os
import pathlib
import shlex
from collections.abc import Sequence

from sam_jax.sweeps import cells as cells_lib, results

FORMATS = ('shell', 'slurm', 'tpu')

_SLURM = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output={name}-%A_%a.log
# Add what your cluster wants: --partition, --gres=gpu:1, --time, ...
# The same script again resumes what is not finished.
cd {here}
cells=(
{cells}
)
eval "${{cells[$SLURM_ARRAY_TASK_ID]}}"
"""


def emit(
  cells: Sequence[cells_lib.Fields],
  directory: pathlib.Path,
  style: str,
  name: str,
) -> str:
  """Returns the commands of the cells that are not finished.

  Args:
    cells: of a sweep, checked.
    directory: of the sweep, absolute.
    style: one of `FORMATS`. 'shell' is one command a line; 'slurm' a script
      with a job array, in which cells that need each other are one job; 'tpu'
      one command a line for each worker of a pod.
    name: of the Slurm job.
  """
  chains = cells_lib.chains(
    cell
    for cell in cells
    if not results.is_finished(cells_lib.workdir(cell, directory))
  )
  if not chains:
    return '# all cells are finished\n'
  extra = ['--coordinator=auto'] if style == 'tpu' else []
  commands = [
    [
      shlex.join(['python', *cells_lib.command(cell, directory), *extra])
      for cell in chain
    ]
    for chain in chains
  ]
  here = shlex.quote(os.getcwd())
  if style == 'slurm':
    return _slurm(commands, here, name)
  lines = [f'cd {here}', *itertools.chain.from_iterable(commands)]
  return '\n'.join(lines) + '\n'


def _slurm(commands: Sequence[Sequence[str]], here: str, name: str) -> str:
  """Returns a script with a job for each chain of commands."""
  # The last command takes the place of the shell, and so gets Slurm's signals.
  jobs = [' && '.join([*chain[:-1], f'exec {chain[-1]}']) for chain in commands]
  return _SLURM.format(
    name=name,
    last=len(jobs) - 1,
    here=here,
    cells='\n'.join(f'  {shlex.quote(job)}' for job in jobs),
  )
