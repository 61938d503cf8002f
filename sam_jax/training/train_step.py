"""One training step of one device: pure, and the same for every method.

Reads as the algorithm (Foret et al. 2020, algorithm 1 and section 4.1): each
group of m examples gets the gradient that its method wants; these are averaged
over all groups; then come clipping and the optimizer.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from sam_jax import keys, methods, tasks, tree, types
from sam_jax.training import (
  diagnostics,
  ema,
  layout as layout_lib,
  microbatches,
  optimizers,
  parallel,
)

Batch = Mapping[str, jax.Array]

# Random streams. Each is keyed by the step and by the position in the global
# batch, never by the device.
_AUGMENTATION, _DROPOUT, _METHOD, _MIXING = range(4)

# By how much a share of the examples may be exceeded: its cost is declared.
_MAX_ROUNDING = 1.25

# Of a batch: what belongs to losses of the method's own.
_VALUES = 'method_values'


@flax.struct.dataclass
class TrainState:
  """All that changes from step to step, the same on every device.

  Attributes:
    step: number of steps made, int32 scalar.
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
  method_state: methods.State
  ema: types.PyTree


@dataclasses.dataclass(frozen=True)
class StepFns:
  """What a training step is made of; everything static.

  Attributes:
    task: what a batch and a loss are.
    apply_fn: `(variables, inputs, **options) -> outputs` of the model, in the
      precision of the training.
    method: how a group's gradient is obtained.
    optimizer: from the averaged gradient to the update, weight decay included.
    ema_fn: updates the average that the run is evaluated with; None keeps none.
    learning_rate_fn: what the optimizer uses, for the log and the method.
    peak_learning_rate: the largest of these.
    num_steps: length of the run.
    layout: how the batch is cut.
    loop: how a device walks its pieces: 'scan', 'unroll' or 'vmap'.
    collectives: averages over devices.
    mantissa_bits: that a multiplication sees of a parameter; fewer than
      float32's make the step log what is left of the perturbation.
    seed: of augmentation, dropout and method.
    skips_nonfinite: whether a step that is not finite leaves the state as it
      was, see `train_step`.
  """

  task: tasks.Task
  apply_fn: Callable[..., Any]
  method: methods.Method
  optimizer: optimizers.Optimizer
  ema_fn: ema.EmaFn | None
  learning_rate_fn: optax.Schedule
  peak_learning_rate: float
  num_steps: int
  layout: layout_lib.Layout
  loop: str
  collectives: parallel.Collectives
  mantissa_bits: int
  seed: int
  skips_nonfinite: bool = False

  def stream(self, name: int, step: jax.Array) -> jax.Array:
    """Returns the key of a random stream at a step."""
    key = jax.random.fold_in(keys.make(self.seed), name)
    return jax.random.fold_in(key, step)

  def context(self, state: TrainState) -> methods.Context:
    """Returns what the method may know of a step."""
    # The optimizer counts the updates that it makes, and so does the method.
    made = state.method_state.step if self.skips_nonfinite else state.step
    key = self.stream(_METHOD, state.step)
    return methods.Context(
      step=state.step,
      num_steps=self.num_steps,
      key=key,
      step_key=key,
      learning_rate=self.learning_rate_fn(made),
      peak_learning_rate=self.peak_learning_rate,
      momentum=(
        methods.momentum_of(state.opt_state)
        if 'momentum' in self.method.needs
        else None
      ),
      params=state.params,
    )


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
  average = jax.tree.map(jnp.copy, _newest(state, fns))
  return dataclasses.replace(state, ema=average)


