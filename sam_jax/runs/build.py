"""From a config to the objects of a run. Configs go no further down.

Everything that can be wrong with a config is found here, before a run directory
is touched.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import optax

from sam_jax import datasets, keys, lookup, methods, tasks, types
from sam_jax.runs import (
  config_files,
  evaluation,
  factories,
  fields,
  reserved,
  shared as shared_lib,
  validation,
)
from sam_jax.training import (
  ema,
  layout as layout_lib,
  microbatches,
  optimizers,
  parallel as parallel_lib,
  precision,
  schedules,
  train_step,
)

_IMAGE_SIZE = 224
_MANY = 2**31 - 1  # examples, where their number is not known yet


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The objects of a run.

  Attributes:
    dataset: of the task; it has `train` and `evaluation`.
    task: what a batch, a loss and a score are; it holds the model.
    outputs: of the model for one example, as shapes.
    variables: of the model, as shapes.
    layout: how a batch is cut.
    parallel: how a step runs on the devices.
    fns: what the training step is made of.
    num_steps: updates of the whole run.
    steps_per_epoch: updates per pass over the training data.
    eval_batch_size: examples per evaluation step, a multiple of the devices.
    matmul_precision: of an evaluation, see `precision.apply_in`.
    info: what a checkpoint says of the data set, see `identity.describe`; None
      if nothing is saved.
  """

  dataset: datasets.Dataset
  task: tasks.Task
  outputs: types.PyTree
  variables: Mapping[str, types.PyTree]
  layout: layout_lib.Layout
  parallel: parallel_lib.Parallel
  fns: train_step.StepFns
  num_steps: int
  steps_per_epoch: int
  eval_batch_size: int
  matmul_precision: str | None
  info: Mapping[str, Any] | None = None

  def compile_train_step(self) -> Any:
    """Returns `(state, batch) -> (state, metrics)`; the state is donated."""
    step = functools.partial(train_step.train_step, fns=self.fns)
    return self.parallel.compile(step, num_replicated=1, num_donated=1)

  def compile_eval_step(self) -> Any:
    """Returns `(variables, batch) -> sums`."""
    step = functools.partial(
      evaluation.eval_step,
      task=self.task,
      apply_fn=self.parallel.apply(
        factories.evaluation_apply(self.task, self.matmul_precision)
      ),
      collectives=self.fns.collectives,
    )
    return self.parallel.compile(step, num_replicated=1, num_donated=0)

  def state_shapes(self) -> train_step.TrainState:
    """Returns the shapes and dtypes of a train state, and how it is cut."""
    init = functools.partial(train_step.init_state, fns=self.fns)
    return self.cut(jax.eval_shape(init, self.variables))

  def cut(self, shapes: types.PyTree) -> types.PyTree:
    """Returns shapes with the sharding of arrays that are cut over devices."""
    of = self.parallel.sharding
    if of is None:
      return shapes
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=of(x)), shapes
    )

  def batch_shapes(self) -> types.PyTree:
    """Returns the shapes of a training batch on the devices."""
    sharding = self.parallel.batch_sharding
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      self.task.batch_shapes(self.layout.batch_size),
    )

  def eval_variables(self, state: train_step.TrainState) -> types.PyTree:
    """Returns what the model is evaluated with."""
    return train_step.eval_variables(state, self.fns)


def resolve(
  config: ml_collections.ConfigDict, num_devices: int
) -> ml_collections.ConfigDict:
  """Returns a copy with what is not set filled in.

  m, microbatch_size, image_size and the defaults of the method become part of
  the run, so that it can be resumed anywhere. Encoded images are decoded to the
  size that the model is meant for, else to 224 pixels.

  Args:
    config: of a run.
    num_devices: that the run starts on.

  Raises:
    ValueError: the batch cannot be cut that way, or the task, the data set or
      the model is not known.
  """
  fields.check(config)
  layout = _layout(config, num_devices)
  resolved = config.copy_and_resolve_references()
  resolved.m = layout.m
  resolved.microbatch_size = layout.microbatch_size
  fields.fill_method(resolved)
  if _is_sized(config) and config.data.image_size is None:
    resolved.data.image_size = _image_size(config)
  return resolved


