"""A training step, put together as the train loop does it, on D devices."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sam_jax import methods, tasks
from sam_jax.training import (
  ema,
  layout as layout_lib,
  optimizers,
  parallel,
  schedules,
  train_step,
)


class Mlp(nn.Module):
  """The smooth network of the release's mlp_steps files."""

  @nn.compact
  def __call__(self, x, *, train, true_gradient=False):
    del true_gradient
    x = nn.Dense(16, name='d1')(x)
    x = nn.BatchNorm(
      use_running_average=not train, momentum=0.9, epsilon=1e-5, name='bn'
    )(x)
    return nn.Dense(5, name='d2')(jnp.tanh(x))


class Task(tasks.ImageClassification):
  """Classes of any arrays, augmented and mixed by functions of the test."""

  def __init__(self, augment, mix, label_smoothing, more):
    info = {
      'num_classes': 5,
      'image_shape': (1, 1, 1),
      'mean': (0,),
      'std': (1,),
      **more,
    }
    super().__init__(None, info, label_smoothing=label_smoothing)
    self._augment_images, self._mix_images = augment, mix

  def augment(self, key, batch):
    images = self._augment_images(key, batch['image'], batch['position'])
    return {**batch, 'image': images}

  def mix(self, key, batch):
    images, labels = self._mix_images(key, batch['image'], batch['label'])
    return {**batch, 'image': images, 'label': labels}


class Step(NamedTuple):
  """One step on the host: the state after it, and its metrics as floats."""

  state: train_step.TrainState
  metrics: dict[str, float]

  @property
  def variables(self):
    """What another run can start from."""
    return {
      'params': self.state.params,
      'batch_stats': self.state.batch_stats,
    }


class Stepper:
  """A compiled step and what it is made of; `run` walks over batches."""

  def __init__(self, fns: train_step.StepFns, parallel_: parallel.Parallel):
    self.fns = fns
    self.parallel = parallel_
    self.compiled = parallel_.compile(
      functools.partial(train_step.train_step, fns=fns), 1, 1
    )

  def run(self, variables: Any, batches: list[dict]) -> list[Step]:
    """Starts from the variables; returns what every step left behind."""
    return self.resume(train_step.init_state(variables, self.fns), batches)

  def resume(
    self, state: train_step.TrainState, batches: list[dict]
  ) -> list[Step]:
    """Starts from a state of the host; returns what every step left behind."""
    state = self.parallel.replicate(state)
    steps = []
    for batch in batches:
      positions = np.arange(len(batch['label']), dtype=np.int32)
      batch = self.parallel.shard({**batch, 'position': positions})
      state, metrics = self.compiled(state, batch)
      metrics = jax.device_get(self.parallel.unreplicate(metrics))
      steps.append(
        Step(
          jax.device_get(self.parallel.unreplicate(state)),
          flat(metrics),
        )
      )
    return steps


def flat(metrics):
  """Returns the metrics of a step as floats; no perturbation has none."""
  values = dict(metrics.step)
  if metrics.share > 0:
    values |= metrics.perturbed
  return {name: float(value) for name, value in values.items()}


def make(
  apply_fn,
  params,
  batch_size,
  *,
  devices=1,
  m=None,
  b=None,
  loop='unroll',
  parallel_name='shard_map',
  method='sam',
  optimizer='sgd',
  optimizer_options=(),
  ema_decay=0.0,
  ema_warmup_steps=0,
  learning_rate=0.1,
  schedule='constant',
  num_steps=10,
  clipping=0.0,
  weight_decay=0.0,
  place='loss',
  exclude='',
  label_smoothing=0.0,
  augment=lambda key, images, positions: images,
  mix=lambda key, images, labels: (images, labels),
  mantissa_bits=23,
  seed=0,
  skips_nonfinite=False,
  replace_collectives=None,
  info=(),
  **method_options,
):
  """Returns a Stepper; `m` and `b` as in `layout.create`.

  `optimizer_options` is a dict, or its items, and so is `info`: what is known
  of the data besides the classes.
  """
  layout = layout_lib.create(batch_size, devices, m, b)
  if method == 'sgd':  # what the test sets for the other methods
    method_options = {}
  runs_on = parallel.create(parallel_name, layout, jax.devices()[:devices])
  learning_rate_fn = schedules.create(
    schedule, learning_rate=learning_rate, num_steps=num_steps
  )
  fns = train_step.StepFns(
    task=Task(augment, mix, label_smoothing, dict(info)),
    apply_fn=apply_fn,
    method=(
      method
      if isinstance(method, methods.Method)
      else methods.create(method, **method_options)
    ),
    optimizer=optimizers.create(
      optimizer,
      params,
      learning_rate=learning_rate_fn,
      gradient_clipping=clipping,
      weight_decay=weight_decay,
      weight_decay_place=place,
      weight_decay_exclude=exclude,
      **dict(optimizer_options),
    ),
    ema_fn=ema.create(ema_decay, ema_warmup_steps),
    learning_rate_fn=learning_rate_fn,
    peak_learning_rate=learning_rate,
    num_steps=num_steps,
    layout=layout,
    loop=loop,
    collectives=runs_on.collectives._replace(**(replace_collectives or {})),
    mantissa_bits=mantissa_bits,
    seed=seed,
    skips_nonfinite=skips_nonfinite,
  )
  return Stepper(fns, runs_on)


def run(apply_fn, variables, batches, **options):
  """Makes a Stepper for these batches and runs it; see `make`."""
  batch_size = len(batches[0]['label'])
  stepper = make(apply_fn, variables['params'], batch_size, **options)
  return stepper.run(variables, batches)


def largest_difference(a, b):
  """Returns the largest absolute difference between two trees."""
  differences = jax.tree.map(
    lambda x, y: np.max(np.abs(np.asarray(x, np.float64) - y)), a, b
  )
  return max(jax.tree.leaves(differences))


def update_error(start, actual, expected):
  """Returns |actual - expected| / |expected - start|, over whole trees.

  Relative to the update: the weights would dominate anything else.
  """

  def squared(a, b):
    squares = jax.tree.map(
      lambda x, y: np.sum((np.asarray(x, np.float64) - y) ** 2), a, b
    )
    return sum(jax.tree.leaves(squares))

  return np.sqrt(squared(actual, expected) / squared(expected, start))
