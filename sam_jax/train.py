r"""Trains a model.

    python -m sam_jax.train --config=cifar10 --workdir=runs/a \
        --config.method.rho=0.1

The config is the name of a shipped one (sam_jax/configs) or the path of a file;
--config.FIELD=VALUE sets a field of it. The same command resumes a run that was
interrupted.

Exit status: 0 done, 1 the training failed, 2 something is wrong with the
config, the data set or the run directory (nothing was written), 128 + the
number of the signal that stopped it.
"""

import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import jax

from sam_jax import _causes, _cli, _config_flag

if TYPE_CHECKING:
  import ml_collections

  from sam_jax.runs import preparation

flags = _cli.Flags()
_CONFIG = _config_flag.ConfigFlag(flags)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Run directory; made if it does not exist.',
  required=True,
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print what would run, and its cost; write nothing.'
)
_PROFILE = flags.DEFINE_integer(
  'profile',
  None,
  'Number of steps to trace for TensorBoard and Perfetto, after the first '
  'ones of this start; the trace is in WORKDIR/profile/.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'Where several processes that train together meet; each is started with this '
  "command on a host. HOST:PORT of the first one, or 'auto' on TPU pods and "
  'under Slurm, Open MPI and Kubernetes, where JAX finds it out.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Number of processes, unless --coordinator=auto.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Number of this process, from 0.'
)
_NO_PLUGINS = _cli.define_no_plugins(flags)
# Time in which the other processes can say what is wrong, once the first fails.
_FAREWELL_SECONDS = 5


def main(argv: Sequence[str]) -> int:
  """Does what the flags say; ends soon if one of several processes fails."""
  from sam_jax.runs import config_files

  try:
    with config_files.without_plugins(_NO_PLUGINS.value):
      return _train(argv)
  except (Exception, SystemExit, KeyboardInterrupt) as error:
    if not jax.distributed.is_initialized():
      raise
    _leave(_cli.report('train', error, flags))


def _train(argv: Sequence[str]) -> int:
  """Does what the flags say; returns the exit status."""
  from sam_jax.runs import dry_run, files, preparation, profiling

  _cli.refuse_arguments(argv[1:])
  # Now: a config file or a plug-in may go to another directory.
  workdir = files.run_directory(_WORKDIR.value)
  profiling.check(_PROFILE.value)
  config = _CONFIG.load()
  _configure_jax(config.deterministic)
  _join_processes()
  if _DRY_RUN.value:
    dry_run.run(config, workdir)
    _say_remarks(config)
    if _PROFILE.value is not None:
      _cli.say('train', 'a dry run makes no steps that --profile could trace')
    return 0
  with preparation.begin(config, workdir) as begun:
    _say_remarks(config)
    return _run(begun)


def _say_remarks(config: 'ml_collections.ConfigDict') -> None:
  """Says what the config file sets for another model or method, once.

  That is when nothing else is wrong: an error is one line.
  """
  if jax.process_index() == 0:
    for line in _CONFIG.remarks(config):
      _cli.say('train', line)


def _run(begun: 'preparation.Begun') -> int:
  """Trains; returns the exit status."""
  from sam_jax import datasets
  from sam_jax.runs import interrupts, loop

  try:
    loop.train(begun, profile_steps=_PROFILE.value)
  except interrupts.Interrupted as error:  # all processes have agreed on it
    _cli.say('train', error)
    return 128 + error.signum
  except loop.TrainingFailed as error:  # says what is kept
    raise _cli.Failed(str(error)) from error
  except (Exception, SystemExit, KeyboardInterrupt) as error:
    why = isinstance(error, datasets.UndecodableError) and str(error)
    raise _cli.Failed(
      f'{why or _causes.line(error)}; {_what_is_kept(begun.workdir)}'
    ) from error
  return 0


def _what_is_kept(workdir: pathlib.Path) -> str:
  """Returns from where the same command resumes a run that has failed.

  Args:
    workdir: of the run, which has begun.
  """
  from sam_jax.runs import checkpoints

  try:
    os.stat(workdir / 'config.json')
    steps = checkpoints.found(workdir / 'checkpoints')
  except FileNotFoundError:
    return f'the run directory {workdir} was removed while the run was going'
  except OSError:  # the first cause counts
    return 'its checkpoints cannot be looked at'
  if not steps:
    return 'no checkpoint was saved'
  return f'the same command resumes from the checkpoint of step {max(steps)}'


def _configure_jax(deterministic: bool) -> None:
  """Sets what has to be set before JAX starts its backend."""
  if deterministic:
    flag = '--xla_gpu_deterministic_ops=true'
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'
  _cli.cache_compilations()


def _join_processes() -> None:
  """Makes this process one of several, if the flags say so."""
  where, count, index = (
    flag.value for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)
  )
  if where == 'auto':
    jax.distributed.initialize()
  elif where is not None and None not in (count, index):
    jax.distributed.initialize(where, count, index)
  elif (where, count, index) != (None,) * 3:
    raise ValueError(
      '--coordinator=HOST:PORT, --num_processes and --process_id belong '
      'together; or give --coordinator=auto alone'
    )


def _leave(status: int) -> NoReturn:
  """Ends this process, and soon those that train with it.

  The others may be waiting for this one within a step. An ordinary exit would
  wait for them for five minutes and then abort all. So this process ends at
  once: the connections break, and JAX ends a process that does not notice
  after 100 seconds without a sign of life.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  if jax.process_index() == 0:
    # The others meet here, and are aborted wherever they are when it is gone.
    time.sleep(_FAREWELL_SECONDS)
  os._exit(status)


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'train', flags)


if __name__ == '__main__':
  cli()
