r"""Trains a model: the command line.

    python -m sam_jax.train --config=configs/digits.py --workdir=runs/a \
        --config.method.rho=0.1

The same command resumes a run that was interrupted. Exit status: 0 done,
1 the training failed, 2 something is wrong with the config, data set or
workdir (nothing was written), 128 + the signal if one stopped it.
"""

import contextlib
import os
import pathlib
import re
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, see configs/default.py.', lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory; made if it does not exist.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print what would run, and its cost; write nothing.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'Where several processes meet that train together, each started with this '
  "command on a host: HOST:PORT of the first one; or 'auto' on TPU pods and "
  'under Slurm, Open MPI and Kubernetes, where JAX finds out.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes, unless --coordinator=auto.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this is, from 0.'
)
# What the first of several processes leaves the others to say what is wrong.
_FAREWELL_SECONDS = 5


def main(argv: Sequence[str]) -> None:
  """Runs what the flags say; ends soon if one of several processes fails."""
  try:
    _run(argv)
  except Exception:
    if not jax.distributed.is_initialized():
      raise
    traceback.print_exc()
    _leave(1)


def _run(argv: Sequence[str]) -> None:
  """Runs what the flags say."""
  if len(argv) > 1:
    _exit(2, f'unknown arguments: {" ".join(argv[1:])}')
  from sam_jax import datasets
  from sam_jax.runs import interrupts, loop, preparation

  if not flags.FLAGS['verbosity'].present:  # the libraries' chatter
    logging.set_verbosity(logging.WARNING)
  config = _CONFIG.value
  _configure_jax(config.deterministic)
  _join_processes()
  if _DRY_RUN.value:
    return _make_dry_run(config)
  with contextlib.ExitStack() as stack:
    try:
      begun = stack.enter_context(preparation.begin(config, _WORKDIR.value))
    except (ValueError, OSError) as error:
      _exit(2, error)
    except KeyboardInterrupt:
      _exit(128 + signal.SIGINT, 'stopped before the first step')
    # From here on a ValueError is a fault of the program, and shows where.
    try:
      loop.train(begun)
    except (loop.TrainingFailed, datasets.UndecodableError) as error:
      _exit(1, error)
    except interrupts.Interrupted as error:  # all processes have agreed on it
      _print(error)
      sys.exit(128 + error.signum)
  return None


def _make_dry_run(config: ml_collections.ConfigDict) -> None:
  """Prints what a run would be."""
  from sam_jax.runs import dry_run

  try:
    dry_run.run(config, _WORKDIR.value)
  except (ValueError, OSError) as error:
    _exit(2, error)


def _configure_jax(deterministic: bool) -> None:
  """Sets what has to be set before JAX starts its backend."""
  if deterministic:
    flag = '--xla_gpu_deterministic_ops=true'
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = pathlib.Path.home() / '.cache' / 'sam_jax'
    jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)


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
    _exit(
      2,
      '--coordinator=HOST:PORT, --num_processes and --process_id belong '
      'together; or give --coordinator=auto alone',
    )


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line; what is wrong with it is one line."""
  try:
    rest = flags.FLAGS(argv)
    if _CONFIG.value is not None:
      _CONFIG.value.lock()  # a file that is missing is reported here at last
    return rest
  except Exception as error:  # the config file is a program of the user's
    _exit(2, _describe(error))


def _describe(error: Exception) -> str:
  """Returns what is wrong with a config file, or with a field of it."""
  # The error of a file comes wrapped in its traceback.
  error = _first(error) if 'parsing config file' in str(error) else error
  # ml_collections' words for a field, or a section, that does not exist.
  words = ' '.join(str(error).replace('\\n', ' ').split())
  field = re.fullmatch(
    r'(\w+)(?:\W+Did you mean \W*(\w+).*)?', words.strip('\'"\\')
  )
  if field and isinstance(error, AttributeError | KeyError):
    name, close = field.groups()
    hint = f'did you mean {close!r}? ' if close else ''
    return (
      f'the config has no field {name!r}; {hint}configs/default.py lists them'
    )
  if isinstance(error, flags.Error | ValueError | OSError):
    return str(error)
  return f'{type(error).__name__} in the config: {words}'


def _first(error: BaseException) -> BaseException:
  """Returns the error in the handling of which the others were raised."""
  return error if error.__context__ is None else _first(error.__context__)


def _exit(status: int, error: Exception | str) -> NoReturn:
  """Ends the process with one line that says why."""
  _print(error)
  _leave(status)


def _print(error: Exception | str) -> None:
  """Says in one line what happened."""
  print(f'sam_jax: {" ".join(str(error).split())}', file=sys.stderr)


def _leave(status: int) -> NoReturn:
  """Ends the process, and soon those that train with it.

  The others may wait for this one within a step. At an ordinary exit it would
  wait for them, for five minutes, after which all are aborted. So it is gone at
  once: connections break, and JAX ends whom that does not reach after 100
  seconds without a sign of life.
  """
  if not jax.distributed.is_initialized():
    sys.exit(status)
  sys.stdout.flush()
  sys.stderr.flush()
  if jax.process_index() == 0:
    # The others meet here, and are aborted where they are when it is gone.
    time.sleep(_FAREWELL_SECONDS)
  os._exit(status)


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=parse_flags)
