"""The variables that a run starts from: random ones, or pretrained ones."""

import functools
from collections.abc import Mapping
from typing import Any

import flax
import jax

from sam_jax import keys, types
from sam_jax.runs import build, pretrained
from sam_jax.training import train_step


def init_variables(
  model: flax.linen.Module,
  inputs: Any,
  seed: int,
  shardings: types.PyTree = None,
) -> Mapping[str, types.PyTree]:
  """Returns freshly initialised variables of a model, float32.

  Args:
    model: of a task.
    inputs: that it takes, of any number of examples; only shapes count.
    seed: of the initialisation.
    shardings: of the variables; None has them on the first device.
  """
  init = jax.jit(
    functools.partial(model.init, train=False), out_shardings=shardings
  )
  # Half the compile time of partitionable threefry, which is of no use here:
  # every device initialises the same values.
  with jax.threefry_partitionable(False):
    return init(keys.make(seed), inputs)


def initial_state(
  experiment: build.Experiment, *, seed: int, init_from: str = ''
) -> train_step.TrainState:
  """Returns the state before step 0, on one device.

  If it is to be cut over the devices, it is made so.

  Args:
    experiment: objects of the run.
    seed: of the initialisation.
    init_from: what to start from, see `pretrained.read`; '' is random.

  Raises:
    ValueError: `init_from` does not fit the model.
    FileNotFoundError: `init_from` is not there.
  """
  task = experiment.task
  init = functools.partial(train_step.init_state, fns=experiment.fns)
  is_cut = experiment.parallel.sharding is not None
  shapes = experiment.cut(experiment.variables)
  variables = init_variables(
    task.model, task.init_inputs(), seed, _shardings(shapes) if is_cut else None
  )
  if init_from:
    variables = _pretrained(experiment, init_from, variables)
  of_state = None
  if is_cut:
    variables = experiment.parallel.replicate(variables)  # the pretrained ones
    of_state = _shardings(experiment.state_shapes())
  # Compiled as one program; run eagerly, each shape of an array would compile
  # its own.
  return jax.jit(init, out_shardings=of_state)(variables)


def _shardings(shapes: types.PyTree) -> types.PyTree:
  """Returns how arrays of these shapes are cut."""
  return jax.tree.map(lambda x: x.sharding, shapes)


def check_source(experiment: build.Experiment, init_from: str) -> None:
  """Refuses pretrained weights that a run would refuse; initialises nothing.

  Args:
    experiment: objects of the run.
    init_from: see `initial_state`.

  Raises:
    ValueError: it does not fit the model.
    FileNotFoundError: it is not there.
  """
  if init_from:
    _pretrained(experiment, init_from, experiment.variables)


def _pretrained(
  experiment: build.Experiment,
  init_from: str,
  variables: Mapping[str, types.PyTree],
) -> types.PyTree:
  """Returns pretrained variables in place of a model's own, or their shapes."""
  (outputs,) = jax.tree.leaves(experiment.outputs)
  return pretrained.load(
    init_from,
    variables,
    outputs.shape[-1],
    experiment.info,
    experiment.task.examples,
  )
