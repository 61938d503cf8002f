"""What precedes the first step: whose run it is, its objects, its first state.

`prepare` reads, and `begin` then takes the directory and writes to it. All that
can be wrong with a config, a data set or a run directory is found before
anything is written.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from sam_jax import datasets, extras
from sam_jax.runs import (
  ambient,
  bootstrap,
  build,
  config_files,
  fields,
  files,
  identity,
  initialization,
  lock,
  recovery,
  shared as shared_lib,
  shipped,
  workdir as workdir_lib,
  writers,
)
from sam_jax.training import parallel, train_step

# What a run imports late, for its first checkpoint.
_LATE = ('orbax.checkpoint', 'xxhash')


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
    step: of the checkpoint to resume from; None if there is none.
    result: what result.json holds if all steps are made, else None.
  """

  config: ml_collections.ConfigDict
  experiment: build.Experiment
  workdir: pathlib.Path
  state: train_step.TrainState
  step: int | None
  result: dict[str, Any] | None


@ambient.pinned()
def prepare(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path | None = None,
  shared: shared_lib.Shared | None = None,
) -> Prepared:
  """Builds the objects of a run; writes nothing.

  Args:
    config: see configs/default.py.
    workdir: run directory; if it holds a run, the config has to be that of the
      run. None is for what looks at a config alone.
    shared: see `build.build`.

  Raises:
    ValueError: a value of the config is not allowed, or the directory holds
      another run, or one on other data.
    FileNotFoundError: the data set is not there.
  """
  fields.check(config)
  config = _with_absolute_paths(config)  # a plug-in may go elsewhere
  config_files.load_plugins(config)
  writers.check(writers.named(config))
  if workdir is None:
    config = build.resolve(config, jax.device_count())
    return Prepared(config, build.build(config, shared), None)
  directory = files.run_directory(workdir)
  config = _resolve(config, directory)
  experiment = _identified(
    build.build(config, shared), directory, config.data.split
  )
  return Prepared(config, experiment, directory)


def _identified(
  experiment: build.Experiment, workdir: pathlib.Path, split: str
) -> build.Experiment:
  """Returns a run that knows its data, if they are those of the directory."""
  dataset = experiment.dataset
  identity.check_classes(dataset)
  info = identity.describe(dataset)
  identity.check_processes(info)
  identity.check_resumed(info, workdir, split, experiment.task.examples)
  if isinstance(dataset, datasets.Dataset):
    # It may hold copies of all examples.
    dataset = dataclasses.replace(dataset, source=None)
  return dataclasses.replace(experiment, dataset=dataset, info=info)


@contextlib.contextmanager
def begin(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> Iterator[Begun]:
  """Takes a run directory, and makes all that precedes the first step.

  The directory is this process's until the context is left, and JAX's settings
  are those of the run. Of several processes that train together, the first one
  takes it for all of them.

  Args:
    config: see configs/default.py.
    workdir: run directory, made if it does not exist.

  Raises:
    ValueError: the directory is in use, holds another run or cannot be written
      to, a value of the config is not allowed, or `config.labels_from` has
      other data.
    FileNotFoundError: the data set, or `config.init_from`, is not there.
    ModuleNotFoundError: a library is not installed; says how to install it.
  """
  extras.check(*_LATE)
  directory = files.run_directory(workdir)
  with _hold(directory), ambient.pinned():
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
  found = recovery.inspect(workdir, experiment.num_steps)
  _check_agreement(found, workdir)
  _check_end(found, experiment, workdir)
  if found.result is not None and found.step is None:
    _check_unchanged(config, workdir)
    shapes = experiment.state_shapes()
    return Begun(config, experiment, workdir, shapes, None, found.result)
  info = experiment.info or {}
  dataset = bootstrap.relabel(experiment.dataset, config, workdir, info)
  experiment = dataclasses.replace(experiment, dataset=dataset)
  if found.step is not None:
    state = experiment.state_shapes()
  else:
    state = initialization.initial_state(
      experiment, seed=config.seed, init_from=config.init_from
    )
  parallel.wait_for_all()  # all have seen what is there
  if parallel.is_first_process():
    recovery.repair(workdir, found)
    workdir_lib.write_config(workdir, config)
    if config.labels_from:
      bootstrap.write(dataset.train.labels, workdir)
  parallel.wait_for_all()  # the others read what the first has written
  return Begun(config, experiment, workdir, state, found.step, None)


def _check_agreement(found: recovery.Found, workdir: pathlib.Path) -> None:
  """Refuses processes that would resume a run from different steps.

  Raises:
    ValueError: in all processes, if one has found other files than the first.
  """
  step = -1 if found.step is None else found.step
  mine = np.array([step, found.result is not None])
  if which := parallel.which_differs(mine):
    raise ValueError(
      f'{which} process does not find the same checkpoints in {workdir} as the '
      'first one; start again when all see the same files of the shared disk'
    )


def _check_unchanged(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
  """Refuses a finished run that would have been made with other settings."""
  saved = workdir_lib.read_config(workdir)
  if saved is None:
    return
  made, asked = map(workdir_lib.settings, (saved, config))
  if differing := [name for name in made if made[name] != asked[name]]:
    raise ValueError(
      f'the run in {workdir} is finished, and {", ".join(differing)} cannot '
      'change any more; use another workdir'
    )


def has_checkpoint(workdir: pathlib.Path) -> bool:
  """Returns whether there is a checkpoint to resume from.

  Raises:
    ValueError: there are checkpoints, and none of them can be used.
  """
  if not (workdir / 'config.json').exists():
    return False
  return recovery.newest_usable(workdir)[0] is not None


def _check_end(
  found: recovery.Found, experiment: build.Experiment, workdir: pathlib.Path
) -> None:
  """Refuses to make a run longer whose last epoch was logged as a part.

  Raises:
    ValueError: the run ended within an epoch.
  """
  if found.result is None or found.step is None:
    return
  steps = found.result['steps']
  if found.step == steps and steps % experiment.steps_per_epoch:
    raise ValueError(
      f'the run in {workdir} ended within an epoch, at step {steps}; it cannot '
      'be made longer, use another workdir'
    )


def _with_absolute_paths(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns a copy that means the same from any directory."""
  config = config.copy_and_resolve_references()
  for name in workdir_lib.SOURCES:
    if config[name]:
      config[name] = str(shipped.find(config[name]))
  for name in ('directory', 'tokenizer'):
    if config.data.get(name) is not None:
      config.data[name] = str(files.user_path(config.data[name]))
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
  if workdir_lib.has_begun(workdir):
    if saved is None:
      raise ValueError(
        f'{workdir / "config.json"} is missing, and {workdir} holds a run; put '
        'it back from a copy, or use another workdir'
      )
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