def check_needs(variables: Mapping[str, types.PyTree], fns: StepFns) -> None:
  """Refuses an optimizer without something that the method needs of it.

  Args:
    variables: as in `init_state`, or their shapes.
    fns: the optimizer and the method.

  Raises:
    ValueError: the message names what is missing.
  """

  def needed(variables: Mapping[str, types.PyTree]) -> list[Any]:
    ctx = fns.context(init_state(variables, fns))
    return [ctx.get(name) for name in fns.method.needs]

  if fns.method.needs:
    jax.eval_shape(needed, variables)


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
) -> tuple[TrainState, diagnostics.Metrics]:
  """Makes one update.

  Runs on one device, under `fns.collectives`; the result is the same on all.

  Args:
    state: the same on every device.
    batch: this device's share of a training batch of the task.
    fns: what the step is made of.

  Returns:
    The new state, and what was measured, see `diagnostics.of_step`. With
    `fns.skips_nonfinite`, a step of which anything measured, or the change of
    the BatchNorm statistics, is NaN or infinite changes the step counter alone:
    the loss is measured, and so are the norms of the gradient and of the
    updated parameters.

  Differs from the official release, which keeps BatchNorm statistics apart
  until a checkpoint is written; averaging them every step gives the same
  average.
  """
  ctx = fns.context(state)
  group_fn = functools.partial(_group_gradient, state, ctx, fns)
  groups = fns.collectives.spread(_split(batch, fns.layout.device_groups))
  local, rows = microbatches.mean_and_each(group_fn, groups, fns.loop)
  with jax.named_scope('average'):
    mean = fns.collectives.global_mean(local)
  result = mean._replace(rows=_of_batch(fns, rows, batch['position']))
  with jax.named_scope('finish'):
    grads, method_state = fns.method.finish(state.method_state, result, ctx)
  with jax.named_scope('optimizer'):
    updates, opt_state = fns.optimizer.update(
      grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
  new_state = TrainState(
    step=state.step + 1,
    params=params,
    # The mean of the changes: what is frozen stays to the bit.
    batch_stats=jax.tree.map(
      jnp.add, state.batch_stats, result.out[1].statistics_change
    ),
    opt_state=opt_state,
    method_state=method_state,
    ema=(),
  )
  if fns.ema_fn is not None:
    average = fns.ema_fn(state.ema, _newest(new_state, fns), new_state.step)
    new_state = dataclasses.replace(new_state, ema=average)
  metrics = diagnostics.of_step(
    result._replace(grads=grads),
    new_state.params,
    learning_rate=ctx.get('learning_rate'),
    max_norm=fns.optimizer.max_norm,
  )
  if not fns.skips_nonfinite:
    return new_state, metrics
  return _unless_nonfinite(
    state, new_state, metrics, result.out[1].statistics_change
  )


def _unless_nonfinite(
  state: TrainState,
  new_state: TrainState,
  metrics: diagnostics.Metrics,
  statistics_change: types.PyTree,
) -> tuple[TrainState, diagnostics.Metrics]:
  """Returns the state after a step, or before it if the step is not finite.

  All of this is averaged over the devices, so that they agree.
  """
  measured = jax.tree.leaves((metrics, tree.norm(statistics_change)))
  is_finite = jnp.all(jnp.isfinite(jnp.stack(measured)))
  kept = jax.tree.map(
    lambda new, old: jnp.where(is_finite, new, old), new_state, state
  )
  return (
    dataclasses.replace(kept, step=new_state.step),
    metrics._replace(skipped=1 - is_finite.astype(jnp.float32)),
  )


def _of_batch(
  fns: StepFns, rows: types.PyTree, positions: jax.Array
) -> types.PyTree:
  """Returns the rows of the batch, of those of this device's examples.

  Args:
    fns: the layout, and what sums over the devices.
    rows: tree of arrays `[groups, microbatches, b, ...]`.
    positions: of these examples in the batch, `[rows]`.
  """

  def place(x: jax.Array) -> jax.Array:
    shape = (fns.layout.batch_size, *x.shape[3:])
    of_all = tree.vary_like(jnp.zeros(shape, x.dtype), positions)
    return of_all.at[positions].set(x.reshape(len(positions), *shape[1:]))

  return fns.collectives.global_sum(jax.tree.map(place, rows))


def _split(batch: Batch, count: int) -> Batch:
  """Cuts the leading axis into `count` equal, contiguous pieces."""
  return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)