def _is_sized(config: ml_collections.ConfigDict) -> bool:
  """Whether the images of a run are decoded to a size that can be chosen."""
  if not issubclass(tasks.get(config.task.name), tasks.ImageTask):
    return False
  return 'image_size' in (datasets.options(config.data.name) or ())


def _image_size(config: ml_collections.ConfigDict) -> int:
  """Returns the side of the images that the model is meant for."""
  info = {'num_classes': 1, 'image_shape': [_IMAGE_SIZE, _IMAGE_SIZE, 3]}
  side = getattr(factories.create_model(config, info), 'resolution', None)
  return side or _IMAGE_SIZE


def init_shapes(task: tasks.Task) -> tuple[Any, Mapping[str, types.PyTree]]:
  """Returns the shapes of a model's outputs for one example, and variables."""

  def init(inputs: Any) -> Any:
    return task.model.init_with_output(keys.make(0), inputs, train=False)

  return jax.eval_shape(init, task.init_inputs())


def build(
  config: ml_collections.ConfigDict, shared: shared_lib.Shared | None = None
) -> Experiment:
  """Returns the objects of a run on all devices.

  Args:
    config: resolved, see `resolve`.
    shared: what experiments that were built before have in common with it.

  Raises:
    ValueError: a value of the config is not allowed.
    FileNotFoundError: the data set is not there.
  """
  shared = shared or shared_lib.Shared()
  fields.check(config)
  validation.check_ranges(config)
  validation.check_changes(config)
  validation.check_parallel(config)
  layout = _layout(config, jax.device_count())
  parallel = parallel_lib.create(config.parallel, layout)
  validation.check_norm(config, layout)
  validation.check_mixing(config)
  for name in config_files.names(config):
    reserved.check(name)
  method = factories.create_method(config)  # before data that take long to read
  dataset = shared.dataset(
    lambda: factories.load_data(config), config.task, config.data
  )
  info = {**dataset.info, **getattr(dataset, 'training_info', {})}
  task = factories.create_task(config, info, parallel.collectives.axes)
  validation.check_method(config, method, task)
  steps_per_epoch = _steps_per_epoch(config, task.count(dataset.train))
  num_steps = _num_steps(config, steps_per_epoch)
  of_model = (config.task, config.model, config.parallel, dataset.info)
  with factories.refusing(config, 'task', 'model'):
    outputs, variables = shared.made(lambda: init_shapes(task), *of_model)
  fns = _step_fns(
    config,
    task=task,
    method=method,
    params=variables['params'],
    layout=layout,
    parallel=parallel,
    schedule=_schedule(config, num_steps, steps_per_epoch),
    num_steps=num_steps,
  )
  validation.check_sharded(layout, variables)
  train_step.check_needs(variables, fns)
  # What does not fit is found here, not in the step.
  with factories.refusing(config, 'task', 'augmentation', 'mixing'):
    shared.made(
      lambda: validation.check_task(task, outputs),
      *(*of_model, config.augmentation, config.mixing, config.label_smoothing),
    )
  return Experiment(
    dataset=dataset,
    task=task,
    outputs=outputs,
    variables=variables,
    layout=layout,
    parallel=parallel,
    fns=fns,
    num_steps=num_steps,
    steps_per_epoch=steps_per_epoch,
    eval_batch_size=_eval_batch_size(
      min(config.eval_batch_size, _most_examples(task, dataset)),
      layout.num_devices,
    ),
    matmul_precision=config.matmul_precision,
  )


def _layout(
  config: ml_collections.ConfigDict, num_devices: int
) -> layout_lib.Layout:
  """Returns how a batch is cut; an error proposes sizes that fit together."""
  try:
    return layout_lib.create(num_devices=num_devices, **_sizes(config))
  except ValueError as error:
    proposal = _proposal(config, num_devices, _MANY)
    raise ValueError(f'{error}{proposal}') from error


