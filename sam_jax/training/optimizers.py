"""From an averaged gradient to an update: clipping, decay, optimizer.

The order is the official one: average over devices, clip, weight decay that is
added to the gradient, then the optimizer.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sam_jax import lookup, tree, types

# What optax's optimizers call the mask of their decoupled weight decay.
_MASKS = ('mask', 'weight_decay_mask')
PenaltyFn = Callable[[types.Params], jax.Array]
WEIGHT_DECAYS = ('loss', 'descent', 'gradient', 'decoupled')


class Optimizer(NamedTuple):
  """Everything between a gradient and an update, weight decay included.

  Attributes:
    init: `params -> state`, of optax.
    update: `(grads, state, params) -> (updates, state)`, of optax: clipping,
      weight decay that is added to the gradient, and the optimizer.
    ascent_penalty: `params -> scalar`, added to the loss that makes the
      perturbation; None adds nothing.
    descent_penalty: the same for the loss at the perturbed parameters.
    max_norm: global norm to which the averaged gradient is clipped; inf clips
      nothing.
  """

  init: optax.TransformInitFn
  update: optax.TransformUpdateFn
  ascent_penalty: PenaltyFn | None
  descent_penalty: PenaltyFn | None
  max_norm: float


def sgd(
  learning_rate: optax.ScalarOrSchedule,
  momentum: float = 0.9,
  nesterov: bool = True,
) -> optax.GradientTransformation:
  """Returns SGD with the official release's momentum as the default.

  Args:
    learning_rate: a number or a schedule.
    momentum: decay of the velocity; 0 is none.
    nesterov: whether the momentum is Nesterov's.
  """
  return optax.sgd(learning_rate, momentum or None, nesterov)


def rmsprop_tf(
  learning_rate: optax.ScalarOrSchedule,
  decay: float = 0.9,
  momentum: float = 0.9,
  eps: float = 1e-3,
  lr_in_momentum: bool = True,
) -> optax.GradientTransformation:
  """Returns RMSProp as TensorFlow 1 has it, on which EfficientNets rest.

  `v = decay * v + (1 - decay) * g^2`, from v = 1 on, and the momentum of
  `g / sqrt(v + eps)`.

  Args:
    learning_rate: a number or a schedule.
    decay: of the mean of squares.
    momentum: decay of the velocity; 0 is none.
    eps: added to the mean of squares, inside the root.
    lr_in_momentum: whether the velocity sums steps, each with the learning
      rate of its time, or directions, all multiplied by that of the update.
      The same unless the learning rate changes.

  Source: efficientnet/optim.py:81-87.

  Differs from the official release: that one has lr_in_momentum=False, unlike
  TensorFlow 1, which it means to follow.
  """
  scaling = optax.scale_by_learning_rate(learning_rate)
  velocity = optax.trace(momentum)
  return optax.chain(
    optax.scale_by_rms(decay, eps, initial_scale=1.0, eps_in_sqrt=True),
    *((scaling, velocity) if lr_in_momentum else (velocity, scaling)),
  )


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Returns what optax calls so, with `tree.norm`.

  The step logs that norm, which is then computed once; and it is in at least
  float32.

  Args:
    max_norm: gradients that are as long or longer get this length.
  """

  @jax.named_scope('clip')
  def clip(grads: types.Grads, params: types.Params | None) -> types.Grads:
    del params
    norm = tree.norm(grads)
    # One factor for all: a kernel less, to compile and to launch, per leaf.
    factor = jnp.where(norm < max_norm, 1, max_norm / norm)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

  return optax.stateless(clip)


def decay_mask(params: types.Params, exclude: str) -> types.PyTree:
  """Returns which parameters are decayed, a tree of bools like `params`.

  Args:
    params: tree of parameters, nested dicts.
    exclude: regular expression searched for in each path such as
      'block/bn/scale'; what matches is not decayed. Empty excludes nothing.

  Raises:
    ValueError: the expression is no regular expression, or matches nothing.

  Example:
    >>> from sam_jax.training import optimizers
    >>> print(optimizers.decay_mask({'kernel': 1.0, 'bias': 1.0}, 'bias$'))
    {'bias': False, 'kernel': True}
  """
  paths = jax.tree_util.tree_map_with_path(
    lambda path, _: jax.tree_util.keystr(path, simple=True, separator='/'),
    params,
  )
  if not exclude:
    return jax.tree.map(lambda path: True, paths)
  try:
    pattern = re.compile(exclude)
  except re.error as error:
    raise ValueError(
      f'weight_decay.exclude {lookup.shown(exclude)} is no regular expression: '
      f'{error}'
    ) from error
  mask = jax.tree.map(lambda path: pattern.search(path) is None, paths)
  if all(jax.tree.leaves(mask)):
    some = ', '.join(jax.tree.leaves(paths)[:4])
    raise ValueError(
      f'weight_decay.exclude {lookup.shown(exclude)} matches no parameter; '
      f'their paths are like {some}'
    )
  return mask


