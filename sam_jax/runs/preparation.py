"""What precedes the first step: whose run it is, its objects, its first state.

`prepare` reads, and `begin` then takes the directory and writes to it. All that
can be wrong with a config, a data set or a run directory is found before
anything is written.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import ml_collections

from sam_jax.runs import (
  bootstrap,
  build,
  checkpoints as checkpoints_lib,
  config_files,
  files,
  initialization,
  lock,
  workdir as workdir_lib,
)
from sam_jax.training import parallel, train_step


class Prepared(NamedTuple):
  """A run as it would be made.

  Attributes:
    config: resolved.
    experiment: its objects.
    workdir: run directory, absolute; None if there is none.
  """

  config: ml_collections.ConfigDict
  experiment: build.Experiment
  workdir: pathlib.Path | None


class Begun(NamedTuple):
  """A run that can be started or resumed.

  Attributes:
    config: resolved.
    experiment: its objects.
    workdir: run directory, absolute; holds config.json.
    state: before step 0, or only its shapes if there is a checkpoint.
    result: what result.json holds if all steps are made, else None.
  """

  config: ml_collections.ConfigDict
  experiment: build.Experiment
  workdir: pathlib.Path
  state: train_step.TrainState
  result: dict[str, Any] | None


def prepare(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path | None = None
) -> Prepared:
  """Builds the objects of a run; writes nothing.

  Args:
    config: see configs/default.py.
    workdir: run directory; if it holds a run, the config has to be that of the
      run. None is for what looks at a config alone.

  Raises:
    ValueError: a value of the config is not allowed, or the directory holds
      another run.
    FileNotFoundError: the data set is not there.
  """
  config = _with_absolute_paths(config)  # a plug-in may go elsewhere
  config_files.load_plugins(config)
  if workdir is None:
    config = build.resolve(config, jax.device_count())
    return Prepared(config, build.build(config), None)
  directory = files.run_directory(workdir)
  config = _resolve(config, directory)
  return Prepared(config, build.build(config), directory)


@contextlib.contextmanager
def begin(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> Iterator[Begun]:
  """Takes a run directory, and makes all that precedes the first step.

  The directory is this process's until the context is left. Of several
  processes that train together, the first one takes it for all of them.

  Args:
    config: see configs/default.py.
    workdir: run directory, made if it does not exist.

  Raises:
    ValueError: the directory is in use, holds another run or cannot be written
      to, a value of the config is not allowed, or `config.labels_from` has
      other data.
    FileNotFoundError: the data set, or `config.init_from`, is not there.
  """
  directory = files.run_directory(workdir)
  with _hold(directory):
    prepared = prepare(config, directory)
    yield _begin(prepared.config, prepared.experiment, directory)


@contextlib.contextmanager
def _hold(workdir: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a run; all processes learn if the first is refused."""
  refusal = None
  with contextlib.ExitStack() as stack:
    if parallel.is_first_process():
      try:
        stack.enter_context(lock.hold(workdir))
      except ValueError as error:
        refusal = error
    if jax.process_count() > 1 and parallel.any_process(refusal is not None):
      refusal = refusal or ValueError(
        f'the first process cannot have the run directory {workdir}; it says '
        'why'
      )
    if refusal is not None:
      raise refusal
    yield


def _begin(
  config: ml_collections.ConfigDict,
  experiment: build.Experiment,
  workdir: pathlib.Path,
) -> Begun:
  """Returns a run with its first state, after writing what it starts with."""
  result = _finished_result(workdir, experiment)
  if result is not None:
    shapes = experiment.state_shapes()
    return Begun(config, experiment, workdir, shapes, result)
  dataset = bootstrap.relabel(experiment.dataset, config, workdir)
  experiment = dataclasses.replace(experiment, dataset=dataset)
  if has_checkpoint(workdir):
    state = experiment.state_shapes()
  else:
    state = initialization.initial_state(
      experiment, seed=config.seed, init_from=config.init_from
    )
  if parallel.is_first_process():
    workdir_lib.write_config(workdir, config)
    if config.labels_from:
      bootstrap.write(dataset.train.labels, workdir)
  return Begun(config, experiment, workdir, state, None)


def has_checkpoint(workdir: pathlib.Path) -> bool:
  """Returns whether there is a checkpoint to resume from."""
  saved = checkpoints_lib.Checkpoints(workdir / 'checkpoints', read_only=True)
  with contextlib.closing(saved):
    return saved.latest_step() is not None


def _finished_result(
  workdir: pathlib.Path, experiment: build.Experiment
) -> dict[str, Any] | None:
  """Returns the result of a run that has made all its steps, else None.

  Raises:
    ValueError: it is to be made longer and cannot be: its last epoch was
      logged as the part that it was.
  """
  path = workdir / 'result.json'
  if not path.exists():
    return None
  result = json.loads(path.read_text('utf-8'))
  if result['steps'] >= experiment.num_steps:
    return result
  if result['steps'] % experiment.steps_per_epoch:
    raise ValueError(
      f'the run in {workdir} ended within an epoch, at step '
      f'{result["steps"]}; it cannot be made longer, use another workdir'
    )
  return None


def _with_absolute_paths(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns a copy that means the same from any directory."""
  config = config.copy_and_resolve_references()
  for name in workdir_lib.SOURCES:
    if config[name]:
      config[name] = str(files.user_path(config[name]))
  if config.data.get('directory') is not None:
    config.data.directory = str(files.user_path(config.data.directory))
  return config


def _resolve(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> ml_collections.ConfigDict:
  """Returns the config of the run: that in the directory, or a resolved one.

  A run that failed before its first step leaves a directory that is free.

  Raises:
    ValueError: the directory holds another run, or the batch does not fit.
  """
  saved = workdir_lib.read_config(workdir)
  if saved is not None and workdir_lib.has_begun(workdir):
    return workdir_lib.adopt(config, saved)
  resolved = build.resolve(config, jax.device_count())
  if config.m is None or config.microbatch_size is None:
    print(
      f'warning: m = {resolved.m} and microbatch_size = '
      f'{resolved.microbatch_size} come from the number of devices, '
      f'{jax.device_count()}; they are part of the run from now on. Set them, '
      'and the run depends on the config alone.',
      file=sys.stderr,
    )
  return resolved
