"""One training step of one device: pure, and the same for every method.

Reads as the algorithm (Foret et al. 2020, algorithm 1 and section 4.1): each
group of m examples gets the gradient that its method wants; these are averaged
over all groups; then come clipping and the optimizer.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from sam_jax import methods, sam, tree, types
from sam_jax.training import (
  ema,
  layout as layout_lib,
  microbatches,
  parallel,
  precision,
)

Batch = Mapping[str, jax.Array]

# Random streams. Each is keyed by the step and by the position in the global
# batch, never by the device.
_AUGMENTATION, _DROPOUT, _METHOD, _MIXING = range(4)


@flax.struct.dataclass
class TrainState:
  """All that changes from step to step, the same on every device.

  Attributes:
    step: number of updates made, int32 scalar.
    params: float32 parameters.
    batch_stats: BatchNorm statistics, averaged over all microbatches.
    opt_state: of the optimizer.
    method_state: of the method.
    ema: average of what the run is evaluated with, `()` if none is kept.
  """

  step: jax.Array
  params: types.Params
  batch_stats: types.PyTree
  opt_state: optax.OptState
  method_state: types.PyTree
  ema: types.PyTree


@dataclasses.dataclass(frozen=True)
class StepFns:
  """What a training step is made of; everything static.

  Attributes:
    loss_fn: `(params, batch_stats, key, images, labels) -> (loss, aux)`, see
      `losses.classification_loss`.
    ascent_loss_fn: the same, for the pass that makes the perturbation.
    augment: `(key, uint8 images, positions) -> float32 images`.
    mix: `(key, images, labels) -> (images, labels)`, of a microbatch.
    method: how a group's gradient is obtained.
    optimizer: from the averaged gradient to the update, clipping included.
    ema_fn: updates the average that the run is evaluated with; None keeps none.
    learning_rate_fn: what the optimizer uses, for the log and the method.
    gradient_clipping: of the optimizer, for the log.
    layout: how the batch is cut.
    loop: how a device walks its pieces: 'scan', 'unroll' or 'vmap'.
    collectives: averages over devices.
    mantissa_bits: that a multiplication sees of a parameter; fewer than
      float32's make the step log what is left of the perturbation.
    seed: of augmentation, dropout and method.
  """

  loss_fn: Callable[..., Any]
  ascent_loss_fn: Callable[..., Any]
  augment: Callable[..., jax.Array]
  mix: Callable[..., tuple[jax.Array, jax.Array]]
  method: methods.Method
  optimizer: optax.GradientTransformation
  ema_fn: ema.EmaFn | None
  learning_rate_fn: Callable[[jax.Array], Any]
  gradient_clipping: float
  layout: layout_lib.Layout
  loop: str
  collectives: parallel.Collectives
  mantissa_bits: int
  seed: int

  def stream(self, name: int, step: jax.Array) -> jax.Array:
    """Returns the key of a random stream at a step."""
    key = jax.random.fold_in(jax.random.key(self.seed), name)
    return jax.random.fold_in(key, step)


def init_state(
  variables: Mapping[str, types.PyTree], fns: StepFns
) -> TrainState:
  """Returns the state before the first step.

  Args:
    variables: what the model's `init` returns: params, perhaps batch_stats.
    fns: the optimizer and the method whose state it holds.
  """
  params = variables['params']
  state = TrainState(
    step=jnp.int32(0),
    params=params,
    batch_stats=variables.get('batch_stats', {}),
    opt_state=fns.optimizer.init(params),
    method_state=fns.method.init(params),
    ema=(),
  )
  if fns.ema_fn is None:
    return state
  # The state is donated, and no buffer can be donated twice.
  return state.replace(ema=jax.tree.map(jnp.copy, _newest(state, fns)))


def eval_variables(state: TrainState, fns: StepFns) -> types.PyTree:
  """Returns what the model is evaluated with: params and batch_stats.

  Args:
    state: between two steps.
    fns: what the steps are made of.
  """
  return _newest(state, fns) if fns.ema_fn is None else state.ema


def _newest(state: TrainState, fns: StepFns) -> types.PyTree:
  """Returns what is evaluated where no average is kept."""
  params = fns.method.eval_params(state.method_state, state.params)
  return {'params': params, 'batch_stats': state.batch_stats}


def train_step(
  state: TrainState, batch: Batch, fns: StepFns
) -> tuple[TrainState, types.Metrics]:
  """Makes one update.

  Runs on one device, under `fns.collectives`; the result is the same on all.

  Args:
    state: the same on every device.
    batch: this device's share: image (uint8, `[n, height, width, channels]`),
      label (int32, `[n]`) and position (int32, `[n]`) of each example in the
      global batch.
    fns: what the step is made of.

  Returns:
    The new state, and scalars by name: loss and error_rate of the unperturbed
    network (the loss with label smoothing, without weight penalty), their
    perturbed twins, sharpness = perturbed_loss - loss, cosine between the
    gradients at w and at w + epsilon, gradient_norm_ratio, the norm of the
    latter over that of the former, curvature, see `_curvature` (means over
    groups; without a perturbation only the first two), those of
    `precision.effective_perturbation` if parameters are rounded, gradient_norm
    of the averaged gradient and clipped_gradient_norm after clipping,
    param_norm after the update, learning_rate.

  Differs from the official release: it logs loss and error of the perturbed
  pass of the first device, and keeps BatchNorm statistics apart until a
  checkpoint is written; averaging them every step gives the same average.
  """
  ctx = methods.Context(
    step=state.step,
    key=fns.stream(_METHOD, state.step),
    learning_rate=fns.learning_rate_fn(state.step),
  )
  varying = fns.collectives.vary(state)

  def group_fn(group: Batch) -> tuple[Any, ...]:
    return _group_gradient(varying, group, ctx, fns)

  means = microbatches.mean(
    group_fn, _split(batch, fns.layout.device_groups), fns.loop
  )
  grads, change, method_state, metrics = fns.collectives.global_mean(means)
  updates, opt_state = fns.optimizer.update(
    grads, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  gradient_norm = tree.norm(grads)
  limit = fns.gradient_clipping or jnp.inf
  metrics |= {
    'gradient_norm': gradient_norm,
    'clipped_gradient_norm': jnp.minimum(gradient_norm, limit),
    'param_norm': tree.norm(params),
    'learning_rate': jnp.float32(ctx.learning_rate),
  }
  new_state = TrainState(
    step=state.step + 1,
    params=params,
    # The mean of the changes: what is frozen stays to the bit.
    batch_stats=jax.tree.map(jnp.add, state.batch_stats, change),
    opt_state=opt_state,
    method_state=method_state,
    ema=(),
  )
  if fns.ema_fn is not None:
    average = fns.ema_fn(state.ema, _newest(new_state, fns), new_state.step)
    new_state = new_state.replace(ema=average)
  return new_state, metrics


def _split(batch: Batch, count: int) -> Batch:
  """Cuts the leading axis into `count` equal, contiguous pieces."""
  return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)


def inputs(group: Batch, step: jax.Array, fns: StepFns) -> Batch:
  """Returns what the network sees of a group of m examples in a step.

  Args:
    group: this device's part of it, as in `train_step`.
    step: number of updates made before.
    fns: the augmentation, the mixing and the layout.

  Returns:
    Microbatches: image (float32, `[microbatches, b, height, width,
    channels]`), label (int32, `[microbatches, b]`, or float32 with another
    axis of classes where images are mixed), position.
  """
  images = fns.augment(
    fns.stream(_AUGMENTATION, step), group['image'], group['position']
  )
  microbatches = _split(
    {**group, 'image': images}, fns.layout.device_microbatches
  )
  mix = functools.partial(fns.mix, fns.stream(_MIXING, step))
  images, labels = jax.vmap(mix)(microbatches['image'], microbatches['label'])
  return {**microbatches, 'image': images, 'label': labels}


def _group_gradient(
  state: TrainState, group: Batch, ctx: methods.Context, fns: StepFns
) -> tuple[types.Grads, types.PyTree, types.PyTree, dict[str, jax.Array]]:
  """Returns gradient, change of statistics, method state, metrics of a group.

  `group` is the part of the group that this device holds.
  """
  microbatches = inputs(group, ctx.step, fns)
  group_index = group['position'][0] // fns.layout.m
  grad_fn = fns.method.value_and_grad(
    _on_microbatch(fns.loss_fn, fns),
    ctx._replace(key=jax.random.fold_in(ctx.key, group_index)),
    ascent_fun=_on_microbatch(fns.ascent_loss_fn, fns),
    differentiate=_group_differentiate(fns),
  )
  (_, aux), grads, method_state, info = grad_fn(
    state.method_state, state.params, state.batch_stats, ctx.step, microbatches
  )
  metrics = _metrics(aux, info)
  if info is not None and fns.mantissa_bits < precision.FLOAT32_BITS:
    metrics |= precision.effective_perturbation(
      state.params, info.epsilon, fns.mantissa_bits
    )
  return grads, aux['batch_stats'], method_state, metrics


def _on_microbatch(
  loss_fn: Callable[..., Any], fns: StepFns
) -> Callable[..., Any]:
  """Returns the loss of one microbatch, its dropout keyed by its position.

  Its aux has the change of the BatchNorm statistics in their place.
  """

  def fun(
    params: types.Params,
    batch_stats: types.PyTree,
    step: jax.Array,
    microbatch: Batch,
  ) -> tuple[jax.Array, dict[str, Any]]:
    index = microbatch['position'][0] // fns.layout.microbatch_size
    key = jax.random.fold_in(fns.stream(_DROPOUT, step), index)
    loss, aux = loss_fn(
      params, batch_stats, key, microbatch['image'], microbatch['label']
    )
    change = jax.tree.map(jnp.subtract, aux['batch_stats'], batch_stats)
    return loss, {**aux, 'batch_stats': change}

  return fun


def _group_differentiate(fns: StepFns) -> Callable[..., Callable[..., Any]]:
  """Returns what differentiates the mean loss of a group.

  The mean is over the group's microbatches, wherever they are, so that value,
  aux and gradient are those of the group on every device that shares it.
  """

  def differentiate(
    fun: Callable[..., Any], has_aux: bool
  ) -> Callable[..., Any]:
    value_and_grad = jax.value_and_grad(fun, has_aux=has_aux)

    def group_value_and_grad(
      params: types.Params,
      batch_stats: types.PyTree,
      step: jax.Array,
      microbatches: Batch,
    ) -> tuple[Any, types.Grads]:
      def microbatch_fn(microbatch: Batch) -> tuple[Any, types.Grads]:
        return value_and_grad(params, batch_stats, step, microbatch)

      local = microbatches.mean(microbatch_fn, microbatches, fns.loop)
      return fns.collectives.group_mean(local)

    return group_value_and_grad

  return differentiate


def _metrics(
  aux: Mapping[str, Any], info: sam.SamInfo | None
) -> dict[str, jax.Array]:
  """Returns the metrics of one group."""
  metrics = {'loss': aux['loss'], 'error_rate': aux['error_rate']}
  if info is not None:
    perturbed = info.perturbed_aux
    metrics |= {
      'perturbed_loss': perturbed['loss'],
      'perturbed_error_rate': perturbed['error_rate'],
      'sharpness': perturbed['loss'] - aux['loss'],
      'cosine': tree.cosine(info.ascent_grads, info.descent_grads),
      'gradient_norm_ratio': tree.norm(info.descent_grads)
      * tree.inverse_norm(info.ascent_grads),
      'curvature': _curvature(info),
    }
  return metrics


def _curvature(info: sam.SamInfo) -> jax.Array:
  r"""Returns the Rayleigh quotient of the Hessian along epsilon.

  .. math::
    (g' - g) \cdot \epsilon / |\epsilon|^2 \approx
    \epsilon^T H \epsilon / |\epsilon|^2

  with the gradients g at w and g' at w + epsilon of a group: the mean of the
  Hessian along the way between them, at most its largest eigenvalue there. 0
  without a perturbation.

  With the weight penalty in the loss H has it too: weight_decay.rate on the
  diagonal. If the two gradients are of different functions, their difference
  holds that of the functions besides: the penalty's w . epsilon where weight
  decay is of the descent alone, and noise for Shake-Shake and ShakeDrop, whose
  descent gradient is not that of their loss. Of several ascent steps, g is the
  first gradient and epsilon the sum: the mean of H along the straight line.
  """
  change = jax.tree.map(jnp.subtract, info.descent_grads, info.ascent_grads)
  inverse = tree.inverse_norm(info.epsilon)
  return tree.vdot(change, info.epsilon) * inverse * inverse
