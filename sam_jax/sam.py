r"""The gradient of Sharpness-Aware Minimization, as a drop-in transform.

SAM minimises the largest loss in a ball around the parameters w. To first
order (Foret et al. 2020, equations 2 and 3) its gradient is the loss gradient
at a nearby point uphill,

.. math::
  \nabla L^{SAM}(w) \approx \nabla L(w + \hat\epsilon(w)), \qquad
  \hat\epsilon(w) = \rho\, \nabla L(w) / \|\nabla L(w)\|_2,

where the derivative of :math:`\hat\epsilon` itself is dropped (or kept, by
`second_order`).

Guarantees:

- value and aux are those of the unperturbed parameters, so BatchNorm
  statistics in aux are those of the network that is trained, not of the
  perturbed one;
- both passes get the same arguments, hence the same PRNG keys: the same
  dropout masks;
- rho = 0 returns bit for bit what `jax.value_and_grad` returns (on CPU, for
  finite gradients), and a rho that is the number 0 costs one pass;
- parameters are any tree that `jax.value_and_grad` takes, of any floating-point
  dtype, and modules of Equinox and `flax.nnx`; what has no gradient (None, or
  float0 as integers have with `allow_int`) is left alone, everywhere;
- nothing is averaged over devices unless `ascent_reduce` does it: under `pmap`
  or `shard_map` each device has its own epsilon, which is m-sharpness with m
  the batch per device (section 4.1).

Differs from the official release: it logs value and accuracy of the perturbed
pass; a zero gradient gives NaN there.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sam_jax import arguments, leaves, perturbations, tree, types


class SamInfo(NamedTuple):
  """What the second pass and the perturbation looked like.

  Attributes:
    perturbed_value: value of `fun` at `params + epsilon`, a scalar.
    perturbed_aux: its aux; None without `has_aux`.
    ascent_grads: gradient at `params` (after `ascent_reduce`), that of the
      first step if there are several.
    descent_grads: gradient of `fun` at `params + epsilon`: the result, but for
      `second_order` and `combine`.
    epsilon: the perturbation, a tree like the gradient. Where a parameter is
      narrower than float32, what was left of it after it was added: rounding
      may swallow it, and then the step was not SAM's.
  """

  perturbed_value: jax.Array
  perturbed_aux: Any
  ascent_grads: types.Grads
  descent_grads: types.Grads
  epsilon: types.PyTree


def _identity(grads: types.Grads) -> types.Grads:
  """Averages over nothing."""
  return grads


def descent(
  ascent_grads: types.Grads, descent_grads: types.Grads
) -> types.Grads:
  """Returns SAM's update direction: the gradient at the perturbed point."""
  del ascent_grads
  return descent_grads