@jax.named_scope('augmentation')
def prepare(group: Batch, step: jax.Array, fns: StepFns) -> Batch:
  """Returns what the network sees of a group of m examples in a step.

  Args:
    group: this device's part of it, as in `train_step`.
    step: number of updates made before.
    fns: the task and the layout.

  Returns:
    The microbatches, augmented and mixed, `[microbatches, b, ...]` each.
  """
  group = fns.task.augment(fns.stream(_AUGMENTATION, step), group)
  mix = functools.partial(fns.task.mix, fns.stream(_MIXING, step))
  pieces = _split(group, fns.layout.device_microbatches)
  return jax.vmap(mix)(fns.collectives.spread(pieces))


def _group_gradient(
  state: TrainState, ctx: methods.Context, fns: StepFns, group: Batch
) -> tuple[methods.GroupResult, types.PyTree]:
  """Returns what the method makes of a group, of which this is the local part.

  What it makes of each example is apart. The parameters are cast to this
  device's own, see `parallel.Collectives`.
  """
  pieces = prepare(group, ctx.step, fns)
  params, batch_stats = fns.collectives.vary((state.params, state.batch_stats))
  problem = _problem(fns, batch_stats, ctx.step, pieces)
  index = group['position'][0] // fns.layout.m
  ctx = ctx._replace(key=jax.random.fold_in(ctx.get('key'), index))
  result = fns.method.gradient(problem, state.method_state, params, ctx)
  return result._replace(rows=()), result.rows


def _problem(
  fns: StepFns,
  batch_stats: types.PyTree,
  step: jax.Array,
  pieces: Batch,
  losses_fn: methods.LossesFn | None = None,
  ascends_descent: bool = False,
) -> methods.Problem:
  """Returns what the method may ask of a group's examples.

  A share of them is that of each microbatch, rounded up: then every device has
  as many, and which they are does not depend on the devices.
  """
  of = functools.partial(
    _problem, fns, batch_stats, step, ascends_descent=ascends_descent
  )
  is_ascent = not ascends_descent

  def rows(share: float) -> int:
    size = fns.layout.microbatch_size
    count = math.ceil(round(share * size, 6))
    if count > _MAX_ROUNDING * share * size:
      raise ValueError(
        f'a share of {share:g} of microbatches of {size} is '
        f'{share * size:g} examples, and {count} of them are {count / size:g}; '
        'choose a larger microbatch_size, or another share'
      )
    return count

  def first(share: float) -> methods.Problem:
    return of(jax.tree.map(lambda x: x[:, : rows(share)], pieces), losses_fn)

  def chosen(scores: jax.Array, share: float) -> methods.Problem:
    _, index = jax.lax.top_k(scores, rows(share))
    pick = jax.vmap(lambda x, i: x[i])
    return of(jax.tree.map(lambda x: pick(x, index), pieces), losses_fn)

  def with_losses(
    losses_fn: methods.LossesFn, values: types.PyTree
  ) -> methods.Problem:
    return of({**pieces, _VALUES: values}, losses_fn)

  def mean(values: types.PyTree) -> types.PyTree:
    local = jax.tree.map(lambda x: jnp.mean(x, axis=(0, 1)), values)
    return fns.collectives.group_mean(local)

  def slopes(params: types.Params) -> tuple[Any, types.PyTree]:
    out, grads, found = group_fn(
      params, is_ascent=is_ascent, row_fn=_slopes(fns)
    )
    return (out, grads), found

  at = (batch_stats, step, pieces)
  group_fn = functools.partial(_group_fn, fns, losses_fn, *at)
  losses = functools.partial(_losses, losses_fn)
  return methods.Problem(
    descend=jax.named_scope('descent')(
      lambda params: group_fn(params, is_ascent=False)[:2]
    ),
    ascend=jax.named_scope('ascent')(
      lambda params: group_fn(params, is_ascent=is_ascent)[:2]
    ),
    diagnose=functools.partial(
      diagnostics.of_perturbation, mantissa_bits=fns.mantissa_bits
    ),
    example_losses=functools.partial(_example_losses, fns, losses, *at),
    scored=functools.partial(group_fn, is_ascent=is_ascent, row_fn=losses),
    first=first,
    chosen=chosen,
    trained=functools.partial(of, pieces, losses_fn, ascends_descent=True),
    outputs=functools.partial(_outputs, fns, *at),
    observed=functools.partial(
      group_fn, is_ascent=False, row_fn=lambda outputs, *_: outputs
    ),
    slopes=slopes,
    with_losses=with_losses,
    mean=mean,
    squared_gradients=functools.partial(
      _squared_gradients, fns, batch_stats, pieces
    ),
    **_of_examples(fns.task, pieces),
  )


