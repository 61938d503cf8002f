"""What precedes the first step: whose run it is, its objects, its first state.

All that can be wrong with a config, a data set or a run directory is found
here, before anything is written.
"""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_collections

from sam_jax import (
  checkpoints as checkpoints_lib,
  experiment as experiment_lib,
  runs,
  train_step,
  types,
  workdir as workdir_lib,
)


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
    ValueError: a value of the config is not allowed, or the directory holds
      another run or cannot be written to.
    FileNotFoundError: the data set is not there.
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
  if _has_checkpoint(workdir):
    state = experiment.state_shapes()
  else:
    state = initial_state(config, experiment)
  workdir_lib.write_config(workdir, config)
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
  if config.sam.m is None or config.microbatch_size is None:
    print(
      f'warning: sam.m = {resolved.sam.m} and microbatch_size = '
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
  """
  image_shape = experiment.dataset.train.images.shape[1:]
  variables = experiment_lib.init_variables(
    experiment.model, image_shape, config.seed
  )
  if config.init_from:
    variables = _pretrained(config.init_from, variables)
  return train_step.init_state(variables, experiment.fns)


def _pretrained(
  source: str, variables: Mapping[str, types.PyTree]
) -> types.PyTree:
  """Returns another run's variables, if they fit."""
  _, loaded, _ = runs.load(source)
  ours = jax.tree_util.tree_leaves_with_path(variables)
  theirs = dict(
    jax.tree_util.tree_leaves_with_path({k: loaded[k] for k in variables})
  )
  for path, leaf in ours:
    found = theirs.pop(path, None)
    if found is None or found.shape != leaf.shape:
      got = 'nothing' if found is None else list(found.shape)
      raise ValueError(
        f'init_from {source!r} does not fit the model: '
        f'{jax.tree_util.keystr(path)} needs {list(leaf.shape)}, found {got}'
      )
  if theirs:
    raise ValueError(
      f'init_from {source!r} has more than the model: '
      f'{jax.tree_util.keystr(next(iter(theirs)))}'
    )
  return {k: loaded[k] for k in variables}