def value_and_grad(
  fun: Callable[..., Any],
  perturbation: types.Perturbation,
  *,
  has_aux: bool = False,
  ascent_fun: Callable[..., Any] | None = None,
  ascent_steps: int = 1,
  ascent_reduce: Callable[[types.Grads], types.Grads] = _identity,
  second_order: bool = False,
  combine: Callable[[types.Grads, types.Grads], types.Grads] = descent,
  differentiate: Callable[..., Callable[..., Any]] = jax.value_and_grad,
  with_info: bool = False,
  **options: Any,
) -> Callable[..., Any]:
  """Returns a function for the value and the sharpness-aware gradient of fun.

  Args:
    fun: scalar function, differentiated with respect to its first argument, a
      tree of parameters. Called twice (`ascent_steps + 1` times) with the same
      further arguments.
    perturbation: `(grads, params) -> epsilon`, for example `sam_jax.l2(0.05)`.
    has_aux: whether `fun` returns `(value, aux)`.
    ascent_fun: what is differentiated at `params` instead of `fun` to find
      epsilon, with the same arguments and an aux of the same structure: a loss
      without its weight penalty, a smaller batch, Shake-Shake's true gradient.
      Value and aux are then its own.
    ascent_steps: number K of gradient ascent steps; each adds a K-th of the
      perturbation for the gradient where it stands, so the result is no longer
      than that of one step (appendix C.6 does not say; optax takes K full
      steps, which is a perturbation scaled by K).
    ascent_reduce: averages the ascent gradient over the devices that share one
      epsilon, for example `lambda g: jax.lax.pmean(g, 'data')`. Nothing else
      is averaged here: average the result, then clip, then optimize.
    second_order: whether to differentiate through epsilon: adds the transposed
      derivative of epsilon times the descent gradient, by one Hessian-vector
      product more (appendix C.4, where it made results worse). Both functions
      have to be differentiable twice, and the ascent gradient has to be the
      gradient of one: its Hessian is taken to be symmetric.
    combine: `(ascent_grads, descent_grads) -> grads`; the default is SAM's,
      the descent gradient.
    differentiate: what differentiates `fun`, called as
      `differentiate(fun, has_aux=has_aux)`: for example a version that
      accumulates over microbatches, `equinox.filter_value_and_grad`, or
      `flax.nnx.value_and_grad`.
    with_info: whether to return a `SamInfo` too.
    **options: given to `differentiate` too, such as `allow_int=True`. A leaf
      that is an integer, a bool or a PRNG key has a gradient of dtype float0
      then, as in JAX, and is not perturbed.

  Returns:
    A function with the arguments of `fun` that returns `(value, grads)`, or
    `((value, aux), grads)` with `has_aux`, as `jax.value_and_grad` does; with
    `with_info` a third item, `SamInfo`. With a static rho = 0 there is no
    ascent, and value and aux are those of `fun`.

  Raises:
    TypeError: an argument is of another kind than it should be; the message
      has the call to write.
    ValueError: `ascent_steps` is below 1, or above with `second_order`; or
      `argnums` names more than the first argument; or, when called, what the
      perturbation returns is no tree like the gradient; or, when called inside
      `jax.shard_map`, the parameters are replicated over a mesh axis over
      which the value varies (JAX would sum the gradient over that axis before
      it is normalised, which silently makes m the global batch), or split over
      one over which it does not, and the perturbation has no `axis_name`.

  Example:
    >>> import jax, jax.numpy as jnp, sam_jax
    >>> def loss(w, x):
    ...   return 0.5 * jnp.sum(x * w**2)
    >>> w, x = jnp.array([3.0, 4.0]), jnp.array([1.0, 1.0])
    >>> value, grads = sam_jax.value_and_grad(loss, sam_jax.l2(0.5))(w, x)
    >>> print(value, grads)  # the gradient at w + 0.5 * w / |w|
    12.5 [3.3 4.4]

    BatchNorm statistics and metrics travel in aux:

    >>> def loss_and_aux(w, x):
    ...   return loss(w, x), {'largest': jnp.max(w)}
    >>> grad_fn = sam_jax.value_and_grad(
    ...   loss_and_aux, sam_jax.l2(0.5), has_aux=True, with_info=True)
    >>> (value, aux), grads, info = grad_fn(w, x)
    >>> print(aux['largest'], info.perturbed_aux['largest'])
    4.0 4.4
  """
  arguments.function('fun', fun)
  arguments.perturbation(perturbation)
  arguments.ascent(ascent_steps, second_order)
  arguments.function('ascent_reduce', ascent_reduce)
  arguments.function('combine', combine)
  arguments.differentiation(differentiate, options)
  descend = differentiate(fun, has_aux=has_aux, **options)
  ascend = descend
  if ascent_fun is not None:
    arguments.function('ascent_fun', ascent_fun)
    ascent_fun = arguments.returned('ascent_fun', ascent_fun, has_aux)
    ascend = differentiate(ascent_fun, has_aux=has_aux, **options)

  @functools.wraps(fun)
  def sam_value_and_grad(
    params: types.Params, /, *args: Any, **kwargs: Any
  ) -> tuple[Any, ...]:
    out, grads, info = perturbed_gradient(
      lambda p: descend(p, *args, **kwargs),
      lambda p: ascend(p, *args, **kwargs),
      perturbation,
      params,
      has_aux=has_aux,
      ascent_steps=ascent_steps,
      ascent_reduce=ascent_reduce,
      second_order=second_order,
      combine=combine,
    )
    return (out, grads, info) if with_info else (out, grads)

  return sam_value_and_grad


