"""A trained model, ready for use: `sam_jax.load(workdir)`."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax
import ml_collections
import tqdm

from sam_jax import methods, tasks, types
from sam_jax.runs import (
  ambient,
  checkpoints,
  config_files,
  evaluation,
  factories,
  shipped,
  workdir as workdir_lib,
)


class LoadedModel(NamedTuple):
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


@dataclasses.dataclass(frozen=True)
class Restored:
  """A checkpoint of a run, with all that it takes to evaluate it.

  Attributes:
    task: with the model, and what is known of the data set.
    variables: params and batch_stats that the run is evaluated with.
    config: of the run.
    step: of the checkpoint.
  """

  task: tasks.Task
  variables: types.PyTree
  config: ml_collections.ConfigDict
  step: int

  @property
  def apply_fn(self) -> Callable[..., Any]:
    """The task's `apply`, in the precision of an evaluation."""
    return factories.evaluation_apply(self.task, self.config.matmul_precision)

  def predict(
    self, examples: Any, batch_size: int = 256
  ) -> Iterator[evaluation.Predictions]:
    """Yields outputs and metrics, a batch at a time; a bar shows how far.

    Args:
      examples: of the task's data set.
      batch_size: examples at once; the result does not depend on it.
    """
    batches = self.task.eval_batches(examples, batch_size)
    parts = evaluation.predict(
      self.apply_fn, self.variables, self.task, batches
    )
    total, unit = self.task.count(examples), f' {self.task.examples}'
    with tqdm.tqdm(total=total, unit=unit, disable=None) as bar:
      for part in parts:
        yield part
        bar.update(len(part.metrics['loss']))


def load(
  workdir: str | pathlib.Path,
  checkpoint: str | int = 'last',
  *,
  plugins: bool = True,
) -> LoadedModel:
  """Loads a trained model.

  Args:
    workdir: run directory of `sam_jax.train`, or the name of a run that comes
      with the package, see `shipped`.
    checkpoint: 'last', 'best' (lowest score at an evaluation), or a step.
    plugins: whether the plug-ins that the run's config names are imported,
      which runs their code; a run that has some is refused otherwise.

  Returns:
    `(model, variables, config)`.

  Raises:
    ValueError: there is no such run or checkpoint, or it has plug-ins that are
      refused.

  Example:
    >>> model, variables, config = sam_jax.load(
    ...   'digits_cnn_sam', 'best'
    ... )  # doctest: +SKIP
    >>> logits = model.apply(
    ...   variables, images, train=False
    ... )  # doctest: +SKIP
  """
  restored = restore(workdir, checkpoint, plugins=plugins)
  return LoadedModel(restored.task.model, restored.variables, restored.config)


@ambient.pinned()
def restore(
  workdir: str | pathlib.Path,
  checkpoint: str | int = 'last',
  *,
  plugins: bool = True,
) -> Restored:
  """Loads a checkpoint and its task; the data set need not be there.

  Args:
    workdir: see `load`.
    checkpoint: see `load`.
    plugins: see `load`.

  Raises:
    ValueError: see `load`.
  """
  directory = shipped.find(workdir)
  config = workdir_lib.read_config(directory)
  if config is None:
    raise ValueError(
      f'{workdir} is no run directory: it has no config.json; give the '
      f'directory of a run, or the name of a shipped one: '
      f'{", ".join(shipped.names())}'
    )
  if 'task' not in config:
    raise workdir_lib.other_edition(directory / 'config.json')
  with config_files.without_plugins(not plugins):
    config_files.load_plugins(config, directory)
  saved = checkpoints.Checkpoints(
    directory / 'checkpoints',
    run_id=workdir_lib.run_id(directory),
    read_only=True,
  )
  with contextlib.closing(saved):
    step = _pick(saved, checkpoint, directory)
    _, info = saved.read_journal(step)
    state = saved.read_state(step)
  task = factories.create_task(config, info)
  return Restored(task, _variables(state, config), config, step)


def _variables(
  state: types.PyTree, config: ml_collections.ConfigDict
) -> types.PyTree:
  """Returns what a run evaluates with, from a state as nested dicts."""
  if average := state.get('ema'):
    return average
  params = state['params']
  method = factories.create_method(config)
  method_state = method_state_of(method, params, state['method_state'])
  return {
    'params': method.eval_params(method_state, params),
    'batch_stats': state.get('batch_stats', {}),
  }


def method_state_of(
  method: methods.Method, params: types.Params, read: types.PyTree
) -> methods.State:
  """Returns a method's state, of which a checkpoint has dicts and lists."""

  def named(x: types.PyTree) -> types.PyTree:
    """Has the places of a list as names, as Flax expects it."""
    if isinstance(x, list | tuple):
      x = {str(i): each for i, each in enumerate(x)}
    return {k: named(v) for k, v in x.items()} if isinstance(x, dict) else x

  state = method.init(params)
  return flax.serialization.from_state_dict(state, named(read))


def _pick(
  saved: checkpoints.Checkpoints,
  checkpoint: str | int,
  workdir: pathlib.Path,
) -> int:
  """Returns the step of a checkpoint that is intact."""
  steps = saved.found()
  if not steps:
    raise ValueError(f'{workdir} holds no checkpoint yet')
  step: str | int | None = checkpoint
  if checkpoint in ('last', 'best'):
    step = last = _newest(saved, workdir)
    if checkpoint == 'best':
      step = saved.read_journal(last)[0].best_step
  if not isinstance(step, int) or step not in steps:
    raise ValueError(
      f'{workdir} has no checkpoint {checkpoint!r}; it has last'
      f'{", best" if checkpoint != "best" else ""} and the steps {steps}'
    )
  if checkpoint != 'last' and (reason := saved.damage(step)):
    raise ValueError(
      f'checkpoint {checkpoint!r} cannot be used: {reason}; choose another one '
      f'of the steps {steps}, or put it back from a copy'
    )
  return step


def _newest(saved: checkpoints.Checkpoints, workdir: pathlib.Path) -> int:
  """Returns the newest intact step, and says which newer ones are not."""
  step, skipped = saved.newest_intact()
  if step is None:
    raise checkpoints.none_intact(workdir / 'checkpoints', skipped)
  for each in skipped:
    print(
      f'warning: {each.reason}; step {each.step} is skipped, and step {step} '
      'is the last that can be used',
      file=sys.stderr,
    )
  return step
