"""From a config to the objects of a run. Configs go no further down.

Everything that can be wrong with a config is found here, before a run directory
is touched.
"""

import dataclasses
import functools
import importlib
import math
import operator
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from sam_jax import augmentation, datasets, methods, models, types
from sam_jax.augmentation import mixing
from sam_jax.runs import evaluation
from sam_jax.tasks import losses
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


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The objects of a run.

  Attributes:
    dataset: in memory, or encoded images.
    model: a Flax module.
    layout: how a batch is cut.
    parallel: how a step runs on the devices.
    fns: what the training step is made of.
    num_steps: updates of the whole run.
    steps_per_epoch: updates per pass over the training data.
    eval_batch_size: examples per evaluation step, a multiple of the devices.
    matmul_precision: of an evaluation, see `precision.apply_in`.
  """

  dataset: datasets.Dataset
  model: flax.linen.Module
  layout: layout_lib.Layout
  parallel: parallel_lib.Parallel
  fns: train_step.StepFns
  num_steps: int
  steps_per_epoch: int
  eval_batch_size: int
  matmul_precision: str | None

  @property
  def info(self) -> dict[str, Any]:
    """What it takes to use the model without its data set, as JSON."""
    return {
      'num_classes': self.dataset.num_classes,
      'image_shape': list(self.dataset.train.images.shape[1:]),
      'mean': list(self.dataset.mean),
      'std': list(self.dataset.std),
    }

  @property
  def input_shape(self) -> tuple[int, ...]:
    """Height, width and channels of what the model takes."""
    return _input_shape(self.model, self.dataset)

  @property
  def preprocess(self) -> Any:
    """Maps uint8 images to what the model takes."""
    return functools.partial(
      augmentation.preprocess,
      mean=self.dataset.mean,
      std=self.dataset.std,
      resolution=resolution(self.model),
    )

  def compile_train_step(self) -> Any:
    """Returns `(state, batch) -> (state, metrics)`; the state is donated."""
    step = functools.partial(train_step.train_step, fns=self.fns)
    return self.parallel.compile(step, num_replicated=1, num_donated=1)

  def compile_eval_step(self) -> Any:
    """Returns `(variables, batch) -> sums`."""
    step = functools.partial(
      evaluation.eval_step,
      apply_fn=precision.apply_in(
        self.model.apply, 'float32', self.matmul_precision
      ),
      preprocess=self.preprocess,
      collectives=self.fns.collectives,
    )
    return self.parallel.compile(step, num_replicated=1, num_donated=0)

  def state_shapes(self) -> train_step.TrainState:
    """Returns the shapes and dtypes of a train state."""

    def init() -> train_step.TrainState:
      variables = init_variables(self.model, self.input_shape, 0)
      return train_step.init_state(variables, self.fns)

    return jax.eval_shape(init)

  def variables(self, state: train_step.TrainState) -> types.PyTree:
    """Returns what the model is evaluated with."""
    return train_step.eval_variables(state, self.fns)


def factory_kwargs(section: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields that are set, for the factory that the name picks."""
  return {key: value for key, value in section.items() if value is not None}


def load_plugins(config: ml_collections.ConfigDict) -> None:
  """Imports the modules that register one's own models and data sets.

  Raises:
    ValueError: a module cannot be imported.
  """
  for name in config.plugins:
    try:
      importlib.import_module(name)
    except ImportError as error:
      raise ValueError(
        f'config.plugins names {name!r}, which cannot be imported: {error}'
      ) from error


def resolve(
  config: ml_collections.ConfigDict, num_devices: int
) -> ml_collections.ConfigDict:
  """Returns a copy with m, microbatch_size and image_size filled in.

  They become part of the run, so that it can go on anywhere. Encoded images are
  decoded to the size that the model is meant for, else to 224 pixels.

  Args:
    config: of a run.
    num_devices: that the run starts on.

  Raises:
    ValueError: the batch cannot be cut that way, or the data set or the model
      is not known.
  """
  layout = layout_lib.create(
    config.batch_size, num_devices, config.m, config.microbatch_size
  )
  resolved = config.copy_and_resolve_references()
  resolved.m = layout.m
  resolved.microbatch_size = layout.microbatch_size
  is_sized = 'image_size' in (datasets.options(config.data.name) or ())
  if is_sized and config.data.image_size is None:
    side = resolution(create_model(config, num_classes=1))
    resolved.data.image_size = side or _IMAGE_SIZE
  return resolved


def create_model(
  config: ml_collections.ConfigDict,
  num_classes: int,
  axes: tuple[str, ...] | None = None,
) -> flax.linen.Module:
  """Returns the model of a config.

  Args:
    config: of a run.
    num_classes: of its data set.
    axes: mapped axes over which it is trained, for synced BatchNorm; in
      evaluation there is nothing to sync.
  """
  kwargs = factory_kwargs(config.model)
  if kwargs.get('norm') == 'synced':
    kwargs['norm_axes'] = axes
  return models.create(num_classes=num_classes, **kwargs)