def _of_examples(task: tasks.Task, pieces: Batch) -> dict[str, Any]:
  """Returns what is known of the examples: number, class and domain."""
  offers = task.offers
  items: dict[str, Any] = {'examples': pieces.get('example')}

  def class_values(values: Any) -> jax.Array:
    of_piece = functools.partial(task.class_values, jnp.float32(values))
    return jax.vmap(of_piece)(pieces)

  if 'classes' in offers:
    items['class_values'] = class_values
    items['class_counts'] = np.array(offers['classes'])
  if 'domains' in offers:
    items['domains'] = pieces['domain']
    items['num_domains'] = offers['domains']
  return items


# `(outputs, losses of the task, microbatch) -> rows`.
_RowFn = Callable[[Any, jax.Array, Batch], types.PyTree]


def _slopes(fns: StepFns) -> _RowFn:
  """Returns the derivative of each example's loss by its outputs."""

  def slopes(outputs: Any, losses: jax.Array, piece: Batch) -> types.PyTree:
    del losses  # an example's loss depends on its own outputs alone
    return jax.grad(lambda o: jnp.sum(fns.task.example_losses(o, piece)))(
      outputs
    )

  return slopes


def _group_fn(
  fns: StepFns,
  losses_fn: methods.LossesFn | None,
  batch_stats: types.PyTree,
  step: jax.Array,
  pieces: Batch,
  params: types.Params,
  *,
  is_ascent: bool,
  row_fn: _RowFn | None = None,
) -> tuple[Any, types.Grads, Any]:
  """Returns value and aux, the gradient, and something of each example.

  The first two are means over the group's microbatches, wherever they are, so
  that they are those of the group on every device that shares it. The third is
  what `row_fn` makes of the examples that are here.
  """
  loss_fn = functools.partial(_loss, fns, losses_fn, is_ascent)
  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

  def of_piece(piece: Batch) -> tuple[types.PyTree, types.PyTree]:
    (loss, aux), grads = grad_fn(params, batch_stats, step, piece)
    aux, outputs, losses = aux
    rows = () if row_fn is None else row_fn(outputs, losses, piece)
    return ((loss, aux), grads), rows

  local, rows = microbatches.mean_and_each(of_piece, pieces, fns.loop)
  out, grads = fns.collectives.group_mean(local)
  return out, grads, rows


def _losses(
  losses_fn: methods.LossesFn | None,
  outputs: Any,
  losses: jax.Array,
  piece: Batch,
) -> jax.Array:
  """Returns the losses of examples, or the method's own, without a penalty."""
  if losses_fn is None:
    return losses
  return losses_fn(outputs, losses, 0.0, piece[_VALUES])