def perturbed_gradient(
  descend: types.GradientFn,
  ascend: types.GradientFn,
  perturbation: types.Perturbation,
  params: types.Params,
  *,
  has_aux: bool = True,
  ascent_steps: int = 1,
  ascent_reduce: Callable[[types.Grads], types.Grads] = _identity,
  second_order: bool = False,
  combine: Callable[[types.Grads, types.Grads], types.Grads] = descent,
) -> tuple[Any, types.Grads, SamInfo]:
  """Returns the sharpness-aware gradient of functions that are gradients.

  What `value_and_grad` does once it has differentiated; for whoever has the
  gradients already, as `sam_jax.methods` does.

  Args:
    descend: `params -> (out, grads)`, called at the perturbed parameters.
    ascend: the same, from which the perturbation is made; not called if that
      is `perturbations.none`, for there is only one pass then.
    perturbation: `(grads, params) -> epsilon`.
    params: tree of parameters.
    has_aux: whether `out` is `(value, aux)`.
    ascent_steps: see `value_and_grad`.
    ascent_reduce: see `value_and_grad`.
    second_order: see `value_and_grad`.
    combine: see `value_and_grad`.

  Returns:
    `out` of the first pass, the gradient, and a `SamInfo`.

  Raises:
    ValueError: see `value_and_grad`.
  """

  @jax.named_scope('ascent')
  def gradient_at(moved: types.Params) -> types.Grads:
    return ascent_reduce(leaves.differentiable(ascend(moved)[1]))

  whole = leaves.Parameters(params)
  is_plain = perturbation is perturbations.none
  with jax.named_scope('descent' if is_plain else 'ascent'):
    out, full = arguments.pair((descend if is_plain else ascend)(params))
  local_grads = leaves.differentiable(full)
  trained = whole.like(local_grads)
  _check_differentiated_locally(trained, out)
  ascent_grads = ascent_reduce(local_grads)
  _check_slices(ascent_grads, out, perturbation)
  with jax.named_scope('perturbation'):
    epsilon = perturbation(ascent_grads, trained)
  if is_plain:
    perturbed_out, descent_grads = out, local_grads
  else:
    epsilon = _fraction(epsilon, ascent_steps)
    for _ in range(ascent_steps - 1):
      step = perturbation(gradient_at(whole.moved(epsilon)), trained)
      epsilon = jax.tree.map(tree.add, epsilon, _fraction(step, ascent_steps))
    with jax.named_scope('perturbation'):
      moved = whole.moved(epsilon)
      epsilon = whole.added(epsilon, moved)
    with jax.named_scope('descent'):
      perturbed_out, descent_grads = descend(moved)
    descent_grads = leaves.differentiable(descent_grads)
  grads = descent_grads
  if second_order and not is_plain:
    term = _second_order_term(
      perturbation,
      lambda p: gradient_at(whole.replaced(p)),
      ascent_grads,
      trained,
      # Whoever shares epsilon is moved by it: the mean of their gradients.
      ascent_reduce(descent_grads),
    )
    grads = jax.tree.map(tree.add, grads, term)
  grads = combine(ascent_grads, grads)
  value, aux = perturbed_out if has_aux else (perturbed_out, None)
  filled = (
    leaves.with_float0(values, full)
    for values in (grads, ascent_grads, descent_grads, epsilon)
  )
  grads, ascent_grads, descent_grads, epsilon = filled
  return out, grads, SamInfo(value, aux, ascent_grads, descent_grads, epsilon)


