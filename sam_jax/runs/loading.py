"""A trained model, ready for use: `sam_jax.load(workdir)`."""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax
import jax
import ml_collections
import numpy as np
import tqdm

from sam_jax import augmentation, datasets, types
from sam_jax.runs import (
  checkpoints,
  evaluation,
  experiment,
  workdir as workdir_lib,
)
from sam_jax.training import precision


class Run(NamedTuple):
  """A model from a run directory.

  Attributes:
    model: Flax module; apply it to normalised images with `train=False`.
    variables: params and batch_stats that the run is evaluated with, arrays
      on the host or default device.
    config: of the run.
  """

  model: flax.linen.Module
  variables: types.PyTree
  config: ml_collections.ConfigDict


def load(workdir: str | pathlib.Path, checkpoint: str | int = 'last') -> Run:
  """Loads a trained model.

  Args:
    workdir: run directory of `sam_jax.train`.
    checkpoint: 'last', 'best' (lowest error rate at an evaluation), or a step.

  Returns:
    `(model, variables, config)`.

  Raises:
    ValueError: there is no such run or checkpoint.

  Example:
    model, variables, config = sam_jax.load('runs/a', 'best')
    logits = model.apply(variables, images, train=False)
  """
  run, _ = load_with_info(workdir, checkpoint)
  return run


def load_with_info(
  workdir: str | pathlib.Path, checkpoint: str | int = 'last'
) -> tuple[Run, dict[str, Any]]:
  """Loads a trained model and what was saved of its data set.

  Args:
    workdir: see `load`.
    checkpoint: see `load`.

  Returns:
    The run, and step, num_classes, image_shape, mean and std.

  Raises:
    ValueError: there is no such run or checkpoint.
  """
  directory = pathlib.Path(workdir).absolute()
  config = workdir_lib.read_config(directory)
  if config is None:
    raise ValueError(
      f'{workdir} is no run directory: it has no config.json; give the '
      '--workdir of a run'
    )
  experiment.load_plugins(config)
  saved = checkpoints.Checkpoints(directory / 'checkpoints', read_only=True)
  try:
    step = _pick(saved, checkpoint, str(workdir))
    progress, info = saved.read_progress(step)
    state = saved.read_state(step)
  finally:
    saved.close()
  model = experiment.create_model(config, info['num_classes'])
  run = Run(model, _variables(state, config), config)
  return run, info | {'step': progress.step}


def evaluation_fns(
  run: Run, info: dict[str, Any]
) -> tuple[Callable[..., jax.Array], Callable[..., Any]]:
  """Returns how a run evaluates its model.

  Args:
    run: see `load_with_info`.
    info: of the same run.

  Returns:
    A function from uint8 images to what the model takes, and the model's
    `apply` in the precision of an evaluation.
  """
  preprocess = functools.partial(
    augmentation.preprocess,
    mean=info['mean'],
    std=info['std'],
    resolution=experiment.resolution(run.model),
  )
  apply_fn = precision.apply_in(
    run.model.apply, 'float32', run.config.matmul_precision
  )
  return preprocess, apply_fn


def predict(
  run: Run,
  info: dict[str, Any],
  examples: datasets.Examples,
  batch_size: int = 256,
) -> Iterator[np.ndarray]:
  """Yields the logits of examples, a batch at a time; a bar shows how far.

  Args:
    run: see `load_with_info`.
    info: of the same run.
    examples: uint8 images, in memory or encoded; labels are not looked at.
    batch_size: examples at once; the result does not depend on it.

  Returns:
    An iterator over float32 `[examples, num_classes]`.
  """
  preprocess, apply_fn = evaluation_fns(run, info)
  batches = datasets.eval_batches(examples, batch_size)
  with tqdm.tqdm(total=len(examples.labels), unit='image', disable=None) as bar:
    for part in evaluation.predict(
      apply_fn, run.variables, preprocess, batches
    ):
      yield part
      bar.update(len(part))


def _variables(
  state: types.PyTree, config: ml_collections.ConfigDict
) -> types.PyTree:
  """Returns what a run evaluates with, from a state as nested dicts."""
  if average := state.get('ema'):
    return average
  params = state['params']
  method = experiment.create_method(config)
  method_state = flax.serialization.from_state_dict(
    method.init(params), state.get('method_state', {})
  )
  return {
    'params': method.eval_params(method_state, params),
    'batch_stats': state.get('batch_stats', {}),
  }


def _pick(
  saved: checkpoints.Checkpoints, checkpoint: str | int, workdir: str
) -> int:
  """Returns the step of a checkpoint."""
  steps = saved.steps()
  if not steps:
    raise ValueError(f'{workdir} holds no checkpoint yet')
  if checkpoint == 'last':
    return steps[-1]
  step = checkpoint
  if checkpoint == 'best':
    step = saved.read_progress(steps[-1])[0].best_step
  if step not in steps:
    raise ValueError(
      f'{workdir} has no checkpoint {checkpoint!r}; it has last'
      f'{", best" if checkpoint != "best" else ""} and the steps {steps}'
    )
  return step