def l2_penalty(
  params: types.Params, weight_decay: float, mask: types.PyTree
) -> jax.Array:
  """Returns 0.5 * weight_decay * |w|^2 over the parameters the mask selects.

  Args:
    params: tree of parameters.
    weight_decay: coefficient; 0 returns 0.
    mask: tree of Python bools like `params`.
  """
  if weight_decay == 0:
    return jnp.float32(0)
  kept = jax.tree.map(lambda p, keep: p if keep else None, params, mask)
  return 0.5 * weight_decay * tree.vdot(kept, kept)


# Found before optax's of the same name.
_OURS = {'sgd': sgd, 'rmsprop_tf': rmsprop_tf}


def _factory(name: str) -> Callable[..., optax.GradientTransformation]:
  """Returns the optimizer of that name, ours or optax's."""
  factory = _OURS.get(name) or getattr(optax, name, None)
  if (
    not callable(factory)
    or 'learning_rate' not in inspect.signature(factory).parameters
  ):
    raise ValueError(
      f'unknown optimizer {lookup.shown(name)}; use {", ".join(_OURS)}, adamw, '
      'lion or another function of optax that takes a learning_rate'
    )
  return factory


def create(
  name: str,
  params: types.Params,
  *,
  learning_rate: optax.ScalarOrSchedule,
  gradient_clipping: float = 0.0,
  weight_decay: float = 0.0,
  weight_decay_place: str = 'loss',
  weight_decay_exclude: str = '',
  **options: object,
) -> Optimizer:
  """Returns what makes an update of a gradient.

  Args:
    name: 'sgd' or 'rmsprop_tf' (see there), or any function of optax that
      takes a learning rate: 'adamw', 'lion', 'adam', ...
    params: tree of parameters, or of their shapes.
    learning_rate: a number or a schedule.
    gradient_clipping: largest global norm of the averaged gradient; 0 is no
      clipping. The official default is 5.
    weight_decay: coefficient.
    weight_decay_place: 'loss' adds 0.5 * weight_decay * |w|^2 to both losses,
      so that it takes part in the perturbation (the official way); 'descent'
      adds it to the second one alone; 'gradient' adds weight_decay * w to the
      clipped gradient, before the momentum; 'decoupled' leaves it to an
      optimizer that has it (AdamW, Lion).
    weight_decay_exclude: see `decay_mask`.
    **options: arguments of that optimizer; None means its default.

  Raises:
    ValueError: an unknown optimizer, argument or place, a negative clipping, a
      mask that matches nothing, or an optimizer that has no decoupled weight
      decay or needs more than gradients and parameters.
  """
  lookup.check('weight_decay.place', weight_decay_place, WEIGHT_DECAYS)
  if gradient_clipping < 0:
    raise ValueError(
      f'gradient_clipping is {gradient_clipping}; give a norm, or 0 for none'
    )
  place = weight_decay_place
  transformation = _transformation(
    name,
    learning_rate,
    gradient_clipping=gradient_clipping,
    added_decay=weight_decay if place == 'gradient' else 0.0,
    decoupled_decay=weight_decay if place == 'decoupled' else 0.0,
    exclude=weight_decay_exclude,
    options={k: v for k, v in options.items() if v is not None},
  )
  _check_usable(name, transformation, params)
  penalty = functools.partial(
    l2_penalty,
    weight_decay=weight_decay,
    mask=decay_mask(params, weight_decay_exclude),
  )
  return Optimizer(
    init=transformation.init,
    update=transformation.update,
    ascent_penalty=penalty if place == 'loss' else None,
    descent_penalty=penalty if place in ('loss', 'descent') else None,
    max_norm=gradient_clipping or math.inf,
  )


def _transformation(
  name: str,
  learning_rate: optax.ScalarOrSchedule,
  *,
  gradient_clipping: float,
  added_decay: float,
  decoupled_decay: float,
  exclude: str,
  options: dict[str, object],
) -> optax.GradientTransformation:
  """Returns clipping, weight decay on the gradient, and the optimizer."""
  factory = _factory(name)
  accepted = set(inspect.signature(factory).parameters)
  lookup.check_options(
    f'optimizer {name!r}',
    factory,
    options,
    ('learning_rate', 'weight_decay', *_MASKS),
  )
  lookup.check_types(f'optimizer {name!r}', factory, options)
  mask = functools.partial(decay_mask, exclude=exclude)
  if 'weight_decay' in accepted:
    # Said even when zero: optax.adamw decays by 1e-4 unless told otherwise.
    masks = {name: mask for name in _MASKS if name in accepted}
    options = options | {'weight_decay': decoupled_decay} | masks
  elif decoupled_decay:
    raise ValueError(
      f'optimizer {name!r} has no decoupled weight decay; use adamw or lion, '
      "or weight_decay.place 'loss', 'descent' or 'gradient'"
    )
  parts = []
  if gradient_clipping:
    parts.append(clip_by_global_norm(gradient_clipping))
  if added_decay:
    parts.append(optax.add_decayed_weights(added_decay, mask))
  return optax.chain(*parts, factory(learning_rate, **options))


def _check_usable(
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