def grad(
  fun: Callable[..., Any],
  perturbation: types.Perturbation,
  *,
  has_aux: bool = False,
  **options: Any,
) -> Callable[..., Any]:
  """Returns a function for the sharpness-aware gradient of fun alone.

  Args:
    fun: scalar function of a tree of parameters and further arguments.
    perturbation: `(grads, params) -> epsilon`.
    has_aux: whether `fun` returns `(value, aux)`.
    **options: those of `value_and_grad`, without `with_info`.

  Returns:
    A function that returns `grads`, or `(grads, aux)` with `has_aux`, as
    `jax.grad` does.

  Raises:
    TypeError: `with_info` is given: use `value_and_grad`.

  Example:
    >>> import jax.numpy as jnp, sam_jax
    >>> print(sam_jax.grad(lambda w: w @ w / 2, sam_jax.l2(0.5))(
    ...   jnp.array([3.0, 4.0])))
    [3.3 4.4]
  """
  if 'with_info' in options:
    raise TypeError('grad takes no with_info; use value_and_grad for it')
  value_and_grad_fn = value_and_grad(
    fun, perturbation, has_aux=has_aux, **options
  )

  @functools.wraps(fun)
  def sam_grad(params: types.Params, /, *args: Any, **kwargs: Any) -> Any:
    out, grads = value_and_grad_fn(params, *args, **kwargs)
    return (grads, out[1]) if has_aux else grads

  return sam_grad


def _fraction(epsilon: types.PyTree, steps: int) -> types.PyTree:
  """Returns a steps-th of epsilon."""
  if steps == 1:
    return epsilon
  return jax.tree.map(lambda e: (tree.wide(e) / steps).astype(e.dtype), epsilon)


def _second_order_term(
  perturbation: types.Perturbation,
  gradient_fn: Callable[[types.Params], types.Grads],
  ascent_grads: types.Grads,
  params: types.Params,
  descent_grads: types.Grads,
) -> types.Grads:
  """Returns the transposed derivative of epsilon, times the descent gradient.

  epsilon depends on the parameters by the gradient, whose derivative is the
  Hessian, and perhaps directly.
  """
  epsilon, transposed = jax.vjp(perturbation, ascent_grads, params)
  along, direct = transposed(
    jax.tree.map(
      lambda e, g: None if e is None else g.astype(e.dtype),
      epsilon,
      descent_grads,
      is_leaf=lambda x: x is None,
    )
  )
  along = jax.tree.map(tree.vary_like, along, params)
  _, through_gradient = jax.jvp(gradient_fn, (params,), (along,))
  return jax.tree.map(tree.add, through_gradient, direct)


def _check_differentiated_locally(params: types.Params, out: Any) -> None:
  """Refuses gradients that JAX has summed over devices.

  Raises:
    ValueError: the message has the line to write.
  """
  axes = tree.varying(jax.tree.leaves(out)[0])
  for leaf in jax.tree.leaves(params):
    if missing := tuple(sorted(axes - tree.varying(leaf))):
      raise ValueError(
        f'the loss varies over the mesh axes {missing} but the parameters are '
        'replicated over them, so JAX sums their gradient over those devices '
        'before SAM normalises it; differentiate with respect to the copy of '
        'each device, and update the parameters themselves: local = '
        f"jax.tree.map(lambda p: jax.lax.pcast(p, {missing}, to='varying'), "
        'params)'
      )


def _check_slices(
  grads: types.Grads, out: Any, perturbation: types.Perturbation
) -> None:
  """Refuses a norm of the slices of one device in place of the parameters'.

  The gradients of slices differ from device to device, and the loss does not.

  Raises:
    ValueError: the message has the call to write.
  """
  if perturbation is perturbations.none:
    return
  axes = frozenset().union(*map(tree.varying, jax.tree.leaves(grads)))
  axes -= tree.varying(jax.tree.leaves(out)[0])
  if split := tuple(
    sorted(axes.difference(perturbations.axes_of(perturbation)))
  ):
    raise ValueError(
      f'the parameters vary over the mesh axes {split} and the value of the '
      'loss does not: if each device has slices of them, the norm has to be '
      f'that of all slices, sam_jax.l2(rho, axis_name={split}); if each has a '
      'copy, differentiate the loss of its own examples'
    )