def _loss(
  fns: StepFns,
  losses_fn: methods.LossesFn | None,
  is_ascent: bool,
  params: types.Params,
  batch_stats: types.PyTree,
  step: jax.Array,
  microbatch: Batch,
) -> tuple[jax.Array, tuple[diagnostics.Aux, Any, jax.Array]]:
  """Returns the loss of a microbatch; in aux its outputs and their losses."""
  outputs, updated = _apply(
    fns, is_ascent, params, batch_stats, step, microbatch
  )
  losses = fns.task.example_losses(outputs, microbatch)
  loss = jnp.mean(losses)
  optimizer = fns.optimizer
  penalty_fn = (
    optimizer.ascent_penalty if is_ascent else optimizer.descent_penalty
  )
  penalty = 0.0 if penalty_fn is None else penalty_fn(params)
  change = jax.tree.map(
    jnp.subtract, updated.get('batch_stats', {}), batch_stats
  )
  metrics = {'loss': loss} | fns.task.train_metrics(outputs, microbatch)
  if not fns.method.measures_all:
    count = losses.size * fns.layout.batch_size // fns.layout.microbatch_size
    metrics['metric_examples'] = jnp.float32(count)
  total = loss + penalty
  if losses_fn is not None:
    values = microbatch[_VALUES]
    total = jnp.mean(losses_fn(outputs, losses, penalty, values))
  return total, (diagnostics.Aux(metrics, change), outputs, losses)


def _example_losses(
  fns: StepFns,
  row_fn: _RowFn,
  batch_stats: types.PyTree,
  step: jax.Array,
  pieces: Batch,
  params: types.Params,
) -> jax.Array:
  """Returns the loss of each example as it is trained, `[microbatches, b]`."""

  def losses(piece: Batch) -> jax.Array:
    outputs, _ = _apply(fns, False, params, batch_stats, step, piece)
    return row_fn(outputs, fns.task.example_losses(outputs, piece), piece)

  return microbatches.each(losses, pieces, fns.loop)


def _outputs(
  fns: StepFns,
  batch_stats: types.PyTree,
  step: jax.Array,
  pieces: Batch,
  params: types.Params,
) -> Any:
  """Returns the model's outputs as it is trained, `[microbatches, b, ...]`."""
  return microbatches.each(
    lambda piece: _apply(fns, False, params, batch_stats, step, piece)[0],
    pieces,
    fns.loop,
  )


def _squared_gradients(
  fns: StepFns,
  batch_stats: types.PyTree,
  pieces: Batch,
  params: types.Params,
  number: int,
) -> types.PyTree:
  """Returns the mean of the squared gradients of a group's first examples.

  As many are taken of each microbatch: the number is rounded up to that.
  """
  layout = fns.layout
  count = min(math.ceil(number * layout.microbatch_size / layout.m), layout.m)
  examples = jax.tree.map(
    lambda x: x[:, :count].reshape(-1, 1, *x.shape[2:]), pieces
  )

  def loss(params: types.Params, example: Batch) -> jax.Array:
    variables = {'params': params, 'batch_stats': batch_stats}
    outputs = fns.apply_fn(variables, fns.task.inputs(example), train=False)
    return jnp.mean(fns.task.example_losses(outputs, example))

  def squares(example: Batch) -> types.PyTree:
    return tree.squares(jax.grad(loss)(params, example))

  # As many copies of the program as examples would compile for long.
  loop = 'scan' if fns.loop == 'scan' else 'vmap'
  return fns.collectives.group_mean(microbatches.mean(squares, examples, loop))


def _apply(
  fns: StepFns,
  is_ascent: bool,
  params: types.Params,
  batch_stats: types.PyTree,
  step: jax.Array,
  microbatch: Batch,
) -> tuple[Any, Mapping[str, types.PyTree]]:
  """Returns what the model makes of a microbatch, and what it updates.

  The microbatch's position keys the dropout masks.
  """
  index = microbatch['position'][0] // fns.layout.microbatch_size
  return fns.apply_fn(
    {'params': params, 'batch_stats': batch_stats},
    fns.task.inputs(microbatch),
    train=True,
    # Shake-Shake and ShakeDrop draw one set of coefficients for the forward
    # pass and another for the backward pass. Where a perturbation is made, the
    # backward pass uses those of the forward pass.
    true_gradient=is_ascent,
    mutable=['batch_stats'],
    rngs={'dropout': jax.random.fold_in(fns.stream(_DROPOUT, step), index)},
  )
