"""What precedes the first step: whose run it is, its objects, its first state.

All that can be wrong with a config, a data set or a run directory is found
here, before anything is written.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import ml_collections

from sam_jax.runs import (
  bootstrap,
  checkpoints as checkpoints_lib,
  experiment as experiment_lib,
  pretrained,
  workdir as workdir_lib,
)
from sam_jax.training import parallel, train_step


class Prepared(NamedTuple):
  """A run that can start, or go on.

  Attributes:
    config: resolved.
    experiment: its objects.
    workdir: run directory, absolute; holds config.json.
    state: before step 0, or only its shapes if there is a checkpoint.
    result: what result.json holds if all steps are made, else None.
  """

  config: ml_collections.ConfigDict
  experiment: experiment_lib.Experiment
  workdir: pathlib.Path
  state: train_step.TrainState | None
  result: dict[str, Any] | None


def prepare(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> Prepared:
  """Builds a run and makes its directory, if there is anything left to do.

  Args:
    config: see configs/default.py.
    workdir: run directory, made if it does not exist.

  Raises:
    ValueError: a value of the config is not allowed, `config.labels_from` has
      other data, or the directory holds another run or cannot be written to.
    FileNotFoundError: the data set, or `config.init_from`, is not there.
  """
  workdir = workdir.absolute()
  experiment_lib.load_plugins(config)
  config = resolve(config, workdir)
  experiment = experiment_lib.build(config)
  result = _finished_result(
    workdir, experiment.num_steps, experiment.steps_per_epoch
  )
  if result is not None:
    return Prepared(config, experiment, workdir, None, result)
  dataset = bootstrap.relabel(experiment.dataset, config, workdir)
  experiment = dataclasses.replace(experiment, dataset=dataset)
  if _has_checkpoint(workdir):
    state = experiment.state_shapes()
  else:
    state = initial_state(config, experiment)
  if parallel.is_first_process():
    workdir_lib.write_config(workdir, config)
    if config.labels_from:
      bootstrap.write(dataset.train.labels, workdir)
  return Prepared(config, experiment, workdir, state, None)


def _has_checkpoint(workdir: pathlib.Path) -> bool:
  """Whether there is anything to go on from."""
  saved = checkpoints_lib.Checkpoints(workdir / 'checkpoints', read_only=True)
  try:
    return saved.latest_step() is not None
  finally:
    saved.close()


def _finished_result(
  workdir: pathlib.Path, num_steps: int, steps_per_epoch: int
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
  if result['steps'] >= num_steps:
    return result
  if result['steps'] % steps_per_epoch:
    raise ValueError(
      f'the run in {workdir} ended within an epoch, at step '
      f'{result["steps"]}; it cannot be made longer, use another workdir'
    )
  return None


def resolve(
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
  resolved = experiment_lib.resolve(config, jax.device_count())
  if config.m is None or config.microbatch_size is None:
    print(
      f'warning: m = {resolved.m} and microbatch_size = '
      f'{resolved.microbatch_size} come from the number of devices, '
      f'{jax.device_count()}; they are part of the run from now on. Set them, '
      'and the run depends on the config alone.',
      file=sys.stderr,
    )
  return resolved


def initial_state(
  config: ml_collections.ConfigDict, experiment: experiment_lib.Experiment
) -> train_step.TrainState:
  """Returns the state before step 0, on the host or one device.

  Raises:
    ValueError: `config.init_from` does not fit the model.
    FileNotFoundError: `config.init_from` is not there.
  """
  variables = experiment_lib.init_variables(
    experiment.model, experiment.input_shape, config.seed
  )
  if config.init_from:
    variables = pretrained.load(
      config.init_from, variables, experiment.dataset.num_classes
    )
  return train_step.init_state(variables, experiment.fns)


def check_init_from(
  config: ml_collections.ConfigDict,
  experiment: experiment_lib.Experiment,
  workdir: pathlib.Path,
) -> None:
  """Refuses an `init_from` that a run would refuse; initialises nothing.

  Args:
    config: resolved.
    experiment: its objects.
    workdir: run directory, absolute; one that holds a checkpoint goes on from
      there and needs no other weights.

  Raises:
    ValueError: `config.init_from` does not fit the model.
    FileNotFoundError: `config.init_from` is not there.
  """
  if not config.init_from or _has_checkpoint(workdir):
    return
  state = experiment.state_shapes()
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  pretrained.load(config.init_from, variables, experiment.dataset.num_classes)