def resolution(model: flax.linen.Module) -> int | None:
  """Returns the side of the images that a model is meant for, if it says so."""
  return getattr(model, 'resolution', None)


def _resized(model: flax.linen.Module) -> Any:
  """Returns the model's `apply` on images of any size.

  Those of a microbatch are resized, not all that a device has.
  """
  side = resolution(model)

  def apply(variables: types.PyTree, images: jax.Array, **kwargs: Any) -> Any:
    return model.apply(variables, augmentation.resize(images, side), **kwargs)

  return model.apply if side is None else apply


def _input_shape(
  model: flax.linen.Module, dataset: datasets.Dataset
) -> tuple[int, ...]:
  """Returns height, width and channels of what the model takes."""
  height, width, channels = dataset.train.images.shape[1:]
  side = resolution(model)
  return (side or height, side or width, channels)


def create_method(config: ml_collections.ConfigDict) -> methods.Method:
  """Returns the method of a config; m is the layout's business."""
  return methods.create(**factory_kwargs(config.method))


def init_variables(
  model: flax.linen.Module, image_shape: tuple[int, ...], seed: int
) -> Mapping[str, types.PyTree]:
  """Returns freshly initialised variables of a model, float32.

  Args:
    model: takes images `[batch, *image_shape]`.
    image_shape: height, width, channels.
    seed: of the initialisation.
  """
  images = jnp.zeros((1, *image_shape), jnp.float32)
  init = jax.jit(functools.partial(model.init, train=False))
  # Half the compile time of partitionable threefry, which is of no use here:
  # every device initialises the same values.
  with jax.threefry_partitionable(False):
    return init(jax.random.key(seed), images)


# (field, smallest, largest) of numbers that no factory checks.
_RANGES = (
  ('seed', 0, 2**31 - 1),
  ('learning_rate', 0, math.inf),
  ('label_smoothing', 0, 1),
  ('weight_decay.rate', 0, math.inf),
  ('eval_batch_size', 1, math.inf),
  ('eval_every_epochs', 1, math.inf),
  ('checkpoint.every_epochs', 0, math.inf),
  ('checkpoint.every_steps', 1, math.inf),
  ('checkpoint.max_to_keep', 1, math.inf),
  ('log.every_steps', 0, math.inf),
)


def _check_ranges(config: ml_collections.ConfigDict) -> None:
  """Refuses numbers that make no sense."""
  for name, low, high in _RANGES:
    value = functools.reduce(operator.getitem, name.split('.'), config)
    if value is not None and not low <= value <= high:
      raise ValueError(f'{name} is {value}; it must be in [{low}, {high}]')
  wrong = [epoch for epoch in config.checkpoint.at_epochs if epoch < 1]
  if wrong:
    raise ValueError(
      f'checkpoint.at_epochs has {wrong[0]}; epochs are counted from 1'
    )


def build(config: ml_collections.ConfigDict) -> Experiment:
  """Returns the objects of a run on all devices.

  Args:
    config: resolved, see `resolve`.

  Raises:
    ValueError: a value of the config is not allowed.
    FileNotFoundError: the data set is not there.
  """
  _check_ranges(config)
  layout = layout_lib.create(
    config.batch_size, jax.device_count(), config.m, config.microbatch_size
  )
  parallel = parallel_lib.create(config.parallel, layout)
  dataset = datasets.create(**factory_kwargs(config.data))
  steps_per_epoch = datasets.steps_per_epoch(
    len(dataset.train.labels), config.batch_size
  )
  num_steps = _num_steps(config, steps_per_epoch)
  _check_norm(config, layout)
  model = create_model(config, dataset.num_classes, parallel.collectives.axes)
  input_shape = _input_shape(model, dataset)
  shapes = jax.eval_shape(lambda: init_variables(model, input_shape, 0))
  fns = _step_fns(
    config,
    dataset=dataset,
    model=model,
    params=shapes['params'],
    layout=layout,
    collectives=parallel.collectives,
    schedule=_schedule(config, num_steps, steps_per_epoch),
  )
  # What does not fit is found here, not in the step.
  _check_optimizer(config.optimizer.name, fns.optimizer, shapes['params'])
  jax.eval_shape(
    fns.augment,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, *dataset.train.images.shape[1:]), jnp.uint8),
    jax.ShapeDtypeStruct((1,), jnp.int32),
  )
  return Experiment(
    dataset=dataset,
    model=model,
    layout=layout,
    parallel=parallel,
    fns=fns,
    num_steps=num_steps,
    steps_per_epoch=steps_per_epoch,
    eval_batch_size=_eval_batch_size(config, layout.num_devices),
    matmul_precision=config.matmul_precision,
  )