def _steps_per_epoch(
  config: ml_collections.ConfigDict, num_examples: int
) -> int:
  """Returns the updates per epoch; an error proposes sizes that fit."""
  try:
    return datasets.steps_per_epoch(num_examples, config.batch_size)
  except ValueError as error:
    proposal = _proposal(config, jax.device_count(), num_examples)
    raise ValueError(f'{error}{proposal}') from error


def _sizes(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns how a batch is to be cut, for functions of `layout`."""
  names = ('batch_size', 'm', 'microbatch_size', 'fsdp')
  return {name: config[name] for name in names}


def _proposal(
  config: ml_collections.ConfigDict, num_devices: int, num_examples: int
) -> str:
  """Returns flags with sizes that fit, for the end of a message."""
  sizes = _sizes(config)
  if any(size is not None and size < 1 for size in sizes.values()):
    return ''  # the message says what is allowed
  found = layout_lib.fitting(num_examples, num_devices, **sizes)
  if found is None:
    return ''
  return (
    f'. These fit together: --config.batch_size={found.batch_size} '
    f'--config.m={found.m} --config.microbatch_size={found.microbatch_size}'
  )


def _num_steps(config: ml_collections.ConfigDict, steps_per_epoch: int) -> int:
  """Returns the length of the run."""
  given = config.num_steps
  num_steps = config.num_epochs * steps_per_epoch if given is None else given
  validation.check_num_steps(num_steps)
  return num_steps


def _most_examples(task: tasks.Task, dataset: datasets.Dataset) -> int:
  """Returns how many examples an evaluation may have; it holds no more."""
  return max(task.count(dataset.train), task.count(dataset.evaluation))


def _eval_batch_size(wanted: int, num_devices: int) -> int:
  """Returns the evaluation batch, rounded up to a multiple of the devices."""
  return -(-wanted // num_devices) * num_devices


def _schedule(
  config: ml_collections.ConfigDict, num_steps: int, steps_per_epoch: int
) -> optax.Schedule:
  """Returns the learning-rate schedule."""
  options = factories.fields(config.schedule)
  warmup = round(options.pop('warmup_epochs', 0.0) * steps_per_epoch)
  with factories.refusing(config, 'schedule'):
    return schedules.create(
      learning_rate=config.learning_rate,
      num_steps=num_steps,
      **{'warmup_steps': warmup, **options},
    )


def _optimizer(
  config: ml_collections.ConfigDict,
  params: types.Params,
  schedule: optax.Schedule,
) -> optimizers.Optimizer:
  """Returns what makes an update of a gradient."""
  options, decay = factories.fields(config.optimizer), config.weight_decay
  with factories.refusing(config, 'optimizer', 'weight_decay'):
    return optimizers.create(
      options.pop('name'),
      params,
      learning_rate=schedule,
      gradient_clipping=config.gradient_clipping,
      weight_decay=decay.rate,
      weight_decay_place=decay.place,
      weight_decay_exclude=decay.exclude,
      **options,
    )


def _step_fns(
  config: ml_collections.ConfigDict,
  *,
  task: tasks.Task,
  method: methods.Method,
  params: types.Params,
  layout: layout_lib.Layout,
  parallel: parallel_lib.Parallel,
  schedule: optax.Schedule,
  num_steps: int,
) -> train_step.StepFns:
  """Returns what the training step is made of."""
  lookup.check('microbatch_loop', config.microbatch_loop, microbatches.LOOPS)
  rounding = (config.compute_dtype, config.matmul_precision)
  return train_step.StepFns(
    task=task,
    apply_fn=precision.apply_in(parallel.apply(task.apply), *rounding),
    method=method,
    optimizer=_optimizer(config, params, schedule),
    ema_fn=ema.create(**config.ema),
    learning_rate_fn=schedule,
    peak_learning_rate=config.learning_rate,
    num_steps=num_steps,
    layout=layout,
    loop=config.microbatch_loop,
    collectives=parallel.collectives,
    mantissa_bits=precision.mantissa_bits(*rounding, jax.default_backend()),
    seed=config.seed,
    skips_nonfinite=config.on_nonfinite == 'skip',
  )