def _check_norm(
  config: ml_collections.ConfigDict, layout: layout_lib.Layout
) -> None:
  """Refuses frozen BatchNorm without statistics, synced with some in turn."""
  norm = config.model.get('norm')  # a plugin's section may have none
  if norm == 'frozen' and not config.init_from:
    raise ValueError(
      "model.norm='frozen' normalises by the statistics of pretrained weights; "
      'give them by init_from'
    )
  pieces = layout.device_groups * layout.device_microbatches
  if norm != 'synced' or pieces == 1:
    return
  share = layout.batch_size // layout.num_devices
  larger = f'microbatch_size={share}'
  if layout.m % share:
    larger = f'm={share} with {larger}'
  raise ValueError(
    "model.norm='synced' needs all microbatches at once, one per device, and "
    f'each of {layout.num_devices} devices has {pieces} of them in turn; use '
    f"{layout.num_devices * pieces} devices, model.norm='batch', or {larger}"
  )


def _num_steps(config: ml_collections.ConfigDict, steps_per_epoch: int) -> int:
  """Returns the length of the run."""
  given = config.num_steps
  num_steps = config.num_epochs * steps_per_epoch if given is None else given
  if num_steps < 1:
    raise ValueError(
      f'the run is {num_steps} steps long; num_epochs, or num_steps if given, '
      'must be at least 1'
    )
  return num_steps


def _eval_batch_size(
  config: ml_collections.ConfigDict, num_devices: int
) -> int:
  """Returns the evaluation batch, rounded up to a multiple of the devices."""
  return -(-config.eval_batch_size // num_devices) * num_devices


def _schedule(
  config: ml_collections.ConfigDict, num_steps: int, steps_per_epoch: int
) -> Any:
  """Returns the learning-rate schedule."""
  options = factory_kwargs(config.schedule)
  warmup_epochs = options.pop('warmup_epochs')
  return schedules.create(
    learning_rate=config.learning_rate,
    num_steps=num_steps,
    warmup_steps=round(warmup_epochs * steps_per_epoch),
    **options,
  )


def _mix_fn(
  config: ml_collections.ConfigDict, num_classes: int
) -> mixing.MixFn:
  """Returns what mixes images; refuses microbatches without partners."""
  if config.mixing.name != 'none' and config.microbatch_size == 1:
    raise ValueError(
      f'mixing.name={config.mixing.name!r} mixes the images of a microbatch '
      'and microbatch_size is 1; it must be at least 2'
    )
  return mixing.create(num_classes=num_classes, **config.mixing)


def _check_optimizer(
  name: str, optimizer: optax.GradientTransformation, params: types.Params
) -> None:
  """Refuses an optimizer that wants more than gradients and parameters."""
  try:
    state = jax.eval_shape(optimizer.init, params)
    jax.eval_shape(optimizer.update, params, state, params)
  except TypeError as error:
    raise ValueError(
      f'optimizer {name!r} cannot be used here: {error}'
    ) from error


def _step_fns(
  config: ml_collections.ConfigDict,
  *,
  dataset: datasets.Dataset,
  model: flax.linen.Module,
  params: types.Params,
  layout: layout_lib.Layout,
  collectives: parallel_lib.Collectives,
  schedule: Any,
) -> train_step.StepFns:
  """Returns what the training step is made of."""
  decay = config.weight_decay
  penalties = optimizers.regularization(
    params, decay.rate, decay.place, decay.exclude
  )
  loss_fn = functools.partial(
    losses.classification_loss,
    precision.apply_in(
      _resized(model), config.compute_dtype, config.matmul_precision
    ),
    label_smoothing=config.label_smoothing,
  )
  num_pieces = layout.device_groups * layout.device_microbatches
  return train_step.StepFns(
    loss_fn=loss_fn(penalty_fn=penalties.descent_penalty),
    ascent_loss_fn=loss_fn(
      penalty_fn=penalties.ascent_penalty, true_gradient=True
    ),
    augment=augmentation.create(
      mean=dataset.mean,
      std=dataset.std,
      **config.augmentation,
    ),
    mix=_mix_fn(config, dataset.num_classes),
    method=create_method(config),
    optimizer=optimizers.create(
      learning_rate=schedule,
      gradient_clipping=config.gradient_clipping,
      weight_decay=decay.rate,
      weight_decay_place=decay.place,
      weight_decay_exclude=decay.exclude,
      **factory_kwargs(config.optimizer),
    ),
    ema_fn=ema.create(**config.ema),
    learning_rate_fn=schedule,
    gradient_clipping=config.gradient_clipping,
    layout=layout,
    loop=microbatches.resolve(
      config.microbatch_loop, jax.default_backend(), num_pieces
    ),
    collectives=collectives,
    mantissa_bits=precision.mantissa_bits(
      config.compute_dtype, config.matmul_precision, jax.default_backend()
    ),
    seed=config.seed,
  )
